// Who wants which topics, and one EventSource for all of them; opened anew when the topics change.

export type Tell = (message: StreamMessage) => void;
export type StreamMessage = { data: string } | { state: "open" | "lost" };

interface Source {
  onmessage: ((event: MessageEvent<string>) => void) | null;
  onopen: ((event: Event) => void) | null;
  onerror: ((event: Event) => void) | null;
  readonly readyState: number;
  close(): void;
}

const CLOSED = 2;
const RETRY_MS = 3_000;

export class Hub {
  #wants = new Map<Tell, Set<string>>();
  #source: Source | null = null;
  #topics = "";
  #retry: ReturnType<typeof setTimeout> | undefined;
  #due = false;
  readonly #open: (url: string) => Source;

  constructor(open: (url: string) => Source) { this.#open = open; }

  want(tell: Tell, topics: readonly string[]): void {
    this.#wants.set(tell, new Set(topics));
    this.#later();
  }

  leave(tell: Tell): void {
    this.#wants.delete(tell);
    this.#later();
  }

  /** Several changes at once (a page goes, another comes) are one. */
  #later(): void {
    if (this.#due) return;
    this.#due = true;
    queueMicrotask(() => { this.#due = false; this.#change(); });
  }

  #change(again = false): void {
    const topics = [...new Set([...this.#wants.values()].flatMap((one) => [...one]))].sort().join(",");
    if (topics === this.#topics && !again) return;
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#source = null;
    this.#topics = topics;
    if (!topics) return;
    const source = this.#open(`/v1/stream?topics=${encodeURIComponent(topics)}`);
    this.#source = source;
    source.onopen = () => this.#all({ state: "open" });
    source.onmessage = ({ data }) => {
      const topic = topicOf(data);
      for (const [tell, wanted] of this.#wants) if (wanted.has(topic)) tell({ data });
    };
    source.onerror = () => {
      this.#all({ state: "lost" });
      // Refused (no login any more, too many streams): the browser does not try again by itself.
      if (source.readyState === CLOSED) this.#retry = setTimeout(() => this.#change(true), RETRY_MS);
    };
  }

  #all(message: StreamMessage): void {
    for (const tell of this.#wants.keys()) tell(message);
  }
}

/** The topic of a message's JSON, without reading all of it: it stands first. */
export function topicOf(data: string): string {
  return /^\{"topic":"([^"\\]*)"/.exec(data)?.[1] ?? (JSON.parse(data) as { topic: string }).topic;
}
