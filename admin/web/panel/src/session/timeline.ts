// When who spoke and what happened, on one axis: made of a session's events, with or without a recording.
import { clock } from "../format";
import type { ServerEvent, Turn } from "../types";

export interface Segment { side: "user" | "agent"; from: number; to: number; turn: string | null }
export type MarkKind = "barge" | "held" | "tool" | "error" | "operator" | "switch";
export interface Mark { at: number; kind: MarkKind; text: string }
/** A turn's place: from the user's speech to the end of its answer. */
export interface Band { id: string; number: number; from: number; to: number }

export interface Timeline { start: number; end: number; segments: Segment[]; marks: Mark[]; bands: Band[] }

/** All times are Unix ms. `start` and `end` are of the recording where there is one. */
export function timeline(events: readonly ServerEvent[], turns: readonly Turn[], bounds: { start: number; end: number }): Timeline {
  const segments: Segment[] = [], marks: Mark[] = [];
  const speech = new Map<string, number>(), replies = new Map<string, { at: number; turn: string }>();
  const firstOf = new Map<string, number>(), lastOf = new Map<string, number>();
  const spans = (turn: string, from: number, to: number) => {
    firstOf.set(turn, Math.min(firstOf.get(turn) ?? Infinity, from));
    lastOf.set(turn, Math.max(lastOf.get(turn) ?? -Infinity, to));
  };
  for (const event of events) {
    const text = (name: string) => String(event[name] ?? "");
    const turn = text("turn_id");
    switch (event.type) {
      case "user.speech_started": speech.set(turn, event.at); break;
      case "user.speech_paused": case "user.speech_stopped": {
        const from = speech.get(turn);
        if (from === undefined) break;
        speech.delete(turn);
        segments.push({ side: "user", from, to: event.at, turn });
        spans(turn, from, event.at);
        break;
      }
      case "turn.committed": spans(turn, event.at, event.at); break;
      case "reply.started": replies.set(text("reply_id"), { at: event.at, turn }); break;
      case "reply.finished": {
        const began = replies.get(text("reply_id")), played = Number(event["played_ms"] ?? 0);
        replies.delete(text("reply_id"));
        if (played > 0) segments.push({ side: "agent", from: Math.max(began?.at ?? 0, event.at - played), to: event.at, turn });
        spans(turn, began?.at ?? event.at, event.at);
        break;
      }
      case "user.interruption": {
        const said = text("text"), accepted = event["accepted"] === true;
        marks.push({ at: event.at, kind: accepted ? "barge" : "held", text: `${accepted ? "Interrupted" : "Went on"} (${text("cause")})${said ? `: "${said}"` : ""}` });
        break;
      }
      case "tool.called": marks.push({ at: event.at, kind: "tool", text: `Tool ${text("name")}` }); break;
      case "error": marks.push({ at: event.at, kind: "error", text: `${text("code")}: ${text("message")}` }); break;
      case "provider.switched": marks.push({ at: event.at, kind: "switch", text: `${text("kind")}: ${text("provider")} → ${text("to") || "none"} (${text("cause")})` }); break;
      case "operator.took_over": marks.push({ at: event.at, kind: "operator", text: `${text("operator")} took over` }); break;
      case "operator.handed_back": marks.push({ at: event.at, kind: "operator", text: `${text("operator")} handed back` }); break;
    }
  }
  for (const [turn, from] of speech) { segments.push({ side: "user", from, to: bounds.end, turn }); spans(turn, from, bounds.end); }
  for (const { at, turn } of replies.values()) { segments.push({ side: "agent", from: at, to: bounds.end, turn }); spans(turn, at, bounds.end); }
  const bands = turns.map((turn) => ({
    id: turn.id, number: turn.number,
    from: Math.min(firstOf.get(turn.id) ?? turn.committed_at, turn.committed_at), to: Math.max(lastOf.get(turn.id) ?? turn.committed_at, turn.committed_at),
  }));
  // A turn's band ends where the next one begins.
  for (const [i, band] of bands.entries()) {
    const next = bands[i + 1];
    if (next && band.to > next.from) band.to = Math.max(band.from, next.from);
  }
  return { ...bounds, segments, marks, bands };
}

/** The id of the turn that is spoken at `at`: the last one that has begun. */
export function turnAt(bands: readonly Band[], at: number): string | null {
  let found: string | null = null;
  for (const band of bands) if (band.from <= at) found = band.id;
  return found;
}

/** Captions (WebVTT) of what was said and heard, in the time of the recording. */
export function vtt(made: Timeline, turns: readonly Turn[]): string {
  const cues: { from: number; to: number; voice: string; text: string }[] = [];
  for (const turn of turns) {
    for (const [side, voice, text] of [["user", "User", turn.user_text], ["agent", "Agent", turn.heard_text ?? turn.reply_text]] as const) {
      if (!text) continue;
      const mine = made.segments.filter((one) => one.turn === turn.id && one.side === side);
      const from = mine[0]?.from ?? turn.committed_at, to = Math.max(mine.at(-1)?.to ?? 0, from + 1000);
      cues.push({ from, to, voice, text });
    }
  }
  cues.sort((a, b) => a.from - b.from);
  const stamp = (at: number) => {
    const millis = Math.max(0, Math.round(at - made.start));
    const [h, rest] = [Math.floor(millis / 3_600_000), millis % 3_600_000];
    return `${String(h).padStart(2, "0")}:${clock(rest).padStart(5, "0")}.${String(millis % 1000).padStart(3, "0")}`;
  };
  const escape = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replace(/\s+/g, " ").trim();
  return ["WEBVTT", "", ...cues.flatMap((cue, i) => [String(i + 1), `${stamp(cue.from)} --> ${stamp(cue.to)}`, `<v ${cue.voice}>${escape(cue.text)}`, ""])].join("\n");
}
