import { expect, test } from "vitest";
import { Reconnect } from "../src/reconnect";

test("at once, then in growing pauses up to the longest, until it has been long enough", () => {
  const retry = new Reconnect({ giveUpMs: 6_000, firstMs: 100, longestMs: 1_000, random: () => 0.5 });
  const waits: number[] = [];
  for (let now = 0, wait; (wait = retry.next(now)) !== null; now += wait) waits.push(wait);
  expect(waits).toEqual([0, 100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000]);
});

test("pauses are spread, so that not everybody comes back at the same moment", () => {
  const of = (random: number): number => {
    const retry = new Reconnect({ firstMs: 100, random: () => random });
    retry.next(0);
    return retry.next(0)!;
  };
  expect([of(0), of(1)]).toEqual([75, 125]);
});

test("who came back starts over", () => {
  const retry = new Reconnect({ giveUpMs: 1_000 });
  expect(retry.next(0)).toBe(0);
  expect(retry.next(5_000)).toBeNull();
  retry.done();
  expect(retry.next(5_000)).toBe(0);
});
