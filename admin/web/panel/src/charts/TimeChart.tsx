// Percentiles over time as lines, with how many values there were as bars below; uPlot draws.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { BUDGET_MS, count, dateOf, minuteOf, ms, shortOf } from "../format";
import { zone as zoneStore, type Zone } from "../prefs";
import { useStore } from "../store";
import { S } from "../strings/charts";
import type { Percentiles } from "../types";
import { faint, ink, useTheme, useWidth } from "./ink";
import { shown, type Which } from "./percentiles";
import "./charts.css";

export type Slot = { at: number } & Percentiles;
interface TimeChartProps {
  slots: Slot[];
  slot_ms: number;
  since: number;
  until: number;
  /** Which lines; all by default. */
  lines?: readonly Which[];
  /** Of the part with the lines, in CSS pixels. */
  height?: number;
  label: string;
  budget?: boolean;
  bars?: boolean;
  /** The token of the colour of p50. */
  colour?: string;
  /** A time was marked with the pointer: Unix ms. */
  onRange?: (since: number, until: number) => void;
}

const ALL: readonly Which[] = ["p50", "p95", "p99"];
const STYLE: Record<Which, { colour: string; dash?: number[]; width: number }> = {
  p50: { colour: "--accent", width: 2 },
  p95: { colour: "--warn", width: 1.5, dash: [6, 3] },
  p99: { colour: "--bad", width: 1.5, dash: [2, 3] },
};
const AXIS_WIDTH = 62;

/** All slots from `since` to `until`, those without turns too, so that gaps are gaps. */
function filled(slots: Slot[], since: number, until: number, slot_ms: number): Slot[] {
  const known = new Map(slots.map((slot) => [slot.at, slot]));
  const first = slots[0]?.at ?? since;
  const begin = first - Math.ceil((first - since) / slot_ms) * slot_ms;
  const all: Slot[] = [];
  for (let at = begin; at < until && all.length < 2000; at += slot_ms) {
    if (at + slot_ms > since) all.push(known.get(at) ?? { at, n: 0, p50_us: null, p95_us: null, p99_us: null });
  }
  return all;
}

export function TimeChart(props: TimeChartProps) {
  const { since, until, slot_ms, lines = ALL, height = 220, label, budget = true, bars = true, onRange } = props;
  const box = useRef<HTMLDivElement>(null), plots = useRef<uPlot[]>([]);
  const width = useWidth(box), theme = useTheme(), zone = useStore(zoneStore);
  const slots = filled(props.slots, since, until, slot_ms);
  const [at, setAt] = useState<number | null>(null);
  const marked = useRef(onRange);
  marked.current = onRange;
  const known = slots.map((slot) => `${slot.at}:${slot.n}:${lines.map((which) => shown(slot, which)).join(":")}`).join();

  useEffect(() => {
    const element = box.current;
    if (element === null || width === 0) return;
    const seconds = slots.map((slot) => slot.at / 1000);
    const values = lines.map((which) => slots.map((slot) => { const us = shown(slot, which); return us === null ? null : us / 1000; }));
    const text = ink(element, "--text-3"), grid = ink(element, "--line");
    const range: uPlot.Range.MinMax = [since / 1000, until / 1000];
    const span = until - since;
    const axis: uPlot.Axis = {
      stroke: text, font: `11px ${getComputedStyle(element).fontFamily}`, grid: { stroke: grid, width: 1 }, ticks: { show: false }, gap: 6,
    };
    const times: uPlot.Axis = {
      ...axis, space: 70, size: 22, grid: { show: false },
      values: (_, splits) => splits.map((s) => (span > 2 * 86_400_000 ? dateOf(s * 1000, zone).slice(0, -5) : minuteOf(s * 1000, zone))),
    };
    const common = {
      width, legend: { show: false }, padding: [8, 8, 0, 0] as uPlot.Padding,
      ...(zone === "utc" ? { tzDate: (s: number) => uPlot.tzDate(new Date(s * 1000), "Etc/UTC") } : {}),
      cursor: {
        sync: { key: label, setSeries: false }, y: false, points: { show: true, size: 7 },
        drag: { x: marked.current !== undefined, y: false, setScale: false },
      },
    };
    const told = (plot: uPlot) => setAt(plot.cursor.idx ?? null);
    const made: uPlot[] = [];
    made.push(new uPlot({
      ...common, height, hooks: {
        setCursor: [told],
        setSelect: [(plot) => {
          if (plot.select.width < 4) return;
          marked.current?.(plot.posToVal(plot.select.left, "x") * 1000, plot.posToVal(plot.select.left + plot.select.width, "x") * 1000);
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        }],
        drawAxes: budget ? [(plot) => budgetLine(plot, ink(element, "--text-2"))] : [],
      },
      scales: { x: { time: true, range: () => range }, y: { range: (_, __, most) => [0, Math.max((most ?? 0) * 1.08, budget ? BUDGET_MS * 1.15 : 1)] } },
      axes: [
        { ...times, ...(bars ? { size: 6, values: () => [] } : {}) },
        { ...axis, size: AXIS_WIDTH, space: 36, values: (_, splits) => splits.map((value) => ms(value * 1000)) },
      ],
      series: [{}, ...lines.map((which) => {
        const style = STYLE[which], colour = ink(element, which === "p50" ? (props.colour ?? style.colour) : style.colour);
        return { label: which, stroke: colour, width: style.width, ...(style.dash ? { dash: style.dash } : {}),
          points: { show: (_: uPlot, series: number) => alone(values[series - 1] ?? []).length > 0, filter: (_: uPlot, series: number) => alone(values[series - 1] ?? []), size: 5, fill: colour } };
      })],
    }, [seconds, ...values] as uPlot.AlignedData, element));
    if (bars) {
      const most = Math.max(1, ...slots.map((slot) => slot.n));
      made.push(new uPlot({
        ...common, height: 64, hooks: { setCursor: [told] }, cursor: { ...common.cursor, points: { show: false } },
        scales: { x: { time: true, range: () => range }, y: { range: () => [0, most * 1.1] } },
        axes: [times, { ...axis, size: AXIS_WIDTH, splits: () => [0, most], values: (_, splits) => splits.map((value) => count(value)) }],
        series: [{}, { label: S.n, fill: faint(text, 0.55), width: 0, paths: uPlot.paths.bars!({ size: [0.8, 48], align: 1 }), points: { show: false } }],
      }, [seconds, slots.map((slot) => slot.n)], element));
    }
    plots.current = made;
    return () => {
      for (const plot of made) plot.destroy();
      plots.current = [];
    };
  }, [known, width, theme, zone, since, until, height, label, budget, bars]);

  const move = (event: KeyboardEvent) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || slots.length === 0) return;
    event.preventDefault();
    const next = Math.min(slots.length - 1, Math.max(0, (at ?? (step > 0 ? -1 : slots.length)) + step));
    for (const plot of plots.current) plot.setCursor({ left: plot.valToPos((slots[next]?.at ?? 0) / 1000, "x"), top: 10 }, false);
    setAt(next);
  };
  const slot = at === null ? undefined : slots[at];
  const told = slot === undefined ? "" : readout(slot, lines, zone);
  return (
    <div class="time-chart">
      <Legend lines={lines} slot={slot} zone={zone} budget={budget} colour={props.colour} />
      <div ref={box} class="plot" role="slider" tabIndex={0} aria-label={`${label}. ${S.keys}`} aria-valuemin={0} aria-valuemax={Math.max(0, slots.length - 1)}
        aria-valuenow={at ?? 0} aria-valuetext={told || S.keys} onKeyDown={move} />
    </div>
  );
}

