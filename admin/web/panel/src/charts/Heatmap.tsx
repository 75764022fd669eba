// Time x response time: how often which happened. Drawn on a canvas of its own; cells can be gone through and opened.
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { BUDGET_MS, dateOf, minuteOf, ms, shortOf } from "../format";
import { zone as zoneStore } from "../prefs";
import { useStore } from "../store";
import { S } from "../strings/charts";
import { cellAt, cellUnder, darkness, grid, heightOf, moved, type Cell, type Source } from "./heatmap";
import { faint, ink, useTheme, useWidth } from "./ink";
import "./charts.css";

const LEFT = 62, BELOW = 22, TOP = 6, RIGHT = 8, HEIGHT = 240;
const TICKS_US = [20_000, 50_000, 100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000, 6_400_000, 12_800_000, 25_600_000, 60_000_000];

/** `open` is called with the cell that was clicked, or entered with the keyboard. */
export function Heatmap({ source, label, open }: { source: Source; label: string; open: (cell: Cell) => void }) {
  const box = useRef<HTMLDivElement>(null), canvas = useRef<HTMLCanvasElement>(null), id = useId();
  const width = useWidth(box), theme = useTheme(), zone = useStore(zoneStore);
  const [at, setAt] = useState<{ column: number; row: number } | null>(null);
  const made = grid(source), plotWidth = Math.max(1, width - LEFT - RIGHT), plotHeight = HEIGHT - BELOW - TOP;
  const cell = at === null || at.column >= made.columns || at.row >= made.rows ? null : cellAt(source, made, at.column, at.row);

  useEffect(() => {
    const surface = canvas.current, pen = surface?.getContext("2d");
    if (!surface || !pen || width === 0) return;
    const scale = devicePixelRatio || 1;
    surface.width = width * scale;
    surface.height = HEIGHT * scale;
    pen.scale(scale, scale);
    pen.clearRect(0, 0, width, HEIGHT);
    const dark = ink(surface.parentElement!, "--accent"), text = ink(surface.parentElement!, "--text-3"), line = ink(surface.parentElement!, "--line");
    const wide = plotWidth / made.columns, high = plotHeight / made.rows;
    const x = (column: number) => LEFT + column * wide, y = (row: number) => TOP + (made.rows - 1 - row) * high;
    made.counts.forEach((n, i) => {
      if (n === 0) return;
      const column = i % made.columns, row = Math.floor(i / made.columns);
      pen.fillStyle = faint(dark, darkness(n, made.most));
      // Whole pixels, so that neighbours neither overlap nor leave a seam.
      const from = Math.round(x(column)), to = Math.round(x(column + 1)), top = Math.round(y(row)), end = Math.round(y(row - 1));
      pen.fillRect(from, top, Math.max(1, to - from - (wide > 5 ? 1 : 0)), Math.max(1, end - top - 1));
    });
    pen.font = `11px ${getComputedStyle(surface).fontFamily}`;
    pen.fillStyle = text;
    pen.strokeStyle = line;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    let last = Infinity;
    for (const us of TICKS_US) {
      const height = TOP + heightOf(source, made, us) * plotHeight;
      if (last - height < 18 || height <= TOP || height >= TOP + plotHeight) continue;
      last = height;
      pen.fillText(ms(us), LEFT - 6, height);
    }
    pen.textBaseline = "alphabetic";
    const labels = Math.max(1, Math.floor(plotWidth / 90));
    for (let i = 0; i <= labels; i++) {
      const when = source.since + ((source.until - source.since) * i) / labels;
      pen.textAlign = i === 0 ? "left" : i === labels ? "right" : "center";
      const told = source.until - source.since > 2 * 86_400_000 ? dateOf(when, zone).slice(0, -5) : minuteOf(when, zone);
      pen.fillText(told, LEFT + (plotWidth * i) / labels, HEIGHT - 6);
    }
    pen.strokeRect(LEFT + 0.5, TOP + 0.5, plotWidth - 1, plotHeight - 1);
    const budget = Math.round(TOP + heightOf(source, made, BUDGET_MS * 1000) * plotHeight) + 0.5;
    pen.strokeStyle = ink(surface.parentElement!, "--text-2");
    pen.setLineDash([1, 4]);
    pen.beginPath();
    pen.moveTo(LEFT, budget);
    pen.lineTo(LEFT + plotWidth, budget);
    pen.stroke();
    if (at !== null) {
      pen.setLineDash([]);
      pen.lineWidth = 2;
      pen.strokeStyle = ink(surface.parentElement!, "--focus");
      pen.strokeRect(x(at.column) - 1, y(at.row) - 1, Math.max(4, wide + 1), high + 1);
    }
  }, [source, width, theme, zone, at]);

  const under = (event: MouseEvent) => {
    const place = (event.currentTarget as HTMLElement).getBoundingClientRect();
    return cellUnder(made, event.clientX - place.left - LEFT, event.clientY - place.top - TOP, plotWidth, plotHeight);
  };
  const key = (event: KeyboardEvent) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (cell !== null && cell.n > 0) open(cell);
      return;
    }
    const next = moved(made, at ?? { column: made.columns - 1, row: 0 }, event.key);
    if (next === null) return;
    event.preventDefault();
    setAt(next);
  };
  const told = cell === null ? S.heatKeys : S.cell(shortOf(cell.since, zone), ms(cell.over_us), cell.to_us === null ? null : ms(cell.to_us), S.turns(cell.n));
  return (
    <div class="heatmap">
      <div ref={box} class="heatmap-plot" role="application" tabIndex={0} aria-label={label} aria-describedby={id} onKeyDown={key}
        onPointerMove={(event) => setAt(under(event))} onPointerLeave={() => setAt(null)}
        onFocus={() => { if (at === null && made.most > 0) setAt(fullest(made.counts, made.columns)); }}
        onClick={(event) => { const hit = under(event); if (hit !== null && (made.counts[hit.row * made.columns + hit.column] ?? 0) > 0) open(cellAt(source, made, hit.column, hit.row)); }}>
        <canvas ref={canvas} aria-hidden="true" />
      </div>
      <div class="heatmap-foot">
        <span id={id} aria-live="polite">{told}</span>
        <span class="heatmap-scale" aria-hidden="true">{S.few}{[0.14, 0.35, 0.57, 0.78, 1].map((opacity) => <i key={opacity} style={{ opacity }} />)}{S.many}</span>
      </div>
    </div>
  );
}

function fullest(counts: Float64Array, columns: number): { column: number; row: number } {
  const best = counts.indexOf(Math.max(...counts));
  return { column: best % columns, row: Math.floor(best / columns) };
}
