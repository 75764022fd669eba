// Compares two JSON values line by line, as they are printed with their keys in order.

import type { Json } from "./types";

export interface Line {
  kind: "same" | "gone" | "new";
  text: string;
  /** Line numbers from 1, on the side where the line is. */
  before: number | null;
  after: number | null;
}
/** Lines in a row, and how many that are the same were left out before them. */
export interface Hunk { skipped: number; lines: Line[] }

/** `value` as JSON over several lines; objects have their keys in alphabetical order, so that order is no change. */
export function pretty(value: Json | undefined): string {
  return value === undefined ? "" : JSON.stringify(ordered(value), null, 2);
}

function ordered(value: Json): Json {
  if (Array.isArray(value)) return value.map(ordered);
  if (value === null || typeof value !== "object") return value;
  // Without a prototype, so that a key "__proto__" is a key like the others.
  const sorted: { [key: string]: Json } = Object.create(null) as { [key: string]: Json };
  for (const key of Object.keys(value).sort()) sorted[key] = ordered(value[key] ?? null);
  return sorted;
}

/** Whether the two are the same, whatever the order of their keys. */
export function equal(one: Json | undefined, other: Json | undefined): boolean {
  return pretty(one) === pretty(other);
}

/** The lines of both texts, in the shortest way from one to the other (longest common subsequence). */
export function lineDiff(before: string, after: string): Line[] {
  const old = before === "" ? [] : before.split("\n");
  const fresh = after === "" ? [] : after.split("\n");
  // What is the same at both ends need not be searched.
  let head = 0;
  while (head < old.length && head < fresh.length && old[head] === fresh[head]) head++;
  let tail = 0;
  while (tail < old.length - head && tail < fresh.length - head && old.at(-1 - tail) === fresh.at(-1 - tail)) tail++;
  const lines: Line[] = [];
  for (let i = 0; i < head; i++) lines.push(same(old[i] ?? "", i, i));
  middle(old, fresh, head, old.length - tail, fresh.length - tail, lines);
  for (let i = tail; i > 0; i--) lines.push(same(old.at(-i) ?? "", old.length - i, fresh.length - i));
  return lines;
}

/** Beyond this many pairs of lines the middle is shown as replaced: a table of them would take too long. */
const MOST_PAIRS = 4_000_000;

function middle(old: string[], fresh: string[], from: number, oldEnd: number, freshEnd: number, lines: Line[]): void {
  const height = oldEnd - from, width = freshEnd - from;
  const gone = (i: number): Line => ({ kind: "gone", text: old[i] ?? "", before: i + 1, after: null });
  const came = (j: number): Line => ({ kind: "new", text: fresh[j] ?? "", before: null, after: j + 1 });
  let i = 0, j = 0;
  if (height * width <= MOST_PAIRS) {
    // longest[i, j]: how many lines the rests from i and from j have in common, in order.
    const stride = width + 1;
    const longest = new Uint16Array((height + 1) * stride);
    const at = (a: number, b: number): number => longest[a * stride + b] ?? 0;
    for (let a = height - 1; a >= 0; a--) {
      for (let b = width - 1; b >= 0; b--) {
        longest[a * stride + b] =
          old[from + a] === fresh[from + b] ? at(a + 1, b + 1) + 1 : Math.max(at(a + 1, b), at(a, b + 1));
      }
    }
    while (i < height && j < width) {
      if (old[from + i] === fresh[from + j]) lines.push(same(old[from + i] ?? "", from + i++, from + j++));
      else if (at(i + 1, j) >= at(i, j + 1)) lines.push(gone(from + i++));
      else lines.push(came(from + j++));
    }
  }
  while (i < height) lines.push(gone(from + i++));
  while (j < width) lines.push(came(from + j++));
}

function same(text: string, before: number, after: number): Line {
  return { kind: "same", text, before: before + 1, after: after + 1 };
}

/** The changed lines with `around` lines of context; none if nothing changed. */
export function hunks(lines: Line[], around = 3): Hunk[] {
  const found: Hunk[] = [];
  let open: Line[] | null = null, skipped = 0, lastChange = -Infinity;
  const next = lines.map(() => Infinity);
  for (let i = lines.length - 1, nearest = Infinity; i >= 0; i--) {
    if (lines[i]?.kind !== "same") nearest = i;
    next[i] = nearest;
  }
  lines.forEach((line, i) => {
    if (line.kind !== "same") lastChange = i;
    if (i - lastChange <= around || (next[i] ?? Infinity) - i <= around) {
      if (open === null) found.push({ skipped, lines: (open = []) });
      open.push(line);
      skipped = 0;
    } else {
      open = null;
      skipped++;
    }
  });
  return found;
}