/** Indices of values with nothing on either side: a line would not show them. */
function alone(values: (number | null)[]): number[] {
  return values.flatMap((value, i) => (value !== null && (values[i - 1] ?? null) === null && (values[i + 1] ?? null) === null ? [i] : []));
}

function budgetLine(plot: uPlot, colour: string): void {
  const y = Math.round(plot.valToPos(BUDGET_MS, "y", true)) + 0.5, { left, width } = plot.bbox, { ctx } = plot;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour;
  ctx.setLineDash([1, 4]);
  ctx.lineWidth = devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(left, y);
  ctx.lineTo(left + width, y);
  ctx.stroke();
  ctx.restore();
}

function readout(slot: Slot, lines: readonly Which[], zone: Zone): string {
  const values = lines.map((which) => { const us = shown(slot, which); return `${which} ${us === null ? S.tooFew : ms(us)}`; });
  return `${shortOf(slot.at, zone)}: ${slot.n === 0 ? S.noTurns : `${S.turns(slot.n)}, ${values.join(", ")}`}`;
}

function Legend({ lines, slot, zone, budget, colour }: {
  lines: readonly Which[]; slot: Slot | undefined; zone: Zone; budget: boolean; colour: string | undefined;
}) {
  return (
    <div class="time-legend">
      {lines.map((which) => {
        const us = slot === undefined ? null : shown(slot, which);
        return (
          <span key={which}>
            <svg width="22" height="8" aria-hidden="true">
              <line x1="0" x2="22" y1="4" y2="4" style={{ stroke: `var(${which === "p50" ? (colour ?? STYLE.p50.colour) : STYLE[which].colour})` }}
                stroke-width="2" stroke-dasharray={STYLE[which].dash?.join(" ") ?? "none"} />
            </svg>
            {which}{slot !== undefined && <b>{us === null ? "–" : ms(us)}</b>}
          </span>
        );
      })}
      {budget && <span><svg width="22" height="8" aria-hidden="true"><line x1="0" x2="22" y1="4" y2="4" stroke="currentColor" stroke-width="1.5" stroke-dasharray="1 4" /></svg>{S.budget(BUDGET_MS)}</span>}
      <span class="time-at">{slot === undefined ? "" : `${shortOf(slot.at, zone)} · ${S.turns(slot.n)}`}</span>
    </div>
  );
}
