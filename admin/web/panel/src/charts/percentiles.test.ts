import { expect, test } from "vitest";
import { mainCause, parts, shown } from "./percentiles";

const of = (n: number) => ({ n, p50_us: 1, p95_us: 2, p99_us: 3 });

test("p95 is shown from 20 values on, p99 from 100", () => {
  expect([shown(of(19), "p95"), shown(of(20), "p95")]).toEqual([null, 2]);
  expect([shown(of(99), "p99"), shown(of(100), "p99")]).toEqual([null, 3]);
  expect([shown({ ...of(0), p50_us: null }, "p50"), shown(of(1), "p50")]).toEqual([null, 1]);
});

test("spans follow each other", () => {
  const spans = [{ name: "endpointing", us: 200, hidden: false }, { name: "stt", us: 0, hidden: true }, { name: "llm", us: 300, hidden: false }];
  expect(parts(spans).map((part) => [part.name, part.from_us])).toEqual([["endpointing", 0], ["stt", 200], ["llm", 200]]);
  expect(mainCause(spans)).toEqual({ name: "llm", us: 300, share: 0.6 });
  expect(mainCause([])).toBeNull();
  expect(mainCause([{ name: "stt", us: 0, hidden: true }])).toBeNull();
});
