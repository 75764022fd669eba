// Two JSON values side by their lines: what went, what came, in colour and with a sign.
import { hunks, lineDiff, pretty } from "../diff";
import { S } from "../strings/agents";
import type { Json } from "../types";
import "./agents.css";

const SIGN = { same: " ", gone: "−", new: "+" } as const;

export function DiffView({ before, after, label }: { before: Json | undefined; after: Json | undefined; label: string }) {
  const found = hunks(lineDiff(pretty(before), pretty(after)));
  if (found.length === 0) return <p class="quiet">{S.same}</p>;
  return (
    <div class="diff" role="region" tabIndex={0} aria-label={label}>
      <table>
        <tbody>
          {found.map((hunk, i) => <>
            {hunk.skipped > 0 && <tr key={`skip ${i}`} class="skip"><td colSpan={4}>{S.skipped(hunk.skipped)}</td></tr>}
            {hunk.lines.map((line) => (
              <tr key={`${line.before} ${line.after}`} class={line.kind}>
                <td class="no">{line.before}</td>
                <td class="no">{line.after}</td>
                <td class="sign"><span aria-hidden="true">{SIGN[line.kind]}</span>{line.kind !== "same" && <span class="hidden-visually">{line.kind === "gone" ? S.gonePrefix : S.newPrefix}</span>}</td>
                <td class="text">{line.text}</td>
              </tr>
            ))}
          </>)}
        </tbody>
      </table>
    </div>
  );
}

/** How many lines came and went. */
export function changes(before: Json | undefined, after: Json | undefined): { added: number; gone: number } {
  const lines = lineDiff(pretty(before), pretty(after));
  return { added: lines.filter((line) => line.kind === "new").length, gone: lines.filter((line) => line.kind === "gone").length };
}
