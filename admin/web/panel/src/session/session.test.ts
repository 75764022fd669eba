import { expect, test } from "vitest";
import type { ServerEvent, Span, Turn } from "../types";
import { places, sentence, speculation, sumOf } from "./advice";
import { excerpt, marked, splitHeard } from "./heard";
import { Log } from "./log";
import { codeMeans, endOf } from "./reasons";
import { timeline, turnAt, vtt } from "./timeline";

const SPANS: Span[] = [
  { name: "endpointing", us: 480_123, hidden: false }, { name: "stt", us: 0, hidden: true }, { name: "llm", us: 200_001, hidden: false },
  { name: "chunk", us: 9_500, hidden: false }, { name: "tts", us: 84_376, hidden: false }, { name: "send", us: 7, hidden: false },
];
let seq = 0;
const event = (type: string, at: number, fields: Record<string, unknown> = {}): ServerEvent => ({ type, seq: ++seq, at, session_id: "ses_1", ...fields }) as ServerEvent;

const CALL = (): ServerEvent[] => {
  seq = 0;
  return [
    event("session.started", 1000, { agent: "guide", input_rate: 16000, output_rate: 16000 }),
    event("user.speech_started", 1500, { turn_id: "t1" }),
    event("user.speech_paused", 2500, { turn_id: "t1" }),
    event("user.transcript", 2600, { turn_id: "t1", text: "tell <me>", final: false }),
    event("turn.committed", 2900, { turn_id: "t1", text: "tell <me> & more" }),
    event("reply.started", 2900, { reply_id: "r1", turn_id: "t1" }),
    event("reply.text", 2901, { reply_id: "r1", delta: "It is " }),
    event("reply.text", 2902, { reply_id: "r1", delta: "so." }),
    event("tool.called", 2950, { reply_id: "r1", call_id: "c1", name: "look", arguments: "{}" }),
    event("tool.returned", 3050, { reply_id: "r1", call_id: "c1", name: "look", status: "ok", result: "yes" }),
    event("user.interruption", 3900, { turn_id: "t2", reply_id: "r1", accepted: true, cause: "words", speech_ms: 300, text: "stop" }),
    event("reply.finished", 4000, { reply_id: "r1", turn_id: "t1", reason: "interrupted", text: "It is so.", heard_text: "It is", played_ms: 700 }),
    event("turn.metrics", 4001, { turn_id: "t1", reply_id: "r1", response_us: 774_007, spans: SPANS.map(({ hidden, ...rest }) => (hidden ? { ...rest, hidden } : rest)) }),
  ];
};

function logOf(events: ServerEvent[]): Log {
  const log = new Log();
  for (const one of events) log.add(one);
  return log;
}

test("the spans' places follow each other and end at the response", () => {
  const placed = places(SPANS), last = placed.at(-1)!;
  expect(last.from + last.span.us).toBe(sumOf(SPANS));
  expect(sumOf(SPANS)).toBe(774_007);
  expect(placed.map(({ from }) => from)).toEqual([0, 480_123, 480_123, 680_124, 689_624, 774_000]);
});

test("the longest span is named in a sentence", () => {
  expect(sentence(SPANS)).toBe("62 % is end of turn: 480 ms of silence were waited for until the turn was over.");
  expect(sentence([])).toBe("");
  expect(sentence([{ name: "magic", us: 1000, hidden: false }])).toContain("it took 1 ms");
});

test("speculation is told as what it saved and threw away", () => {
  expect(speculation({ speculated: true, saved_us: 135_000, discarded: 1 })).toBe(
    "The answer was prepared during the silence; without that it would have come 135 ms later. 1 prepared answer was thrown away.");
  expect(speculation({ speculated: false, saved_us: 0, discarded: 0 })).toBe("");
});

test("what was not heard is the rest, whatever white space lies between", () => {
  expect(splitHeard("It is so.", "It is")).toEqual({ heard: "It is", unheard: " so." });
  expect(splitHeard("It  is\nso.", "It is so.")).toEqual({ heard: "It  is\nso.", unheard: "" });
  expect(splitHeard("It  is\nso.", "It is")).toEqual({ heard: "It  is", unheard: "\nso." });
  expect(splitHeard("It is so.", null)).toEqual({ heard: "It is so.", unheard: "" });
  expect(splitHeard("It is so.", "")).toEqual({ heard: "", unheard: "It is so." });
  expect(splitHeard("It is so.", "Something else")).toEqual({ heard: "Something else", unheard: "" });
});

