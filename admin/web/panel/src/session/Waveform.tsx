// Both voices over time, the user above and the agent below, with turns and marks, and the playhead to move.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ink, useTheme, useWidth } from "../charts/ink";
import { clock } from "../format";
import { useStore } from "../store";
import { S } from "../strings/session";
import type { Peaks } from "../types";
import { Button, Choice, Icon, IconButton, Select, type IconName } from "../ui";
import { RATES, type Player, type Solo } from "./player";
import { turnAt, type Mark, type MarkKind, type Timeline } from "./timeline";

const AXIS = 18, TOP = 22;
const WIDEST = 12_000;
const MARKS: Record<MarkKind, IconName> = { barge: "bolt", held: "hand", tool: "tool", error: "bad", operator: "account", switch: "refresh" };
const MOST_MARKS = 200;

export interface Levels { user: Uint8Array; agent: Uint8Array; perSecond: number }

export function levelsOf(peaks: Peaks): Levels {
  const read = (text: string) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return { user: read(peaks.user), agent: read(peaks.agent), perSecond: peaks.per_second };
}

export function Waveform({ made, levels, player, onTurn }: { made: Timeline; levels: Levels | undefined; player: Player; onTurn: (id: string) => void }) {
  const box = useRef<HTMLDivElement>(null), canvas = useRef<HTMLCanvasElement>(null), head = useRef<HTMLDivElement>(null), slider = useRef<HTMLDivElement>(null);
  const visible = useWidth(box), theme = useTheme();
  const [zoom, setZoom] = useState(1);
  const duration = Math.max(1, made.end - made.start);
  // Bars need less room than sound.
  const LANE = levels ? 52 : 24, HEIGHT = TOP + LANE * 2 + AXIS;
  const most = Math.max(1, Math.min(Math.floor(WIDEST / Math.max(1, visible)), Math.ceil(duration / 5_000)));
  const width = Math.floor(visible * Math.min(zoom, most));
  const x = (at: number) => ((at - made.start) / duration) * width;

  useEffect(() => {
    const surface = canvas.current, pen = surface?.getContext("2d");
    if (!surface || !pen || width === 0) return;
    const scale = Math.min(devicePixelRatio || 1, 16_000 / width);
    surface.width = width * scale;
    surface.height = HEIGHT * scale;
    pen.scale(scale, scale);
    const of = (name: string) => ink(surface.parentElement!, name);
    const middle = TOP + LANE;
    pen.fillStyle = of("--sunken");
    for (const [i, band] of made.bands.entries()) if (i % 2 === 0) pen.fillRect(x(band.from), TOP, Math.max(1, x(band.to) - x(band.from)), LANE * 2);
    pen.fillStyle = of("--text-3");
    pen.font = `11px ${getComputedStyle(surface).fontFamily}`;
    let free = -Infinity;
    for (const band of made.bands) {
      const at = x(band.from) + 3, text = String(band.number);
      if (at < free) continue;
      pen.fillText(text, at, TOP + 11);
      free = at + pen.measureText(text).width + 6;
    }
    const colours = { user: of("--user"), agent: of("--agent") };
    if (levels) for (const side of ["user", "agent"] as const) {
      const data = levels[side];
      pen.fillStyle = colours[side];
      for (let column = 0; column < width; column += 1) {
        const from = Math.floor((column / width) * (duration / 1000) * levels.perSecond), to = Math.max(from + 1, Math.floor(((column + 1) / width) * (duration / 1000) * levels.perSecond));
        let loud = 0;
        for (let i = from; i < to && i < data.length; i += 1) if (data[i]! > loud) loud = data[i]!;
        // Quiet speech is to be seen too.
        const high = (loud / 127) ** 0.7 * (LANE - 4);
        if (high < 0.5) continue;
        pen.fillRect(column, side === "user" ? middle - 1 - high : middle + 1, 1, high);
      }
    } else for (const one of made.segments) {
      pen.fillStyle = colours[one.side];
      const from = x(one.from), long = Math.max(2, x(one.to) - from), high = LANE - 10;
      pen.beginPath();
      pen.roundRect(from, one.side === "user" ? middle - 4 - high : middle + 4, long, high, 3);
      pen.fill();
    }
    pen.fillStyle = of("--line-strong");
    pen.fillRect(0, middle - 0.5, width, 1);
    pen.fillStyle = of("--text-3");
    const step = stepFor(duration, width);
    for (let at = 0; at <= duration; at += step) {
      const place = (at / duration) * width;
      pen.fillRect(Math.min(width - 1, place), TOP + LANE * 2, 1, 4);
      pen.textAlign = place > width - 30 ? "right" : place < 15 ? "left" : "center";
      pen.fillText(clock(at), Math.min(width - 2, place), HEIGHT - 2);
    }
    pen.textAlign = "left";
  }, [made, levels, width, theme, duration, LANE]);

  // The playhead moves without drawing anything else.
  useEffect(() => {
    const show = (at: number) => {
      const place = (at / duration) * width;
      head.current?.style.setProperty("transform", `translateX(${place}px)`);
      slider.current?.setAttribute("aria-valuenow", String(Math.round(at / 100) / 10));
      slider.current?.setAttribute("aria-valuetext", S.position(clock(at), clock(duration)));
      const frame = box.current;
      if (frame && player.playing.get() && (place < frame.scrollLeft || place > frame.scrollLeft + frame.clientWidth - 20)) frame.scrollLeft = place - 40;
    };
    show(player.at.get());
    return player.at.watch(show);
  }, [player, width, duration]);

  const seek = (event: PointerEvent) => {
    const left = slider.current!.getBoundingClientRect().left;
    player.seek(((event.clientX - left) / width) * duration);
  };
  const key = (event: KeyboardEvent) => {
    const at = player.at.get();
    const to = { ArrowRight: at + 1000, ArrowLeft: at - 1000, PageUp: at + 10_000, PageDown: at - 10_000, Home: 0, End: duration }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    player.seek(to);
  };
  const placed = useMemo(() => apart(made.marks.slice(0, MOST_MARKS), x, 25), [made, width]);
  return (
    <div class="wave" style={{ "--lane": `${LANE}px` }}>
      <div class="wave-sides" aria-hidden="true"><span>{S.user}</span><span>{S.agent}</span></div>
      <div class="wave-scroll" ref={box}>
        <div class="wave-plot" style={{ width: width ? `${width}px` : "100%" }}>
          <canvas ref={canvas} style={{ width: `${width}px`, height: `${HEIGHT}px` }} aria-hidden="true" />
          <div class="wave-slider" ref={slider} role="slider" tabIndex={0} aria-label={S.waveform} aria-valuemin={0} aria-valuemax={Math.round(duration / 100) / 10} aria-valuenow={0}
            onKeyDown={key} onPointerDown={(event) => { if (event.button === 0) { slider.current!.setPointerCapture(event.pointerId); seek(event); } }}
            onPointerMove={(event) => { if (event.buttons & 1) seek(event); }}
            onDblClick={(event) => { const id = turnAt(made.bands, made.start + (event.offsetX / width) * duration); if (id) onTurn(id); }} />
          <div class="wave-head" ref={head} aria-hidden="true" />
          <ol class="wave-marks">
            {placed.map(({ mark, left }, i) => (
              <li key={i} style={{ left: `${left}px` }}>
                <button type="button" class={`mark-${mark.kind}`} title={`${clock(mark.at - made.start)}  ${mark.text}`} aria-label={`${clock(mark.at - made.start)} ${mark.text}`}
                  onClick={() => player.seek(mark.at - made.start)}><Icon name={MARKS[mark.kind]} size={14} /></button>
              </li>
            ))}
          </ol>
        </div>
      </div>
      <Transport player={player} duration={duration} zoom={Math.min(zoom, most)} most={most} onZoom={setZoom} sound={levels !== undefined} />
    </div>
  );
}

