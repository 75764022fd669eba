// How values are shown: spans of time with their grade, moments, JSON, text to copy.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { ago, fullOf, grade, ms, shortOf, timeMsOf, timeOf, BUDGET_MS } from "../format";
import { zone } from "../prefs";
import { useStore } from "../store";
import { S } from "../strings/ui";
import type { Json as JsonValue } from "../types";
import { IconButton } from "./Button";
import { Icon } from "./Icon";
import { toast, toastError } from "./Toast";

const GRADES = { good: { icon: "check", label: S.within }, warn: { icon: "warn", label: S.slow }, bad: { icon: "bad", label: S.tooSlow } } as const;

/** Microseconds with their grade by the budget: a colour and an icon. */
export function Ms({ us, budget = BUDGET_MS }: { us: number | null | undefined; budget?: number }) {
  if (us === null || us === undefined) return <span class="none" title={S.none}>–</span>;
  const how = grade(us, budget), shown = GRADES[how];
  return <span class={`ms ${how}`} title={S.budgetOf(budget)}><Icon name={shown.icon} size={12} label={shown.label} />{ms(us)}</span>;
}

/** A moment (Unix ms), local or UTC as chosen; the whole of it on hovering. */
export function Time({ at, mode = "short" }: { at: number | null | undefined; mode?: "short" | "full" | "time" | "ms" | "ago" }) {
  const where = useStore(zone);
  if (at === null || at === undefined) return <span class="none">–</span>;
  const text = { short: shortOf, full: fullOf, time: timeOf, ms: timeMsOf, ago: (a: number) => ago(a) }[mode](at, where);
  return <time dateTime={new Date(at).toISOString()} title={fullOf(at, where)}>{text}</time>;
}

/** JSON as a tree that opens and closes; text nodes only. */
export function Json({ value, open = 2, name }: { value: JsonValue; open?: number; name?: string }) {
  return <div class="json"><Node value={value} open={open} name={name} /></div>;
}

const MOST = 100;

function Node({ value, open, name }: { value: JsonValue; open: number; name: string | undefined }): ComponentChildren {
  const [all, setAll] = useState(false);
  const [opened, setOpened] = useState(open > 0);
  const key = name === undefined ? null : <><span class="json-key">{name}</span>: </>;
  if (value === null || typeof value !== "object") {
    return <div class="json-leaf">{key}<span class={`json-${value === null ? "null" : typeof value}`}>{typeof value === "string" ? JSON.stringify(value) : String(value)}</span></div>;
  }
  const list = Array.isArray(value);
  const entries: [string, JsonValue][] = Object.entries(value);
  if (entries.length === 0) return <div class="json-leaf">{key}{list ? "[]" : "{}"}</div>;
  const shown = all ? entries : entries.slice(0, MOST);
  return (
    <details open={opened} onToggle={(event) => setOpened(event.currentTarget.open)}>
      <summary>{key}<span class="json-sum">{list ? `[${entries.length}]` : `{${entries.slice(0, 4).map(([k]) => k).join(", ")}${entries.length > 4 ? ", ..." : ""}}`}</span></summary>
      {opened && shown.map(([k, v]) => <Node key={k} name={k} value={v} open={open - 1} />)}
      {opened && entries.length > shown.length && <button type="button" class="link" onClick={() => setAll(true)}>{S.jsonMore(entries.length - shown.length)}</button>}
    </details>
  );
}

export async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    toast(S.copied);
  } catch {
    toastError(S.copyFailed);
  }
}

/** Copies `text`; where the clipboard is out of reach (plain http) it says so. */
export function Copy({ text, label = S.copy }: { text: string | (() => string); label?: string }) {
  return <IconButton icon="copy" size="s" label={label} onClick={() => void copy(typeof text === "string" ? text : text())} />;
}
