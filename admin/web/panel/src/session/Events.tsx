// The event log: filtered by type and words, one event opened at a time, marked where the playhead is.
import { useMemo, useRef, useState } from "preact/hooks";
import { useQuery } from "../router";
import { S } from "../strings/session";
import type { ServerEvent } from "../types";
import { Button, Copy, Empty, Field, Json, Scroll, Select, Time } from "../ui";
import { copy } from "../ui/Values";

const AT_ONCE = 200;
const HEAD = new Set(["type", "seq", "at", "session_id"]);

export function Events({ events, start, atSeq, onSeek, version }: {
  events: readonly ServerEvent[]; start: number; atSeq: number; onSeek: (at: number) => void; version: number;
}) {
  const query = useQuery();
  const type = query.get("type"), text = query.get("contains");
  const [shown, setShown] = useState(AT_ONCE);
  const [open, setOpen] = useState<number>();
  const types = useMemo(() => [...new Set(events.map((one) => one.type))].sort(), [events, version]);
  const wanted = text.toLowerCase();
  const found = events.filter((one) => (!type || (type === "-" ? one.type !== "reply.text" : one.type === type)) && (!wanted || JSON.stringify(one).toLowerCase().includes(wanted)));
  const body = useRef<HTMLTableSectionElement>(null);
  return (
    <div class="stack">
      <div class="row events-tools">
        <Select label={S.filterType} hideLabel value={type} onValue={(value) => query.set({ type: value })}
          options={[{ value: "", label: `${S.allTypes} (${events.length})` }, { value: "-", label: S.noDeltas }, ...types.map((value) => ({ value, label: value }))]} />
        <Field label={S.filterText} hideLabel placeholder={S.filterText} type="search" value={text} onValue={(value) => query.set({ contains: value })} />
        <span class="spacer" />
        <Button icon="copy" size="s" onClick={() => void copy(JSON.stringify(found, null, 2))}>{S.copyEvents}</Button>
      </div>
      {found.length === 0 ? <Empty title={S.noEvents} /> : (
        <div class="card flush">
          <Scroll label={S.events}><table class="table events">
            <caption class="hidden-visually">{S.events}</caption>
            <tbody ref={body}>
              {found.slice(0, shown).map((event) => (
                <EventRow key={event.seq} event={event} start={start} open={open === event.seq} now={event.seq === atSeq}
                  onOpen={() => setOpen(open === event.seq ? undefined : event.seq)} onSeek={onSeek} />
              ))}
            </tbody>
          </table></Scroll>
          {found.length > shown && <div class="table-foot"><Button size="s" onClick={() => setShown(shown + 1000)}>{S.moreEvents(found.length - shown)}</Button></div>}
        </div>
      )}
    </div>
  );
}

function EventRow({ event, open, now, onOpen, onSeek }: {
  event: ServerEvent; start: number; open: boolean; now: boolean; onOpen: () => void; onSeek: (at: number) => void;
}) {
  return (
    <>
      <tr class={now ? "current" : ""} aria-current={now || undefined}>
        <td class="right quiet">{event.seq}</td>
        <td><button type="button" class="said-time" onClick={() => onSeek(event.at)}><Time at={event.at} mode="ms" /></button></td>
        <td><button type="button" class="event-type" aria-expanded={open} aria-label={S.showEvent(event.type, event.seq)} onClick={onOpen}>{event.type}</button></td>
        <td class="grow quiet wide-only">{brief(event)}</td>
      </tr>
      {open && <tr class="event-open"><td colSpan={4}><div class="event-json"><Json value={event} /><Copy label={S.copyEvent} text={JSON.stringify(event, null, 2)} /></div></td></tr>}
    </>
  );
}

/** The fields that tell most, in a line. */
export function brief(event: ServerEvent): string {
  const parts: string[] = [];
  for (const [name, value] of Object.entries(event)) {
    if (HEAD.has(name) || name.endsWith("_id") || value === null || value === "" || (Array.isArray(value) && value.length === 0)) continue;
    parts.push(typeof value === "object" ? `${name}: ${JSON.stringify(value)}` : typeof value === "string" ? `${name}: "${value}"` : `${name}: ${String(value)}`);
    if (parts.join().length > 200) break;
  }
  return parts.join("  ").slice(0, 240);
}
