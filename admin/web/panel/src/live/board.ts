// The live sessions as the stream tells them: which there are, which are shown and in what order.
import type { Live, LiveUpdate } from "../types";

export type Order = "started" | "oldest" | "slow" | "agent" | "trouble";

/** Takes an update in; rows that did not change stay the same objects. */
export function apply(rows: Map<string, Live>, update: LiveUpdate): void {
  if (update.reset) rows.clear();
  for (const row of update.changed) rows.set(row.id, row);
  for (const id of update.gone) rows.delete(id);
}

const by: Record<Order, (a: Live, b: Live) => number> = {
  started: (a, b) => b.started_at - a.started_at,
  oldest: (a, b) => a.started_at - b.started_at,
  slow: (a, b) => (b.last_response_us ?? -1) - (a.last_response_us ?? -1),
  agent: (a, b) => a.agent.localeCompare(b.agent),
  trouble: (a, b) => b.errors - a.errors || b.interruptions - a.interruptions,
};

/** The rows to show; equal ones are in the order of their ids, so that none jumps about. */
export function arranged(rows: Iterable<Live>, words: string, order: Order, onlyOperated: boolean): Live[] {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const shown: Live[] = [];
  for (const row of rows) {
    if (onlyOperated && row.operator === null && row.listeners === 0) continue;
    if (wanted.length > 0) {
      const text = `${row.agent} ${row.channel ?? ""} ${row.node} ${row.id} ${row.operator ?? ""} ${row.last_user} ${row.last_agent}`.toLowerCase();
      if (!wanted.every((word) => text.includes(word))) continue;
    }
    shown.push(row);
  }
  const compare = by[order];
  return shown.sort((a, b) => compare(a, b) || (a.id < b.id ? 1 : -1));
}

/** Which of `total` rows of `height` are to be drawn, so that some are ready above and below what is seen. */
export function windowOf(top: number, seen: number, height: number, total: number, spare = 6): { first: number; last: number } {
  const first = Math.max(0, Math.min(total, Math.floor(top / height)) - spare);
  return { first, last: Math.min(total, Math.ceil((top + seen) / height) + spare) };
}
