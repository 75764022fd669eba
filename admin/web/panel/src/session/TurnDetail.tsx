// The waterfall of a turn: its contiguous spans as bars, what their sum is, which took most and what to do about it.
import { useGet, url } from "../api";
import { stageColour, stageMeans, stageName } from "../charts/stages";
import { BUDGET_MS, ms } from "../format";
import { S } from "../strings/session";
import type { Latency, Turn } from "../types";
import { IconButton, Ms, Scroll } from "../ui";
import { adviceFor, places, sentence, speculation, sumOf } from "./advice";
import { mainCause, shown as enough } from "../charts/percentiles";

const WEEK = 604_800_000;

export function TurnDetail({ turn, agent, onClose }: { turn: Turn; agent: string; onClose?: () => void }) {
  const until = Math.ceil(Date.now() / 60_000) * 60_000;
  const usual = useGet<Latency>(agent ? url("/v1/latency", { agent, since: until - WEEK, until }) : null);
  const all = usual.data?.all;
  const usualP95 = all ? enough(all, "p95") : null;
  const sum = sumOf(turn.spans);
  const scale = Math.max(sum, BUDGET_MS * 1000, all && all.n > 1 ? Math.min(usualP95 ?? 0, sum * 3) : 0) * 1.04;
  const at = (us: number) => `${Math.min(100, (us / scale) * 100)}%`;
  const cause = mainCause(turn.spans);
  const advice = cause ? adviceFor(cause.name) : "";
  const told = speculation(turn);
  const hooks = Object.entries(turn.hooks ?? {});
  const providers = Object.entries(turn.providers ?? {});
  return (
    <section class="turn-detail" aria-label={`${S.turn(turn.number)}: ${S.spans}`}>
      <header>
        <h2>{S.turn(turn.number)}: {S.spans}</h2>
        {turn.response_us !== null && <Ms us={turn.response_us} />}
        <span class="spacer" />
        {onClose && <IconButton icon="close" size="s" label={S.close} onClick={onClose} />}
      </header>
      <Scroll label={S.spanTable}>
        <table class="spans">
          <caption class="hidden-visually">{S.spanTable}</caption>
          <thead><tr><th scope="col">{S.stage}</th><th scope="col" class="right">{S.took}</th><th scope="col"><span class="hidden-visually">{S.starts}</span></th></tr></thead>
          <tbody>
            {places(turn.spans).map(({ span, from }) => (
              <tr key={span.name} class={span.hidden ? "hidden-span" : ""} data-span={span.name} data-us={span.us}>
                <th scope="row" title={stageMeans(span.name)}>{stageName(span.name)}</th>
                <td class="right">{ms(span.us, true)}</td>
                <td class="lane">
                  <div class="lane-in">
                    <span class="budget-line" style={{ left: at(BUDGET_MS * 1000) }} />
                    <span class={`bar ${span.hidden ? "hatched" : ""} ${cause?.name === span.name ? "main" : ""}`}
                      style={{ left: at(from), width: at(span.us), "--bar": `var(${stageColour(span.name)})` }} />
                    {span.hidden && <span class="lane-note" style={{ left: at(from) }} title={S.hiddenNote}>{S.hiddenShort}</span>}
                  </div>
                </td>
              </tr>
            ))}
          </tbody>
          <tfoot>
            <tr title={S.sumHint} data-sum={sum}>
              <th scope="row">{S.sum}</th><td class="right">{ms(sum, true)}</td>
              <td class="lane"><div class="lane-in">
                <span class="bar sum" style={{ left: "0", width: at(sum) }} />
                <span class="budget-line" style={{ left: at(BUDGET_MS * 1000) }}><i>{BUDGET_MS} ms</i></span>
              </div></td>
            </tr>
            {all && all.n > 1 && (
              <tr class="usual">
                <th scope="row">{S.compare(agent, all.n)}</th>
                <td class="right">{all.p50_us !== null && <>{S.p50} {ms(all.p50_us)}</>}</td>
                <td class="lane"><div class="lane-in">
                  {all.p50_us !== null && <span class="bar range" style={{ left: at(all.p50_us), width: `calc(${at(usualP95 ?? all.p50_us)} - ${at(all.p50_us)})` }} />}
                  {usualP95 !== null && usualP95 <= scale && <span class="lane-note after" style={{ left: at(usualP95) }}>{S.p95} {ms(usualP95)}</span>}
                </div></td>
              </tr>
            )}
          </tfoot>
        </table>
      </Scroll>
      <div class="turn-why">
        {cause && <p><strong>{sentence(turn.spans)}</strong> {advice}</p>}
        {told && <p>{told}</p>}
        {!turn.spans.some((span) => span.name === "play") && turn.spans.length > 0 && <p class="quiet">{S.serverOnly}</p>}
        <dl class="pairs">
          {providers.length > 0 && <><dt>{S.providers}</dt><dd>{providers.map(([kind, name]) => `${kind}: ${name}`).join(" · ")}</dd></>}
          {hooks.length > 0 && <><dt title={S.hooksNote}>{S.hooks}</dt><dd>{hooks.map(([name, us]) => `${name}: ${ms(us, true)}`).join(" · ")}</dd></>}
          {turn.jitter_us ? <><dt>{S.jitter}</dt><dd>{ms(turn.jitter_us, true)}</dd></> : null}
        </dl>
      </div>
    </section>
  );
}
