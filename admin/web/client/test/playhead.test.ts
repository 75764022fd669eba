import { expect, test } from "vitest";
import { Playhead } from "../src/playhead";

test("what the audio thread has taken is heard a little later", () => {
  const head = new Playhead(30);
  head.advance("r1", 3, 1_000);
  head.advance("r1", 53, 1_050);
  head.advance("r1", 103, 1_100);
  expect(head.heard(1_020)).toBe(0);
  expect(head.heard(1_080)).toBe(53);
  expect(head.heard(1_105)).toBe(78);
  expect(head.heard(1_130)).toBe(103);
  expect(head.heard(9_999)).toBe(103);
});

test("what was cut was heard to that place and no further", () => {
  const head = new Playhead(30);
  head.advance("r1", 3, 1_000);
  head.advance("r1", 53, 1_050);
  head.settle("r1", 61);
  expect(head.heard(1_058)).toBe(61);
  head.advance("r1", 71, 2_000);
  expect(head.heard(2_010)).toBe(61);
  expect(head.heard(2_030)).toBe(71);
});

test("a new reply begins at nothing, and late news of the old one do not move it", () => {
  const head = new Playhead();
  head.advance("r1", 500, 1_000);
  head.advance("r2", 10, 1_100);
  expect(head.reply).toBe("r2");
  expect(head.heard(1_100)).toBe(10);
  head.advance("r2", 5, 1_090);
  expect(head.heard(1_200)).toBe(10);
});
