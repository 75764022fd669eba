// A session's turns, made of its events as they come: the same shape as the server tells of a session that is over.
import type { Doing, ServerEvent, Span, ToolCall, Turn } from "../types";

type Fields = Record<string, never>;

export interface Partial { turn_id: string; text: string }

/** Knows what a session's events so far add up to. Turns that changed are new objects. */
export class Log {
  readonly events: ServerEvent[] = [];
  turns: Turn[] = [];
  /** What the user is saying. */
  partial: Partial | null = null;
  doing: Doing = "listening";
  operator: string | null = null;
  ended: string | null = null;
  agent = "";
  lastSeq = 0;
  /** Who had taken over when a turn's reply was said without being asked: their words. */
  readonly spokenBy = new Map<string, string>();
  #replies = new Map<string, string>();
  #asked = new Map<string, string>();

  /** Takes `event` in; false if it was there already. */
  add(event: ServerEvent): boolean {
    if (event.seq <= this.lastSeq) return false;
    this.lastSeq = event.seq;
    this.events.push(event);
    const e = event as unknown as Fields & ServerEvent;
    switch (event.type) {
      case "session.started": case "agent.changed":
        this.agent = e["agent"]!;
        if (e["operator"]) this.operator = e["operator"]!;
        break;
      case "session.ended": this.ended = e["reason"]!; this.partial = null; break;
      case "operator.took_over": this.operator = e["operator"]!; break;
      case "operator.handed_back": this.operator = null; break;
      case "user.speech_started": this.doing = "user_speaking"; break;
      case "user.speech_paused": if (this.doing === "user_speaking") this.doing = "listening"; break;
      case "user.transcript": this.partial = { turn_id: e["turn_id"]!, text: e["text"]! }; break;
      case "turn.committed":
        this.partial = null;
        this.doing = this.operator === null ? "thinking" : "listening";
        this.#change(e["turn_id"]!, event, { user_text: e["text"]!, committed_at: event.at });
        break;
      case "reply.started":
        this.doing = "speaking";
        this.#replies.set(e["reply_id"]!, e["turn_id"]!);
        if (this.operator !== null) this.spokenBy.set(e["turn_id"]!, this.operator);
        this.#change(e["turn_id"]!, event, { reply_id: e["reply_id"]!, reply_text: "" });
        break;
      case "reply.text": {
        const turn = this.#ofReply(e["reply_id"]!);
        if (turn) this.#change(turn.id, event, { reply_text: (turn.reply_text ?? "") + e["delta"]! });
        break;
      }
      case "reply.finished":
        this.doing = "listening";
        this.#replies.set(e["reply_id"]!, e["turn_id"]!);
        this.#change(e["turn_id"]!, event, {
          reply_id: e["reply_id"]!, reply_text: e["text"]!, heard_text: e["heard_text"]!, reply_reason: e["reason"]!,
          played_ms: e["played_ms"] ?? 0, estimated: e["estimated"] ?? false,
        });
        break;
      case "tool.called": {
        this.doing = "tool";
        const turn = this.#ofReply(e["reply_id"]!);
        if (!turn) break;
        const call: ToolCall = {
          id: e["call_id"]!, reply_id: e["reply_id"]!, turn_id: turn.id, name: e["name"]!, arguments: e["arguments"]!,
          status: null, result: null, called_at: event.at, returned_at: null,
        };
        this.#asked.set(`${call.reply_id} ${call.id}`, turn.id);
        this.#change(turn.id, event, { tool_calls: [...turn.tool_calls, call] });
        break;
      }
      case "tool.returned": {
        if (this.doing === "tool") this.doing = "speaking";
        const turn = this.turns.find((one) => one.id === this.#asked.get(`${e["reply_id"]!} ${e["call_id"]!}`));
        if (turn) {
          this.#change(turn.id, event, {
            tool_calls: turn.tool_calls.map((call) => (call.id === e["call_id"] && call.reply_id === e["reply_id"]
              ? { ...call, status: e["status"]!, result: e["result"]!, returned_at: event.at } : call)),
          });
        }
        break;
      }
      case "turn.metrics": {
        const turn = this.turns.find((one) => one.id === e["turn_id"]);
        // A turn is measured once: the user waited for its first answer.
        if (turn && turn.response_us !== null) break;
        this.#change(e["turn_id"]!, event, {
          response_us: e["response_us"]!, jitter_us: e["jitter_us"] ?? 0, speculated: e["speculated"] ?? false, saved_us: e["saved_us"] ?? 0,
          discarded: e["discarded"] ?? 0, providers: e["providers"] ?? {}, hooks: e["hooks"] ?? {},
          spans: (e["spans"] as unknown as (Omit<Span, "hidden"> & { hidden?: boolean })[]).map((span) => ({ ...span, hidden: span.hidden ?? false })),
        });
        break;
      }
    }
    return true;
  }

  #ofReply(reply: string): Turn | undefined {
    const id = this.#replies.get(reply);
    return this.turns.find((one) => one.id === id);
  }

  #change(id: string, event: ServerEvent, changes: globalThis.Partial<Turn>): void {
    const i = this.turns.findIndex((one) => one.id === id);
    const was = this.turns[i] ?? {
      id, session_id: event.session_id, number: this.turns.length + 1, user_text: null, committed_at: event.at, reply_id: null,
      reply_text: null, heard_text: null, reply_reason: null, played_ms: null, estimated: null, response_us: null, jitter_us: null,
      speculated: null, saved_us: null, discarded: null, providers: null, hooks: null, spans: [], tool_calls: [],
    };
    const now = { ...was, ...changes };
    this.turns = i < 0 ? [...this.turns, now] : this.turns.map((one, at) => (at === i ? now : one));
  }
}
