// Where the cells of a heatmap of time and response time lie, which are asked for, and how dark they are.

import type { Latency } from "../types";

/** The part of a Latency that is drawn. */
export type Source = Pick<Latency, "since" | "until" | "slot_ms" | "heatmap">;

/** A grid of `columns` slots and `rows` buckets; bucket `first` is the lowest row. */
export interface Grid {
  columns: number; rows: number; first: number;
  /** n of each cell, by `row * columns + column`; row 0 is the lowest bucket. */
  counts: Float64Array;
  most: number;
}

/** What is in a cell: from `since` on and before `until` (Unix ms), above `over_us` and up to `to_us` (null: open). */
export interface Cell { column: number; row: number; n: number; since: number; until: number; over_us: number; to_us: number | null }

/** The cells with the empty buckets above and below left out, but one on each side and at least `least` rows. */
export function grid(source: Source, least = 10): Grid {
  const { edges_us: edges, cells } = source.heatmap;
  const columns = Math.max(1, Math.ceil((source.until - source.since) / source.slot_ms));
  const used = cells.filter(([column, bucket]) => column >= 0 && column < columns && bucket >= 0 && bucket <= edges.length);
  const buckets = used.map(([, bucket]) => bucket);
  let first = buckets.length ? Math.max(0, Math.min(...buckets) - 1) : 0;
  let last = buckets.length ? Math.min(edges.length, Math.max(...buckets) + 1) : 0;
  while (last - first + 1 < Math.min(least, edges.length + 1)) {
    if (last < edges.length) last++;
    if (first > 0 && last - first + 1 < least) first--;
  }
  const rows = last - first + 1;
  const counts = new Float64Array(columns * rows);
  let most = 0;
  for (const [column, bucket, n] of used) {
    const at = (bucket - first) * columns + column;
    most = Math.max(most, (counts[at] = (counts[at] ?? 0) + n));
  }
  return { columns, rows, first, counts, most };
}

export function cellAt(source: Source, made: Grid, column: number, row: number): Cell {
  const edges = source.heatmap.edges_us, bucket = made.first + row;
  return {
    column, row, n: made.counts[row * made.columns + column] ?? 0,
    since: source.since + column * source.slot_ms,
    until: Math.min(source.until, source.since + (column + 1) * source.slot_ms),
    over_us: bucket === 0 ? 0 : (edges[bucket - 1] ?? 0),
    to_us: edges[bucket] ?? null,
  };
}

/** The cell under a point of a plot of `width` and `height`, counted from its upper left corner; null outside. */
export function cellUnder(made: Grid, x: number, y: number, width: number, height: number): { column: number; row: number } | null {
  if (x < 0 || y < 0 || x >= width || y >= height) return null;
  return {
    column: Math.min(made.columns - 1, Math.floor((x / width) * made.columns)),
    row: made.rows - 1 - Math.min(made.rows - 1, Math.floor((y / height) * made.rows)),
  };
}

/** The height in the plot (0 above, 1 below) at which a response of `us` lies; on the logarithmic scale of the buckets. */
export function heightOf(source: Source, made: Grid, us: number): number {
  const edges = source.heatmap.edges_us;
  let bucket = edges.findIndex((edge) => us <= edge);
  if (bucket < 0) bucket = edges.length;
  const upper = edges[bucket], lower = edges[bucket - 1];
  const within = upper === undefined || lower === undefined ? (us === upper ? 1 : 0.5) : Math.log(us / lower) / Math.log(upper / lower);
  return Math.min(1, Math.max(0, 1 - (bucket - made.first + within) / made.rows));
}

/** 0..1: how dark a cell with `n` is. The root lets few slow turns be seen beside many quick ones. */
export function darkness(n: number, most: number): number {
  return n <= 0 || most <= 0 ? 0 : 0.14 + 0.86 * Math.sqrt(n / most);
}

/** Where an arrow key, Home, End, Page Up or Page Down leads from a cell; null for other keys. */
export function moved(made: Grid, from: { column: number; row: number }, key: string): { column: number; row: number } | null {
  const step: Record<string, [number, number]> = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
    PageUp: [0, 5], PageDown: [0, -5], Home: [-made.columns, 0], End: [made.columns, 0],
  };
  const by = step[key];
  if (by === undefined) return null;
  const within = (value: number, end: number) => Math.min(end - 1, Math.max(0, value));
  return { column: within(from.column + by[0], made.columns), row: within(from.row + by[1], made.rows) };
}

/** Query of the sessions page for what is in a cell. */
export function sessionsQuery(cell: Cell, agent: string | null): string {
  const query = new URLSearchParams({ since: String(cell.since), until: String(cell.until), min_ms: String(Math.floor(cell.over_us / 1000)) });
  if (agent !== null && agent !== "") query.set("agent", agent);
  return query.toString();
}
