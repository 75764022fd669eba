import { expect, test } from "vitest";
import { equal, hunks, lineDiff, pretty, type Line } from "./diff";

const shown = (lines: Line[]) => lines.map((line) => ({ same: " ", gone: "-", new: "+" })[line.kind] + line.text);
const rebuilt = (lines: Line[], without: "gone" | "new") =>
  lines.filter((line) => line.kind !== without).map((line) => line.text).join("\n");

test("the order of keys is no change, the order of a list is", () => {
  expect(equal({ a: 1, b: { c: 2, d: 3 } }, { b: { d: 3, c: 2 }, a: 1 })).toBe(true);
  expect(equal({ llm: ["a", "b"] }, { llm: ["b", "a"] })).toBe(false);
  expect(pretty({ b: 1, a: [] })).toBe('{\n  "a": [],\n  "b": 1\n}');
});

test("a key that would be a prototype is a key", () => {
  const odd = JSON.parse('{"__proto__": {"x": 1}, "a": 2}');
  expect(pretty(odd)).toContain('"__proto__"');
});

test("one changed line is one gone and one new", () => {
  expect(shown(lineDiff("a\nb\nc", "a\nB\nc"))).toEqual([" a", "-b", "+B", " c"]);
});

test("lines have the numbers of their side", () => {
  const [, gone, fresh, last] = lineDiff("a\nb\nc", "a\nx\nc");
  expect([gone?.before, gone?.after, fresh?.before, fresh?.after, last?.before, last?.after]).toEqual([2, null, null, 2, 3, 3]);
});

test("from nothing and to nothing", () => {
  expect(shown(lineDiff("", "a\nb"))).toEqual(["+a", "+b"]);
  expect(shown(lineDiff("a\nb", ""))).toEqual(["-a", "-b"]);
  expect(lineDiff("", "")).toEqual([]);
});

test("both sides can be rebuilt from any diff, and it is the shortest", () => {
  let seed = 7;
  const random = (n: number) => (seed = (seed * 48271) % 2147483647) % n;
  for (let round = 0; round < 300; round++) {
    const make = () => Array.from({ length: random(12) }, () => "abc"[random(3)]).join("\n");
    const [before, after] = [make(), make()];
    const lines = lineDiff(before, after);
    expect(rebuilt(lines, "new")).toBe(before);
    expect(rebuilt(lines, "gone")).toBe(after);
  }
  expect(lineDiff("a\nb\nc\nd", "b\nc\nd\ne").filter((line) => line.kind === "same")).toHaveLength(3);
});

test("texts too long for the table are shown as replaced, quickly", () => {
  const many = (letter: string) => Array.from({ length: 5000 }, (_, i) => `${letter}${i}`).join("\n");
  const lines = lineDiff(`first\n${many("a")}`, `first\n${many("b")}`);
  expect(lines).toHaveLength(10_001);
  expect(lines[0]?.kind).toBe("same");
});

test("hunks keep the context and say what they leave out", () => {
  const before = Array.from({ length: 30 }, (_, i) => `line ${i}`);
  const after = before.map((line, i) => (i === 10 || i === 25 ? `${line}!` : line));
  const found = hunks(lineDiff(before.join("\n"), after.join("\n")), 2);
  expect(found.map((hunk) => [hunk.skipped, hunk.lines.length])).toEqual([[8, 6], [10, 6]]);
  expect(hunks(lineDiff("a", "a"))).toEqual([]);
});
