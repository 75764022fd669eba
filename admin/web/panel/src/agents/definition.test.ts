import { expect, test } from "vitest";
import { shapeOf } from "../forms/schema";
import { defaultOf, lineOf, sparse } from "./definition";

const shape = shapeOf({
  type: "object",
  properties: {
    instructions: { type: "string", default: "Be kind." },
    llm: { type: "array", items: { type: "string" }, default: ["guide"] },
    voice: { anyOf: [{ type: "string" }, { type: "null" }], default: null },
    turns: { $ref: "#/$defs/Turns" },
  },
  $defs: { Turns: { type: "object", properties: {
    profile: { enum: ["patient", "normal"], default: "normal" }, min_words: { type: "integer", default: 1 }, pause_ms: { type: "integer", default: 60 },
  } } },
});
const profiles = { patient: { min_words: 2 }, normal: {} };

test("what has its default is left out, by the profile too", () => {
  expect(sparse({ instructions: "Be kind.", llm: ["guide"], voice: null, turns: { profile: "patient", min_words: 2, pause_ms: 60 } }, shape, profiles))
    .toEqual({ turns: { profile: "patient" } });
  expect(sparse({ instructions: "Be brief.", turns: { profile: "patient", min_words: 1 } }, shape, profiles))
    .toEqual({ instructions: "Be brief.", turns: { profile: "patient", min_words: 1 } });
  expect(sparse({ unknown: 1, turns: { profile: "normal", min_words: 1 } }, shape, profiles)).toEqual({ unknown: 1 });
});

test("the default of a number of turn-taking is the one of its profile", () => {
  const field = shape.fields[3]![1].fields[1]![1];
  expect(defaultOf(["turns", "min_words"], field, { turns: { profile: "patient" } }, profiles)).toBe(2);
  expect(defaultOf(["turns", "min_words"], field, {}, profiles)).toBe(1);
  expect(defaultOf(["turns", "min_words"], field, { turns: { profile: "odd" } }, profiles)).toBe(1);
});

const text = JSON.stringify({ instructions: 'say "}" and {', llm: ["a", "b"], turns: { min_words: 0, deep: { x: [1, 2] } } }, null, 2);

test("a field is found on its line", () => {
  const line = (path: string) => text.split("\n")[(lineOf(text, path) ?? 0) - 1]?.trim();
  expect(line("instructions")).toContain("instructions");
  expect(line("llm.1")).toBe('"b"');
  expect(line("turns.min_words")).toBe('"min_words": 0,');
  expect(line("turns.deep.x.1")).toBe("2");
});

test("a path that is not there leads to the one around it", () => {
  expect(lineOf(text, "turns.max_silence_ms")).toBe(lineOf(text, "turns"));
  expect(lineOf(text, "nothing")).toBe(1);
  expect(lineOf(text, "")).toBe(1);
});

test("broken JSON ends, and finds what is before the break", () => {
  expect(lineOf('{\n "a": 1,\n "b": ', "a")).toBe(2);
  for (const broken of ["", "{", "[[[", '{"a', '{"a": ]', "}{", '{"a" "b" ,,,']) lineOf(broken, "a.b");
});
