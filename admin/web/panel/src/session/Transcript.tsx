// What was said, turn by turn: what was heard and what not, tools, how long it took; a click goes there.
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { clock, duration, ms } from "../format";
import { S } from "../strings/session";
import type { Json as JsonValue, ToolCall, Turn } from "../types";
import { Badge, Icon, Json, Ms, Time } from "../ui";
import { splitHeard } from "./heard";
import type { Log } from "./log";

export interface TranscriptProps {
  turns: readonly Turn[];
  /** Unix ms of the timeline's beginning. */
  start: number;
  /** Of what is said now: the turn at the playhead, marked and kept in sight. */
  current?: string | null;
  /** The turn whose waterfall is open. */
  open?: string | null;
  onOpen?: (turn: string) => void;
  onSeek?: (at: number) => void;
  /** Unix ms of when each side of a turn was said. */
  placeOf?: (turn: Turn, side: "user" | "agent") => number;
  /** Of a live session: what is going on. */
  log?: Log | undefined;
  live?: boolean;
}

export function Transcript({ turns, start, current = null, open = null, onOpen, onSeek, placeOf, log, live = false }: TranscriptProps) {
  const list = useRef<HTMLOListElement>(null);
  useEffect(() => {
    if (current === null) return;
    list.current?.querySelector(`[data-turn="${CSS.escape(current)}"]`)?.scrollIntoView({ block: "nearest" });
  }, [current]);
  const doing = live && log ? log.doing : null;
  return (
    <>
      <ol class="transcript" ref={list}>
        {turns.map((turn) => {
          const at = (side: "user" | "agent") => placeOf?.(turn, side) ?? turn.committed_at;
          return (
            <li key={turn.id} class={`turn ${turn.id === current ? "current" : ""} ${turn.id === open ? "opened" : ""}`} data-turn={turn.id} aria-current={turn.id === current || undefined}>
              {turn.user_text !== null && <Said side="user" who={S.user} at={at("user")} start={start} onSeek={onSeek}><p>{turn.user_text}</p></Said>}
              {turn.tool_calls.map((call) => <Tool key={`${call.reply_id} ${call.id}`} call={call} />)}
              {(turn.reply_text || turn.reply_reason) && (
                <Said side={log?.spokenBy.has(turn.id) ? "operator" : "agent"} who={log?.spokenBy.get(turn.id) ?? S.agent} at={at("agent")} start={start} onSeek={onSeek} extra={<Extra turn={turn} open={turn.id === open} onOpen={onOpen} operator={log?.spokenBy.has(turn.id) ?? false} />}>
                  <Reply turn={turn} />
                </Said>
              )}
              {!turn.reply_text && !turn.reply_reason && turn.response_us !== null && <Extra turn={turn} open={turn.id === open} onOpen={onOpen} />}
            </li>
          );
        })}
        {log?.partial && live && <li class="turn"><Said side="user" who={S.user} at={null} start={start}><p class="partial">{log.partial.text || S.speaking}</p></Said></li>}
        {doing === "thinking" && <li class="turn"><Said side="agent" who={S.agent} at={null} start={start}><p class="partial">{S.thinking}</p></Said></li>}
        {doing === "tool" && <li class="turn"><Said side="agent" who={S.agent} at={null} start={start}><p class="partial">{S.callsTool}</p></Said></li>}
      </ol>
      {turns.length === 0 && !log?.partial && <p class="quiet transcript-none">{S.noTurns}</p>}
    </>
  );
}

function Said({ side, who, at, start, onSeek, extra, children }: {
  side: "user" | "agent" | "operator"; who: string; at: number | null; start: number; onSeek?: ((at: number) => void) | undefined;
  extra?: ComponentChildren; children: ComponentChildren;
}) {
  const time = at === null ? null : clock(at - start);
  const seek = (event: MouseEvent) => {
    if (at === null || !onSeek || getSelection()?.toString() || (event.target as Element).closest("button, summary, a")) return;
    onSeek(at);
  };
  return (
    <div class={`said ${side} ${onSeek ? "seeks" : ""}`} onClick={seek}>
      <div class="said-head">
        <span class={`said-who ${side}`}>{who}</span>
        {time !== null && at !== null && (onSeek
          ? <button type="button" class="said-time" aria-label={S.seekTo(time)} onClick={() => onSeek(at)}>{time}</button>
          : <span class="said-time"><Time at={at} mode="time" /></span>)}
        {extra}
      </div>
      {children}
    </div>
  );
}

function Reply({ turn }: { turn: Turn }) {
  const { heard, unheard } = splitHeard(turn.reply_text ?? "", turn.heard_text);
  return <p>{heard}{unheard.trim() && <del title={S.unheardHint}><span class="hidden-visually">{S.unheard}</span>{unheard}</del>}</p>;
}

function Extra({ turn, open, onOpen, operator = false }: { turn: Turn; open: boolean; onOpen: ((turn: string) => void) | undefined; operator?: boolean }) {
  return (
    <>
      {turn.response_us !== null && (onOpen
        ? <button type="button" class="chip" aria-expanded={open} aria-label={S.whyTurn(ms(turn.response_us))} onClick={() => onOpen(turn.id)}><Ms us={turn.response_us} /></button>
        : <Ms us={turn.response_us} />)}
      {turn.user_text === null && !operator && <Badge>{S.unprompted}</Badge>}
      {turn.reply_reason === "interrupted" && <Badge tone="warn" icon="bolt">{S.interrupted}</Badge>}
      {turn.reply_reason === "failed" && <Badge tone="bad" icon="bad">{S.failed}</Badge>}
      {turn.reply_reason === "ended" && <Badge>{S.ended}</Badge>}
    </>
  );
}

export function Tool({ call }: { call: ToolCall }) {
  const status = call.status ?? "";
  return (
    <details class="tool">
      <summary>
        <Icon name="tool" size={14} /> <span class="mono">{call.name}</span>
        <Badge tone={status === "failed" ? "bad" : status === "ok" ? "good" : "plain"}>{S.toolStatus[status] ?? S.toolRuns}</Badge>
        {call.returned_at !== null && <span class="quiet">{call.returned_at - call.called_at < 1000 ? `${call.returned_at - call.called_at} ms` : duration(call.returned_at - call.called_at)}</span>}
      </summary>
      <div class="tool-body">
        <h4>{S.toolArguments}</h4><Text text={call.arguments} />
        {call.result !== null && <><h4>{S.toolResult}</h4><Text text={call.result} /></>}
      </div>
    </details>
  );
}

/** JSON as a tree where it is some, else as it is. */
function Text({ text }: { text: string }) {
  let value: JsonValue | undefined;
  try { value = JSON.parse(text) as JsonValue; } catch { /* it is plain text */ }
  return value !== null && typeof value === "object" ? <Json value={value} /> : <pre>{text}</pre>;
}
