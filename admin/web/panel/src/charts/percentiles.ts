// What percentiles may be shown, how spans lie in a turn, and which of them took the time.

import type { Percentiles, Span } from "../types";

/** A percentile of fewer values says nothing and is not shown. */
export const SHOWN_FROM = { p50: 1, p95: 20, p99: 100 } as const;
export type Which = keyof typeof SHOWN_FROM;
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