/** Marks that would lie on each other stand side by side. */
function apart(marks: readonly Mark[], x: (at: number) => number, gap: number): { mark: Mark; left: number }[] {
  let free = 0;
  return [...marks].sort((a, b) => a.at - b.at).map((mark) => {
    const left = Math.max(x(mark.at) - 11, free);
    free = left + gap;
    return { mark, left };
  });
}

function stepFor(duration: number, width: number): number {
  const wanted = (duration / Math.max(1, width)) * 90;
  return [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].map((s) => s * 1000).find((step) => step >= wanted) ?? 7_200_000;
}

function Transport({ player, duration, zoom, most, onZoom, sound }: {
  player: Player; duration: number; zoom: number; most: number; onZoom: (zoom: number) => void; sound: boolean;
}) {
  const playing = useStore(player.playing), rate = useStore(player.rate), solo = useStore(player.solo), failed = useStore(player.failed);
  const shown = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    const show = (at: number) => { if (shown.current) shown.current.textContent = clock(at, true); };
    show(player.at.get());
    return player.at.watch(show);
  }, [player]);
  return (
    <>
      <div class="transport">
        <IconButton icon={playing ? "pause" : "play"} kind="primary" label={playing ? S.pause : S.play} onClick={() => player.toggle()} />
        <IconButton icon="left" label={S.back} onClick={() => player.seek(player.at.get() - 5000)} />
        <IconButton icon="right" label={S.forward} onClick={() => player.seek(player.at.get() + 5000)} />
        <span class="transport-time"><span ref={shown} /> <span class="quiet">/ {clock(duration)}</span></span>
        <Select label={S.speed} hideLabel value={String(rate)} onValue={(value) => player.setRate(Number(value))} options={RATES.map((one) => ({ value: String(one), label: `${one}×` }))} />
        {sound && <Choice<Solo> label={S.hear} value={solo} onValue={(value) => player.setSolo(value)}
          options={(["both", "user", "agent"] as const).map((value) => ({ value, label: S.solo[value] }))} />}
        <span class="spacer" />
        {most > 1 && <div class="row" role="group" aria-label={S.zoom}>
          <Button size="s" aria-label={S.zoomOut} title={S.zoomOut} disabled={zoom <= 1} onClick={() => onZoom(Math.max(1, zoom / 2))}>−</Button>
          <Button size="s" aria-label={S.zoomIn} title={S.zoomIn} disabled={zoom >= most} onClick={() => onZoom(Math.min(most, zoom * 2))}>+</Button>
        </div>}
      </div>
      {failed !== null && <p class="problem" role="alert">{S.playFailed(failed)}</p>}
    </>
  );
}
