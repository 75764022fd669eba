// <rejoinder-talk>: a button to talk, what is going on, how loud it is, and (in a slot) what was said.
import { RejoinderClient, type ClientOptions } from "./client";
import { ClientError } from "./errors";
import type { ServerEvent } from "./events";

const CSS = `
:host { display: inline-flex; flex-direction: column; gap: .5rem; align-items: flex-start; max-width: 100%; font: inherit; color-scheme: light dark;
  --_accent: var(--rejoinder-accent, light-dark(#3553c4, #9db2ff)); --_on: var(--rejoinder-on-accent, light-dark(#fff, #10172f)); }
:host([hidden]) { display: none; }
.row { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; }
button { position: relative; display: inline-flex; gap: .5rem; align-items: center; min-height: 2.75rem; padding: 0 1.1rem; overflow: hidden; font: inherit;
  font-weight: 600; color: var(--_on); cursor: pointer; background: var(--_accent); border: 0; border-radius: var(--rejoinder-radius, 2rem); }
button:focus-visible { outline: 2px solid var(--_accent); outline-offset: 2px; }
button:disabled { cursor: progress; opacity: .6; }
.level { flex: none; width: 2.5rem; height: .35rem; overflow: hidden; background: color-mix(in srgb, currentcolor 18%, transparent); border-radius: 1rem; }
.level::after { display: block; height: 100%; content: ""; background: var(--_accent); transform: scaleX(var(--level, 0)); transform-origin: left; }
:host(:not([state="connected"])) .level { visibility: hidden; }
.state { font-size: .875em; }
.captions { max-width: 34rem; font-size: .9375em; }
.captions p { margin: .25rem 0; }
.captions .user { opacity: .75; }
.captions:empty { display: none; }
`;

export const ELEMENT_TEXT = {
  talk: "Talk", end: "End", connecting: "Connecting ...", reconnecting: "The connection is lost; trying again ...",
  listening: "Listening", thinking: "One moment ...", speaking: "Speaking", over: "The conversation is over.", recorded: "This conversation is recorded.",
  operator: "A person has taken over.",
};

const Base = (globalThis.HTMLElement ?? class {}) as typeof HTMLElement;

/**
 * Attributes: `src` (the link of a room's page, or an endpoint to POST to that answers with a room), `agent`, `label`,
 * `worklets`. Parts: `button`, `state`, `level`, `captions`. Slot `captions`: an element there is filled instead of the
 * own one. Every server event is dispatched as `rejoinder-event` (its `detail`), every problem as `rejoinder-problem`.
 */
export class RejoinderTalk extends Base {
  static readonly observedAttributes = ["label"];
  /** The words it shows; change them before the first one is made. */
  static text = ELEMENT_TEXT;

  client: RejoinderClient | null = null;
  private readonly button: HTMLButtonElement;
  private readonly state: HTMLElement;
  private readonly level: HTMLElement;
  private readonly own: HTMLElement;
  private readonly slotted: HTMLSlotElement;
  private lines = new Map<string, HTMLElement>();

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
    root.adoptedStyleSheets = [sheet];
    const make = <K extends keyof HTMLElementTagNameMap>(tag: K, part: string): HTMLElementTagNameMap[K] => {
      const made = document.createElement(tag);
      made.className = part;
      made.part = part;
      return made;
    };
    const row = make("div", "row");
    this.button = make("button", "button");
    this.button.type = "button";
    this.button.onclick = () => (this.client ? this.stop() : void this.start());
    this.level = make("span", "level");
    this.level.ariaHidden = "true";
    this.state = make("span", "state");
    this.state.role = "status";
    this.own = make("div", "captions");
    this.own.role = "log";
    this.slotted = document.createElement("slot");
    this.slotted.name = "captions";
    this.slotted.append(this.own);
    row.append(this.button, this.level, this.state);
    root.append(row, this.slotted);
    this.show();
  }

  attributeChangedCallback(): void {
    this.show();
  }

  disconnectedCallback(): void {
    this.stop();
  }

  /** Begin to talk; call it while a gesture of the user is being handled. */
  async start(): Promise<void> {
    if (this.client) return;
    const client = (this.client = new RejoinderClient(this.options()));
    client.on("state", (state) => {
      this.setAttribute("state", state);
      if (state === "closed" && this.client === client) this.client = null;
      this.show(state === "connecting" || state === "reconnecting" ? RejoinderTalk.text[state] : undefined);
    });
    client.on("event", (event) => this.take(event));
    client.on("problem", (problem) => this.complain(problem));
    client.on("sound", (plays) => plays && this.show(RejoinderTalk.text.listening));
    client.on("level", ({ rms }) => this.level.style.setProperty("--level", String(Math.min(1, rms * 5))));
    this.captions.replaceChildren();
    this.lines.clear();
    try {
      await client.connect();
    } catch (error) {
      this.complain(error as ClientError);
    }
  }

  /** Stop talking. A session that was made for this conversation is ended. */
  stop(): void {
    const { client } = this;
    this.client = null;
    if (client?.target?.made) client.end();
    else client?.close();
    this.show();
  }

  private options(): ClientOptions {
    const [src, agent, worklets] = ["src", "agent", "worklets"].map((name) => this.getAttribute(name) ?? undefined);
    const where = src === undefined ? {} : /#.*session=/.test(src) ? { link: new URL(src, location.href).href } : { endpoint: new URL(src, location.href).href };
    return { ...where, ...(agent === undefined ? {} : { agent }), ...(worklets === undefined ? {} : { worklets }) };
  }

  private get captions(): Element {
    return this.slotted.assignedElements()[0] ?? this.own;
  }

  private take(event: ServerEvent): void {
    const { text } = RejoinderTalk;
    this.dispatchEvent(new CustomEvent("rejoinder-event", { detail: event }));
    switch (event.type) {
      case "session.started": return this.show(event.operator ? text.operator : event.recorded ? text.recorded : text.listening);
      case "user.speech_started": return this.show(text.listening);
      case "user.transcript": return event.text ? this.line(event.turn_id, "user", event.text) : undefined;
      case "turn.committed":
        this.line(event.turn_id, "user", event.text);
        return this.show(text.thinking);
      case "reply.text":
        this.line(event.reply_id, "agent", (this.lines.get(event.reply_id)?.textContent ?? "") + event.delta);
        return this.show(text.speaking);
      case "reply.finished":
        this.line(event.reply_id, "agent", event.reason === "completed" ? event.text : event.heard_text);
        return this.show(text.listening);
      case "operator.took_over": return this.show(text.operator);
      case "session.ended": return this.show(text.over);
    }
  }

  private line(id: string, who: "user" | "agent", words: string): void {
    let line = this.lines.get(id);
    if (!line) {
      line = document.createElement("p");
      line.className = who;
      line.part = `caption ${who}`;
      this.lines.set(id, line);
      this.captions.append(line);
    }
    line.textContent = words;
  }

  private complain(problem: ClientError): void {
    this.show(`${problem.message} ${problem.fix}`);
    this.dispatchEvent(new CustomEvent("rejoinder-problem", { detail: problem }));
  }

  private show(words = ""): void {
    const { text } = RejoinderTalk;
    this.button.textContent = this.client ? text.end : this.getAttribute("label") || text.talk;
    this.button.disabled = this.client?.state === "connecting";
    this.state.textContent = words;
  }
}

if (globalThis.customElements && !customElements.get("rejoinder-talk")) customElements.define("rejoinder-talk", RejoinderTalk);
