// A range of time: the last hour, day or week, or from and to; it lives in the URL (range=24h, or since= and until=).
import { useMemo, useState } from "preact/hooks";
import { zone } from "../prefs";
import { useQuery } from "../router";
import { useStore } from "../store";
import { S } from "../strings/ui";
import { Button } from "./Button";
import { Choice, Field } from "./Field";

export type RangeName = "1h" | "24h" | "7d" | "custom";
const LENGTHS: Record<string, number> = { "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000 };

export interface Range { name: RangeName; since: number; until: number | null }

/**
 * The range in the URL. `until` is null where it is now; `since` moves on when the page is drawn again after 10 s or more.
 */
export function useRange(otherwise: "1h" | "24h" | "7d" = "24h"): Range {
  const query = useQuery();
  const since = Number(query.get("since")), until = Number(query.get("until"));
  const name = query.get("range", otherwise);
  const step = Math.floor(Date.now() / 10_000) * 10_000;
  return useMemo(() => {
    if (since > 0) return { name: "custom", since, until: until > since ? until : null };
    const known = name in LENGTHS ? (name as RangeName) : otherwise;
    return { name: known, since: step - LENGTHS[known]!, until: null };
  }, [since, until, name, step, otherwise]);
}

export function RangePicker({ otherwise = "24h" }: { otherwise?: "1h" | "24h" | "7d" }) {
  const range = useRange(otherwise), query = useQuery(), where = useStore(zone);
  const [custom, setCustom] = useState(range.name === "custom");
  const [from, setFrom] = useState(() => typed(range.since, where === "utc"));
  const [to, setTo] = useState(() => typed(range.until ?? Date.now(), where === "utc"));
  const choose = (name: RangeName) => {
    setCustom(name === "custom");
    if (name !== "custom") query.set({ range: name === otherwise ? null : name, since: null, until: null });
    else { setFrom(typed(range.since, where === "utc")); setTo(typed(range.until ?? Date.now(), where === "utc")); }
  };
  const apply = (event: Event) => {
    event.preventDefault();
    const since = read(from, where === "utc"), until = read(to, where === "utc");
    if (since && until) query.set({ range: null, since: String(Math.min(since, until)), until: String(Math.max(since, until)) });
  };
  return (
    <div class="range">
      <Choice label={S.range} value={custom ? "custom" : range.name} onValue={choose}
        options={(["1h", "24h", "7d", "custom"] as const).map((value) => ({ value, label: S.ranges[value] }))} />
      {custom && (
        <form class="range-custom" onSubmit={apply}>
          <Field label={S.from} type="datetime-local" step={1} value={from} onValue={setFrom} />
          <Field label={S.to} type="datetime-local" step={1} value={to} onValue={setTo} />
          <Button type="submit">{S.apply}</Button>
        </form>
      )}
    </div>
  );
}

/** A moment for a field of type datetime-local, and back (0: it is none). */
export function typed(at: number, utc: boolean): string {
  const shift = utc ? 0 : new Date(at).getTimezoneOffset() * 60_000;
  return new Date(at - shift).toISOString().slice(0, 19);
}

export function read(text: string, utc: boolean): number {
  return Date.parse(utc ? `${text}Z` : text) || 0;
}
