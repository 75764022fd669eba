// What percentiles may be shown, how spans lie in a turn, and which of them took the time.

import type { Percentiles, Span } from "../types";

/** A percentile of fewer values says nothing and is not shown. */
export const SHOWN_FROM = { p50: 1, p95: 20, p99: 100 } as const;
export type Which = keyof typeof SHOWN_FROM;
/** Above it a response feels slow. */
export const BUDGET_US = 800_000;

/** Good within the budget, poor up to half as much again, bad above. */
export type Grade = "good" | "poor" | "bad";
export function grade(us: number): Grade {
  return us <= BUDGET_US ? "good" : us <= BUDGET_US * 1.5 ? "poor" : "bad";
}

/** The percentile in us; null where there are too few values for it. */
export function shown(of: Percentiles, which: Which): number | null {
  return of.n >= SHOWN_FROM[which] ? of[`${which}_us`] : null;
}

/** A span with where it begins; spans follow each other without a gap. */
export interface Part { name: string; hidden: boolean; from_us: number; us: number }

export function parts(spans: Span[]): Part[] {
  let reached = 0;
  return spans.map(({ name, us, hidden }) => {
    const part = { name, hidden, from_us: reached, us };
    reached += us;
    return part;
  });
}

/** The span that took the most, and its share (0..1) of the whole; null if nothing took any time. */
export function mainCause(spans: Span[]): { name: string; us: number; share: number } | null {
  const total = spans.reduce((sum, span) => sum + span.us, 0);
  const longest = spans.reduce<Span | null>((most, span) => (most === null || span.us > most.us ? span : most), null);
  return longest === null || total === 0 ? null : { name: longest.name, us: longest.us, share: longest.us / total };
}

/** Us as people read them: 640 us, 12.3 ms, 780 ms, 1.24 s, 61 s. */
export function duration(us: number): string {
  if (us < 1000) return `${Math.round(us)} µs`;
  const ms = us / 1000;
  if (ms < 9.995) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  return s < 9.995 ? `${s.toFixed(2)} s` : s < 99.95 ? `${s.toFixed(1)} s` : `${Math.round(s)} s`;
}