test("words that were sought are marked in any case, and are no pattern", () => {
  expect(marked("Is Breakfast at? breakfast", "breakfast")).toEqual([
    { text: "Is ", hit: false }, { text: "Breakfast", hit: true }, { text: " at? ", hit: false }, { text: "breakfast", hit: true }]);
  expect(marked("a.c abc", "a.c").filter((piece) => piece.hit)).toEqual([{ text: "a.c", hit: true }]);
  expect(marked("<img>", "").length).toBe(1);
  const long = `${"x ".repeat(300)}needle${" y".repeat(300)}`;
  expect(excerpt(long, "NEEDLE")).toContain("needle");
  expect(excerpt(long, "needle").length).toBeLessThan(220);
});

test("events add up to turns as the server tells them", () => {
  const log = logOf(CALL());
  expect(log.turns).toHaveLength(1);
  expect(log.turns[0]).toMatchObject({
    id: "t1", number: 1, user_text: "tell <me> & more", reply_text: "It is so.", heard_text: "It is", reply_reason: "interrupted", response_us: 774_007,
    tool_calls: [{ id: "c1", turn_id: "t1", status: "ok", result: "yes", called_at: 2950, returned_at: 3050 }],
  });
  expect(log.turns[0]!.spans).toEqual(SPANS);
  expect(log.partial).toBeNull();
  expect(log.add(CALL()[3]!)).toBe(false);
});

test("an unfinished reply grows by its deltas, and what is said shows before it is a turn", () => {
  const events = CALL(), log = logOf(events.slice(0, 4));
  expect(log.partial).toEqual({ turn_id: "t1", text: "tell <me>" });
  for (const one of events.slice(4, 8)) log.add(one);
  expect([log.turns[0]!.reply_text, log.doing, log.partial]).toEqual(["It is so.", "speaking", null]);
  log.add(events[8]!);
  expect(log.doing).toBe("tool");
});

test("what is said while an operator has taken over is theirs", () => {
  seq = 0;
  const log = logOf([
    event("operator.took_over", 1, { operator: "Ann" }), event("reply.started", 2, { reply_id: "r", turn_id: "t" }),
    event("operator.handed_back", 3, { operator: "Ann", reason: "handed_back" }), event("reply.started", 4, { reply_id: "r2", turn_id: "t2" }),
  ]);
  expect([...log.spokenBy]).toEqual([["t", "Ann"]]);
  expect(log.operator).toBeNull();
});

test("the timeline is made of the events: who spoke when, and what happened", () => {
  const events = CALL(), made = timeline(events, logOf(events).turns, { start: 1000, end: 5000 });
  expect(made.segments).toEqual([
    { side: "user", from: 1500, to: 2500, turn: "t1" },
    { side: "agent", from: 3300, to: 4000, turn: "t1" },
  ]);
  expect(made.marks.map(({ kind, at }) => [kind, at])).toEqual([["tool", 2950], ["barge", 3900]]);
  expect(made.bands).toEqual([{ id: "t1", number: 1, from: 1500, to: 4000 }]);
  expect([turnAt(made.bands, 1400), turnAt(made.bands, 1500), turnAt(made.bands, 9000)]).toEqual([null, "t1", "t1"]);
});

test("speech that has not ended reaches to the end of the timeline", () => {
  const events = CALL().slice(0, 2);
  expect(timeline(events, [], { start: 1000, end: 1900 }).segments).toEqual([{ side: "user", from: 1500, to: 1900, turn: "t1" }]);
});

test("captions are in the recording's time, with what was heard, and without markup of the speakers'", () => {
  const events = CALL(), turns = logOf(events).turns;
  expect(vtt(timeline(events, turns, { start: 1000, end: 5000 }), turns)).toBe(
    "WEBVTT\n\n1\n00:00:00.500 --> 00:00:01.500\n<v User>tell &lt;me&gt; &amp; more\n\n2\n00:00:02.300 --> 00:00:03.300\n<v Agent>It is\n");
  const late = { ...turns[0]!, id: "t9", committed_at: 1000 + 3_723_004 } as Turn;
  expect(vtt({ start: 1000, end: 0, segments: [], marks: [], bands: [] }, [late])).toContain("01:02:03.004 --> 01:02:04.004");
});

test("ends are told in plain words, unknown ones as they are", () => {
  expect(endOf("vad_failed", false).tone).toBe("bad");
  expect(endOf("sold the car", false).text).toContain("sold the car");
  expect(endOf(null, true).text).toBe("It goes on.");
  expect(endOf(null, false).tone).toBe("warn");
  expect(codeMeans("llm_failed")).toContain("LLM");
  expect(codeMeans("something_new")).toBe("");
});
