import { expect, test } from "vitest";
import { cellAt, cellUnder, darkness, grid, heightOf, moved, sessionsQuery, type Source } from "./heatmap";

const edges_us = Array.from({ length: 20 }, (_, i) => 20_000 * 2 ** i);
const source = (cells: [number, number, number][]): Source => ({ since: 1000, until: 7000, slot_ms: 1000, heatmap: { edges_us, cells } });

test("empty buckets above and below are left out, but for one", () => {
  const made = grid(source([[0, 5, 3], [5, 8, 1]]), 4);
  expect([made.columns, made.first, made.rows, made.most]).toEqual([6, 4, 6, 3]);
  expect(made.counts[1 * 6 + 0]).toBe(3);
  expect(made.counts[4 * 6 + 5]).toBe(1);
});

test("few buckets get company up to the least number of rows, within those there are", () => {
  expect(grid(source([[0, 0, 1]])).rows).toBe(10);
  expect(grid(source([[0, 20, 1]])).first + grid(source([[0, 20, 1]])).rows).toBe(21);
  expect(grid(source([])).rows).toBe(10);
  expect(grid(source([])).most).toBe(0);
});

test("a cell beyond the grid is no cell", () => {
  expect(grid(source([[9, 2, 1], [-1, 2, 1], [0, 99, 1]])).most).toBe(0);
});

test("a cell knows its time and its response times", () => {
  const given = source([[2, 5, 3]]), made = grid(given, 3);
  const cell = cellAt(given, made, 2, 5 - made.first);
  expect(cell).toMatchObject({ n: 3, since: 3000, until: 4000, over_us: edges_us[4], to_us: edges_us[5] });
  expect(sessionsQuery(cell, "reception & more")).toBe("since=3000&until=4000&min_ms=320&agent=reception+%26+more");
  expect(sessionsQuery(cell, null)).not.toContain("agent");
  const open = grid(source([[0, 20, 1]]), 3);
  expect(cellAt(given, open, 0, open.rows - 1).to_us).toBeNull();
});

test("pointer and cell agree, corner to corner", () => {
  const made = grid(source([[0, 5, 3], [5, 8, 1]]), 4);
  expect(cellUnder(made, 0, 0, 60, 60)).toEqual({ column: 0, row: 5 });
  expect(cellUnder(made, 59.9, 59.9, 60, 60)).toEqual({ column: 5, row: 0 });
  expect(cellUnder(made, 60, 0, 60, 60)).toBeNull();
  expect(cellUnder(made, -1, 0, 60, 60)).toBeNull();
});

test("keys move by a cell and stop at the edges", () => {
  const made = grid(source([[0, 5, 3], [5, 8, 1]]), 4);
  expect(moved(made, { column: 0, row: 0 }, "ArrowLeft")).toEqual({ column: 0, row: 0 });
  expect(moved(made, { column: 2, row: 1 }, "ArrowUp")).toEqual({ column: 2, row: 2 });
  expect(moved(made, { column: 2, row: 1 }, "End")).toEqual({ column: 5, row: 1 });
  expect(moved(made, { column: 2, row: 1 }, "a")).toBeNull();
});

test("the budget line lies on the edge of its bucket", () => {
  const given = source([[0, 5, 3], [5, 8, 1]]), made = grid(given, 4);
  expect(heightOf(given, made, edges_us[6] ?? 0)).toBeCloseTo(1 - 3 / 6);
  expect(heightOf(given, made, 1)).toBe(1);
  expect(heightOf(given, made, 1e12)).toBe(0);
});

test("one slow turn beside many quick ones can be seen", () => {
  expect(darkness(0, 500)).toBe(0);
  expect(darkness(1, 500)).toBeGreaterThan(0.15);
  expect(darkness(500, 500)).toBe(1);
});
