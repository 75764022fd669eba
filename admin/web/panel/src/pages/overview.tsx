// The overview: how it goes now, how it went in the range beside the one before, and what went badly.
import { useState } from "preact/hooks";
import { may, url, useGet } from "../api";
import { TimeChart } from "../charts/TimeChart";
import { Frame } from "../charts/Frame";
import { shown, SHOWN_FROM, type Which } from "../charts/percentiles";
import { count, ms, percent, shortOf } from "../format";
import { zone } from "../prefs";
import { Link } from "../router";
import { useStore } from "../store";
import { useConnected, useTopic } from "../stream";
import { S } from "../strings/overview";
import type { Overview, Percentiles, Pulse } from "../types";
import { Badge, Card, DataTable, Empty, ErrorBox, Icon, Loading, Ms, Page, RangePicker, Stat, Stats, Time, useRange, type Column, type IconName } from "../ui";
import "./overview.css";

const AGAIN_MS = 15_000;

export default function OverviewPage() {
  const range = useRange("24h");
  const got = useGet<Overview>(url("/v1/overview", rangeQuery(range)), { every: AGAIN_MS, keep: true });
  const [pulse, setPulse] = useState<Pulse>();
  useTopic<Pulse>("overview", setPulse);
  const lost = useConnected() === false;
  const { data } = got;
  const nothing = data && data.now.sessions === 0 && data.before.sessions === 0 && (pulse?.active ?? 0) === 0;
  return (
    <Page title={S.title} actions={<RangePicker />}>
      {lost && <p class="stream-lost" role="status"><Icon name="warn" size={16} />{S.lost}</p>}
      {got.error && <ErrorBox error={got.error} onRetry={got.reload} />}
      <Now pulse={pulse} />
      {!data ? !got.error && <Loading lines={8} /> : nothing ? <FirstSteps /> : <Figures data={data} />}
    </Page>
  );
}

/** What is open moves on by itself: only its length is asked for, rounded so that the same is asked again. */
function rangeQuery(range: { name: string; since: number; until: number | null }) {
  return range.until === null && range.name !== "custom" ? { since: range.since } : { since: range.since, until: range.until };
}

function Now({ pulse }: { pulse: Pulse | undefined }) {
  const lag = pulse?.loop_lag_p99_ms;
  return (
    <section aria-label={S.now}>
      <Stats>
        <Stat label={<Link to="/live" class="stat-link">{S.active}</Link>} value={pulse ? count(pulse.active) : "–"}
          hint={pulse && <>{pulse.capacity > 0 && S.capacity(pulse.capacity)} {pulse.draining && <Badge tone="warn" icon="warn">{S.draining}</Badge>}</>} />
        <Stat label={S.perMinute} value={pulse ? count(pulse.turns_last_minute) : "–"} />
        <Stat label={<span title={S.lagHint}>{S.lag}</span>} value={lag === undefined || lag === null ? "–" : <Ms us={lag * 1000} budget={20} />} />
        <Stat label={S.store} value={!pulse ? "–" : pulse.store === "ok" ? <span class="ms good"><Icon name="check" size={16} />{S.storeOk}</span>
          : <span class="ms bad"><Icon name="bad" size={16} />{S.storeAway}</span>} hint={pulse && pulse.rows_waiting > 0 && S.rows(count(pulse.rows_waiting))} />
      </Stats>
    </section>
  );
}

function Figures({ data }: { data: Overview }) {
  const { now, before } = data;
  const where = useStore(zone);
  const slots = data.slots.map((slot) => ({ ...slot, p99_us: null }));
  return (
    <>
      <section aria-label={S.range}>
        <Stats>
          {(["p50", "p95", "p99"] as const).map((which) => <ResponseStat key={which} which={which} now={now.response} before={before.response} />)}
          <Stat label={S.sessions} value={count(now.sessions)} hint={S.before(count(before.sessions))} />
          <Stat label={S.turns} value={count(now.turns)} hint={S.before(count(before.turns))} />
          <Stat label={S.errors} value={count(now.errors)} hint={S.before(count(before.errors))} />
          <Stat label={S.interrupted} value={percent(now.interrupted, now.turns)} hint={before.turns > 0 && S.before(percent(before.interrupted, before.turns))} />
        </Stats>
      </section>
      <Card>
        {now.response.n === 0 ? <Empty title={S.noTurns} icon="latency" /> : (
          <Frame title={S.chart} hint={S.chartHint} table={{
            columns: ["", "n", S.p50, S.p95],
            rows: data.slots.filter((slot) => slot.n > 0).map((slot) => [shortOf(slot.at, where), slot.n, slot.p50_us === null ? "–" : ms(slot.p50_us), slot.p95_us === null ? "–" : ms(slot.p95_us)]),
          }}>
            <TimeChart slots={slots} slot_ms={data.slot_ms} since={data.since} until={data.until} lines={["p50", "p95"]} label={S.chart} height={200} />
          </Frame>
        )}
      </Card>
      <Card flush title={S.bad} actions={data.bad.length > 0 && <Link to="/sessions?bad=true">{S.allBad}</Link>}>
        <DataTable label={S.bad} columns={BAD} rows={data.bad} rowKey={(row) => row.id} to={(row) => `/sessions/${row.id}`} empty={<Empty icon="check" title={S.noBad} />} />
      </Card>
    </>
  );
}

const BAD: Column<Overview["bad"][number]>[] = [
  { key: "at", title: S.when, cell: (row) => <Time at={row.started_at} /> },
  { key: "agent", title: S.agent, cell: (row) => row.agent, wideOnly: true },
  { key: "why", title: S.why, cell: (row) => <span class="why">{row.why}</span> },
  { key: "max", title: S.slowest, cell: (row) => <Ms us={row.max_us} />, align: "right" },
  { key: "said", title: S.said, cell: (row) => row.first_text ?? "", grow: true, wideOnly: true },
];

function ResponseStat({ which, now, before }: { which: Which; now: Percentiles; before: Percentiles }) {
  const value = shown(now, which), was = shown(before, which);
  return (
    <Stat label={<>{S.response} {which}</>} value={value === null ? <span class="none">–</span> : <Ms us={value} />}
      hint={value === null ? now.n > 0 && S.tooFew(SHOWN_FROM[which]) : [which === "p50" && S.n(count(now.n)), was !== null && S.before(ms(was))].filter(Boolean).join(" · ")} />
  );
}

function FirstSteps() {
  const steps: { key: keyof typeof S.steps; icon: IconName; to: string; scope: "talk" | "agents" | "admin" }[] = [
    { key: "talk", icon: "talk", to: "/talk", scope: "talk" }, { key: "agent", icon: "agents", to: "/agents", scope: "agents" },
    { key: "key", icon: "keys", to: "/keys", scope: "admin" }, { key: "invite", icon: "users", to: "/users", scope: "admin" },
  ];
  return (
    <Card title={S.begin}>
      <p class="quiet">{S.beginLead}</p>
      <ol class="first-steps">
        {steps.filter((one) => may(one.scope)).map((one) => (
          <li key={one.key}>
            <Icon name={one.icon} size={22} />
            <div>
              <h3>{S.steps[one.key].title}</h3><p class="quiet">{S.steps[one.key].text}</p>
              {one.key === "talk" ? <a class="button" href="/talk" target="_blank" rel="noopener">{S.steps.talk.link}</a> : <Link class="button" to={one.to}>{S.steps[one.key].link}</Link>}
            </div>
          </li>
        ))}
      </ol>
    </Card>
  );
}
