import { expect, test } from "vitest";
import { duration, grade, mainCause, parts, shown } from "./percentiles";

const of = (n: number) => ({ n, p50_us: 1, p95_us: 2, p99_us: 3 });

test("p95 is shown from 20 values on, p99 from 100", () => {
  expect([shown(of(19), "p95"), shown(of(20), "p95")]).toEqual([null, 2]);
  expect([shown(of(99), "p99"), shown(of(100), "p99")]).toEqual([null, 3]);
  expect([shown({ ...of(0), p50_us: null }, "p50"), shown(of(1), "p50")]).toEqual([null, 1]);
});

test("the budget is 800 ms, and half as much again is poor", () => {
  expect([800_000, 800_001, 1_200_000, 1_200_001].map(grade)).toEqual(["good", "poor", "poor", "bad"]);
});

test("spans follow each other", () => {
  const spans = [{ name: "endpointing", us: 200, hidden: false }, { name: "stt", us: 0, hidden: true }, { name: "llm", us: 300, hidden: false }];
  expect(parts(spans).map((part) => [part.name, part.from_us])).toEqual([["endpointing", 0], ["stt", 200], ["llm", 200]]);
  expect(mainCause(spans)).toEqual({ name: "llm", us: 300, share: 0.6 });
  expect(mainCause([])).toBeNull();
  expect(mainCause([{ name: "stt", us: 0, hidden: true }])).toBeNull();
});

test("durations have about three figures", () => {
  const given = [0, 640, 1_000, 9_940, 12_300, 780_400, 999_600, 1_240_000, 9_999_000, 61_000_000, 125_000_000];
  expect(given.map(duration)).toEqual(
    ["0 µs", "640 µs", "1.0 ms", "9.9 ms", "12 ms", "780 ms", "1.00 s", "1.24 s", "10.0 s", "61.0 s", "125 s"],
  );
});
