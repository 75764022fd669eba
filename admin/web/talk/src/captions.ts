// The conversation in writing: what both sides said, as it was heard. It knows nothing of connections.
import type { ReplyFinished, ServerEvent, TurnMetrics } from "../../client/src/events";
import { SPANS, TEXT } from "./strings";

interface Bubble { article: HTMLElement; words: HTMLElement; foot: HTMLElement | null }

export class Captions {
  private readonly bubbles = new Map<string, Bubble>();
  private readonly tools = new Map<string, { note: HTMLElement; name: string }>();

  constructor(private readonly log: HTMLElement) {}

  clear(): void {
    this.log.replaceChildren();
    this.bubbles.clear();
    this.tools.clear();
  }

  get isEmpty(): boolean {
    return this.log.childElementCount === 0;
  }

  show(event: ServerEvent): void {
    switch (event.type) {
      case "user.transcript":
        if (event.text) this.say(event.turn_id, "user", event.text, !event.final);
        else if (event.final) this.drop(event.turn_id);
        break;
      case "turn.committed":
        this.say(event.turn_id, "user", event.text, false);
        break;
      case "reply.started":
        this.bubble(event.reply_id, "agent").article.setAttribute("aria-busy", "true");
        break;
      case "reply.text": {
        const { words } = this.bubble(event.reply_id, "agent");
        this.keepingEnd(() => words.append(event.delta));
        break;
      }
      case "reply.finished":
        this.finish(event);
        break;
      case "turn.metrics":
        this.latency(event);
        break;
      case "tool.called":
        // Above the answer that comes of it.
        this.tools.set(event.call_id, {
          name: event.name,
          note: this.note(TEXT.tool(event.name), "tool", this.bubble(event.reply_id, "agent").article),
        });
        break;
      case "tool.progress": {
        const tool = this.tools.get(event.call_id);
        if (tool) tool.note.textContent = `${TEXT.tool(tool.name)}: ${event.message}`;
        break;
      }
      case "tool.returned": {
        const tool = this.tools.get(event.call_id);
        if (tool) tool.note.textContent = event.status === "failed" ? TEXT.toolFailed(tool.name) : TEXT.tool(tool.name);
        break;
      }
      case "agent.changed":
        this.note(TEXT.handedOver(event.former, event.agent));
        break;
      case "operator.took_over":
        this.note(TEXT.tookOver(event.operator), "operator");
        break;
      case "operator.handed_back":
        this.note(TEXT.handedBack);
        break;
      case "session.ended":
        this.note(TEXT.over);
        break;
    }
  }

  /** A sentence between what is said. */
  note(words: string, kind = "", before: Element | null = null): HTMLElement {
    const note = document.createElement("p");
    note.className = `note ${kind}`;
    note.textContent = words;
    return this.keepingEnd(() => this.log.insertBefore(note, before));
  }

  private say(id: string, who: "user" | "agent", text: string, partial: boolean): void {
    const { article, words } = this.bubble(id, who);
    // Only when it is whole a screen reader reads it.
    if (partial) article.setAttribute("aria-busy", "true");
    this.keepingEnd(() => (words.textContent = text));
    if (!partial) article.removeAttribute("aria-busy");
  }

  private finish(event: ReplyFinished): void {
    const { article, words } = this.bubble(event.reply_id, "agent");
    const text = event.text || words.textContent || "";
    const heard = event.reason === "completed" ? text : event.heard_text;
    this.keepingEnd(() => {
      words.textContent = heard;
      const rest = heard ? unheard(text, heard) : text;
      if (event.reason !== "completed" && rest) {
        const cut = document.createElement("del");
        cut.append(unseen(` (${TEXT.unheard}:) `), rest);
        words.append(cut);
      }
      const { interrupted, failed } = TEXT;
      const remark = event.reason === "interrupted" ? interrupted : event.reason === "failed" ? failed : "";
      if (remark) this.foot(event.reply_id).append(element("span", "remark", remark));
    });
    article.removeAttribute("aria-busy");
    if (!text && !article.textContent?.trim()) this.drop(event.reply_id);
  }

  private latency(event: TurnMetrics): void {
    const found = this.bubbles.get(event.reply_id);
    const ms = Math.round(event.response_us / 1000);
    if (!found || !event.response_us) return;
    const list = element("dl", "spans");
    list.id = `spans-${event.reply_id}`;
    list.hidden = true;
    for (const span of event.spans) {
      const row = element("div", `span ${span.name}`);
      const bar = element("span", "bar");
      bar.style.setProperty("--share", String(span.us / event.response_us));
      const figure = element("dd");
      figure.append(bar, element("span", "", TEXT.ms(Math.round(span.us / 1000))));
      row.append(element("dt", "", SPANS[span.name] ?? span.name), figure);
      list.append(row);
    }
    const button = element("button", "ms", TEXT.ms(ms)) as HTMLButtonElement;
    button.type = "button";
    button.ariaLabel = TEXT.latency(ms);
    button.setAttribute("aria-controls", list.id);
    button.ariaExpanded = "false";
    button.onclick = () => {
      list.hidden = !list.hidden;
      button.ariaExpanded = String(!list.hidden);
      if (!list.hidden) list.scrollIntoView({ block: "nearest" });
    };
    this.keepingEnd(() => {
      this.foot(event.reply_id).prepend(button);
      found.article.append(list);
    });
  }

  private bubble(id: string, who: "user" | "agent"): Bubble {
    let found = this.bubbles.get(id);
    if (!found) {
      const article = element("article", `said ${who}`);
      article.ariaLabel = who === "user" ? TEXT.you : TEXT.agent;
      const words = article.appendChild(element("p"));
      this.keepingEnd(() => this.log.append(article));
      this.bubbles.set(id, (found = { article, words, foot: null }));
    }
    return found;
  }

  private foot(id: string): HTMLElement {
    const found = this.bubble(id, "agent");
    return (found.foot ??= found.article.appendChild(element("footer")));
  }

  private drop(id: string): void {
    this.bubbles.get(id)?.article.remove();
    this.bubbles.delete(id);
  }

  /** Who reads the end goes on reading the end. */
  private keepingEnd<T>(change: () => T): T {
    const { log } = this;
    const near = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
    const result = change();
    if (near) log.scrollTop = log.scrollHeight;
    return result;
  }
}

/** What of `text` comes after `heard`; the two may differ in white space. */
export function unheard(text: string, heard: string): string {
  let at = 0;
  for (const letter of heard.replaceAll(/\s+/g, "")) {
    while (at < text.length && text[at]!.trim() === "") at++;
    if (text[at] !== letter) return "";
    at++;
  }
  return text.slice(at);
}

export function element(tag: string, className = "", text = ""): HTMLElement {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function unseen(text: string): HTMLElement {
  return element("span", "unseen", text);
}
