// Fetches a session with its events, and keeps it as it goes on.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, url } from "../api";
import { useOpened, useTopic } from "../stream";
import type { EventPage, Message, ServerEvent, SessionDetail, Turn } from "../types";
import { Log } from "./log";

const PAGE = 1000;
const MOST_EVENTS = 20_000;
const AGAIN_MS = 1_500;

/** All events after `seq`, page by page; `each` gets them as they come. */
export async function fetchEvents(id: string, seq: number, each: (events: ServerEvent[]) => void, signal: AbortSignal): Promise<void> {
  for (let after = seq, n = 0; n < MOST_EVENTS;) {
    const page = await get<EventPage>(url(`/v1/sessions/${id}/events`, { limit: PAGE, after }), signal);
    each(page.items);
    n += page.items.length;
    if (page.next_cursor === null) return;
    after = page.next_cursor;
  }
}

export interface Followed {
  /** Changes with each batch of events. */
  version: number;
  log: Log;
  loaded: boolean;
  error: ApiError | undefined;
  over: boolean;
}

/** The events of a session: the log first, then, while it is `live`, what happens. */
export function useEvents(id: string, live: boolean): Followed {
  const [state, setState] = useState<Omit<Followed, "log">>({ version: 0, loaded: false, error: undefined, over: false });
  const log = useRef<{ id: string; log: Log; early: ServerEvent[] | null }>({ id, log: new Log(), early: [] });
  if (log.current.id !== id) log.current = { id, log: new Log(), early: [] };
  const [again, setAgain] = useState(0);
  const opened = useOpened();
  const drawn = useRef(0);

  // Many events come within one frame: they are drawn once.
  const redraw = () => { drawn.current ||= requestAnimationFrame(() => { drawn.current = 0; setState((was) => ({ ...was, version: was.version + 1 })); }); };
  useEffect(() => () => cancelAnimationFrame(drawn.current), []);

  useEffect(() => {
    const stop = new AbortController(), mine = log.current;
    mine.early ??= [];
    fetchEvents(id, mine.log.lastSeq, (events) => { for (const one of events) mine.log.add(one); redraw(); }, stop.signal).then(() => {
      const early = mine.early ?? [];
      mine.early = null;
      let whole = true;
      for (const one of early) {
        if (one.seq > mine.log.lastSeq + 1) { whole = false; break; }
        mine.log.add(one);
      }
      setState((was) => ({ ...was, version: was.version + 1, loaded: true, error: undefined }));
      if (!whole) setAgain((n) => n + 1);
    }, (error: unknown) => {
      if (stop.signal.aborted) return;
      setState((was) => ({ ...was, loaded: true, error: error as ApiError }));
    });
    return () => stop.abort();
    // What happened before the stream was open is in the log only.
  }, [id, again, live ? opened : 0]);

  useTopic<{ event?: ServerEvent; over?: boolean; lagging?: boolean }>(live ? `session:${id}` : null, (message) => {
    const mine = log.current;
    if (message.over) {
      setState((was) => ({ ...was, over: true }));
      // Its last events may still be on their way into the log.
      setTimeout(() => setAgain((n) => n + 1), AGAIN_MS);
    } else if (message.lagging) setAgain((n) => n + 1);
    else if (message.event) {
      if (mine.early) mine.early.push(message.event);
      else if (message.event.seq > mine.log.lastSeq + 1) { mine.early = [message.event]; setAgain((n) => n + 1); }
      else if (mine.log.add(message.event)) redraw();
    }
  });
  return { ...state, log: log.current.log };
}

/** The turns of a session: as stored, with what is newer in the events. */
export function mergeTurns(stored: readonly Turn[], log: Log): Turn[] {
  if (stored.length === 0) return log.turns;
  const newer = new Map(log.turns.map((turn) => [turn.id, turn]));
  const merged = stored.map((turn) => {
    const seen = newer.get(turn.id);
    newer.delete(turn.id);
    // What is stored is the whole truth once the reply is over; before that the events know more.
    return seen && (turn.reply_reason === null || (turn.response_us === null && seen.response_us !== null)) ? { ...turn, ...seen, number: turn.number } : turn;
  });
  return [...merged, ...newer.values()];
}

/** All of a session as one JSON. */
export function report(detail: SessionDetail, events: readonly ServerEvent[], llm: unknown): object {
  const { messages, turns, ...rest } = detail;
  return { ...rest, turns, messages: messages as Message[], events, llm_requests: llm };
}
