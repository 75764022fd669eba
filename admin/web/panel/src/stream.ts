// Topics of the server's one event stream, for components. A SharedWorker holds it; without one, this page does.
import { useEffect, useRef } from "preact/hooks";
import { store, useStore } from "./store";
import { Hub, topicOf, type StreamMessage } from "./stream-hub";

const handlers = new Map<string, Set<(data: never) => void>>();
/** Whether the stream is there: null before it was first tried. */
const connected = store<boolean | null>(null);
export const useConnected = (): boolean | null => useStore(connected);

/** Counts how often the stream was opened: between two, something may have been missed. */
const opened = store(0);
export const useOpened = (): number => useStore(opened);

function heard(message: StreamMessage): void {
  if ("state" in message) {
    connected.set(message.state === "open");
    if (message.state === "open") opened.set(opened.get() + 1);
    return;
  }
  const wanted = handlers.get(topicOf(message.data));
  if (!wanted) return;
  const data = JSON.parse(message.data) as never;
  for (const handle of [...wanted]) handle(data);
}

type Want = (topics: string[] | null) => void;
let want: Want | undefined;
let due = false;

function connect(): Want {
  try {
    const worker = new SharedWorker(new URL("./stream-worker.ts", import.meta.url), { type: "module", name: "rejoinder-stream" });
    worker.port.onmessage = ({ data }: MessageEvent<StreamMessage>) => heard(data);
    worker.port.start();
    const tell: Want = (topics) => worker.port.postMessage({ topics });
    addEventListener("pagehide", () => tell(null));
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
    return tell;
  } catch {
    const hub = new Hub((url) => new EventSource(url));
    return (topics) => (topics ? hub.want(heard, topics) : hub.leave(heard));
  }
}

function changed(): void {
  if (due) return;
  due = true;
  queueMicrotask(() => {
    due = false;
    (want ??= connect())([...handlers.keys()]);
  });
}

export function listen<T>(topic: string, handle: (data: T) => void): () => void {
  let wanted = handlers.get(topic);
  if (!wanted) { handlers.set(topic, wanted = new Set()); changed(); }
  wanted.add(handle as (data: never) => void);
  return () => {
    wanted.delete(handle as (data: never) => void);
    if (wanted.size === 0 && handlers.get(topic) === wanted) { handlers.delete(topic); changed(); }
  };
}

/** Calls `handler` (the newest) with each message of `topic`; none if null. */
export function useTopic<T>(topic: string | null, handler: (data: T) => void): void {
  const newest = useRef(handler);
  newest.current = handler;
  useEffect(() => (topic === null ? undefined : listen<T>(topic, (data) => newest.current(data))), [topic]);
}
