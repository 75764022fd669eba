// Numbers and times as text.
import type { Zone } from "./prefs";

export const BUDGET_MS = 800;
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const ONE_DIGIT = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const count = (n: number): string => NUMBER.format(n);

/** Microseconds as "780 ms" or "2.35 s"; with `exact` always ms with its fraction. */
export function ms(us: number, exact = false): string {
  const value = us / 1000;
  if (exact) return `${new Intl.NumberFormat("en", { maximumFractionDigits: 3 }).format(value)} ms`;
  if (value >= 10_000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 9_999.5) return "10.0 s";
  if (value >= 1) return `${NUMBER.format(Math.round(value))} ms`;
  return value === 0 ? "0 ms" : "< 1 ms";
}

export type Grade = "good" | "warn" | "bad";
/** By the budget: to it good, to one and a half times warn, above bad. */
export function grade(us: number, budgetMs = BUDGET_MS): Grade {
  return us <= budgetMs * 1000 ? "good" : us <= budgetMs * 1500 ? "warn" : "bad";
}

export function percent(part: number, whole: number): string {
  if (whole <= 0) return "–";
  const value = (part / whole) * 100;
  return `${value > 0 && value < 10 ? ONE_DIGIT.format(value) : Math.round(value)} %`;
}

export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    n /= 1000;
    if (n < 999.5 || unit === "GB") return `${n < 10 ? ONE_DIGIT.format(n) : NUMBER.format(n)} ${unit}`;
  }
  return "";
}

/** Milliseconds as "1:05" or "1:02:03". */
export function clock(millis: number, tenths = false): string {
  const total = Math.max(0, millis) / 1000;
  const seconds = tenths ? Math.floor(total * 10) / 10 : Math.floor(total);
  const h = Math.floor(seconds / 3600), m = Math.floor((seconds % 3600) / 60), s = seconds % 60;
  const tail = tenths ? s.toFixed(1).padStart(4, "0") : String(Math.floor(s)).padStart(2, "0");
  return h ? `${h}:${String(m).padStart(2, "0")}:${tail}` : `${m}:${tail}`;
}

/** A length of time in one unit or two: "45 s", "3 min", "2 h 5 min", "4 d". */
export function duration(millis: number): string {
  const s = Math.round(millis / 1000);
  if (s < 100) return `${s} s`;
  const m = Math.round(s / 60);
  if (m < 100) return `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 ? `${h} h ${m % 60} min` : `${h} h`;
  return `${Math.round(h / 24)} d`;
}

const formats = new Map<string, Intl.DateTimeFormat>();
function formatter(zone: Zone, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = zone + JSON.stringify(options);
  let made = formats.get(key);
  if (!made) formats.set(key, made = new Intl.DateTimeFormat("en-GB", { ...options, ...(zone === "utc" ? { timeZone: "UTC" } : {}) }));
  return made;
}

const HMS: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
export const timeOf = (at: number, zone: Zone): string => formatter(zone, HMS).format(at);
export const timeMsOf = (at: number, zone: Zone): string => formatter(zone, { ...HMS, fractionalSecondDigits: 3 }).format(at);
export const minuteOf = (at: number, zone: Zone): string =>
  formatter(zone, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(at);
export const dateOf = (at: number, zone: Zone): string =>
  formatter(zone, { day: "numeric", month: "short", year: "numeric" }).format(at);
export const fullOf = (at: number, zone: Zone): string =>
  `${dateOf(at, zone)}, ${timeOf(at, zone)}${zone === "utc" ? " UTC" : ""}`;

/** As short as it is clear: today's time, else the day too, another year's with that. */
export function shortOf(at: number, zone: Zone, now = Date.now()): string {
  const day = dateOf(at, zone);
  if (day === dateOf(now, zone)) return timeOf(at, zone);
  const year = day.slice(-4) === dateOf(now, zone).slice(-4);
  return `${year ? day.slice(0, -5) : day} ${minuteOf(at, zone)}`;
}

export function ago(at: number, now = Date.now()): string {
  const past = now - at;
  return past < 5_000 ? "now" : `${duration(past)} ago`;
}

/** A browser and its system, out of a User-Agent; that itself where it is none of the known. */
export function browserOf(client: string): string {
  const name = [["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]].find(([mark]) => client.includes(mark!))?.[1];
  const system = [["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "macOS"], ["Linux", "Linux"]].find(([mark]) => client.includes(mark!))?.[1];
  return name ? (system ? `${name}, ${system}` : name) : client.slice(0, 80) || "–";
}
