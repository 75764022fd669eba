// A small bar of the spans of a turn, one after the other, on a scale that several bars may share.
import { ms } from "../format";
import { S } from "../strings/charts";
import type { Span } from "../types";
import { parts } from "./percentiles";
import { stageColour, stageName } from "./stages";
import "./charts.css";

/** `scale_us` is the time of the full width. */
export function Waterfall({ spans, scale_us }: { spans: Span[]; scale_us: number }) {
  const told = spans.filter((span) => span.us > 0).map((span) => `${stageName(span.name)} ${ms(span.us)}`).join(", ");
  return (
    <div class="waterfall" role="img" aria-label={S.waterfall(told)} title={told}>
      {parts(spans).filter((part) => part.us > 0).map((part) => (
        <i key={part.name} style={{
          left: `${(part.from_us / scale_us) * 100}%`, width: `${(part.us / scale_us) * 100}%`,
          background: `var(${stageColour(part.name)})`,
        }} />
      ))}
    </div>
  );
}

/** What the colours of waterfalls mean. */
export function StageLegend({ names }: { names: string[] }) {
  return (
    <ul class="stage-legend">
      {names.map((name) => (
        <li key={name}><i style={{ background: `var(${stageColour(name)})` }} />{stageName(name)}</li>
      ))}
    </ul>
  );
}
