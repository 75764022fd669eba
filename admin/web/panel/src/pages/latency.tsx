// Latency: percentiles over time, how they are spread, which stage and which provider takes the time, the slowest turns.
import { url, useGet } from "../api";
import { Frame, type Table } from "../charts/Frame";
import { Heatmap } from "../charts/Heatmap";
import { cellAt, grid, sessionsQuery } from "../charts/heatmap";
import { mainCause, shown, SHOWN_FROM, type Which } from "../charts/percentiles";
import { byStage, stageColour, stageMeans, stageName } from "../charts/stages";
import { TimeChart } from "../charts/TimeChart";
import { StageLegend, Waterfall } from "../charts/Waterfall";
import { count, duration, ms, percent, shortOf } from "../format";
import { zone as zoneStore, type Zone } from "../prefs";
import { navigate, useQuery } from "../router";
import { useStore } from "../store";
import { S as CHARTS } from "../strings/charts";
import { S } from "../strings/latency";
import type { Agent, Latency, Percentiles, PluginOffer, SlowTurn } from "../types";
import { Card, DataTable, Empty, ErrorBox, Loading, Ms, Page, RangePicker, Select, Stat, Stats, Time, useRange, type Column } from "../ui";
import { useTick } from "./parts/tick";
import "./parts/parts.css";
import "./latency.css";

const GROUPS = ["agent", "stt", "llm", "tts", "version"] as const;
const WHICH: readonly Which[] = ["p50", "p95", "p99"];

export default function LatencyPage() {
  const query = useQuery(), range = useRange("24h");
  const agent = query.get("agent"), provider = query.get("provider"), group = query.get("group", "agent");
  useTick(range.until === null ? 15_000 : 3_600_000);
  const asked = url("/v1/latency", { since: range.since, until: range.until, agent, provider, group });
  const { data, error, loading, reload } = useGet<Latency>(asked, { keep: true });
  return (
    <Page wide title={S.title} lead={S.lead} tools={<div class="filters"><RangePicker /><Filters agent={agent} provider={provider} /></div>}>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {!data ? !error && <Loading lines={8} /> : <Figures data={data} agent={agent} group={group} busy={loading} />}
    </Page>
  );
}

function Filters({ agent, provider }: { agent: string; provider: string }) {
  const query = useQuery();
  const agents = useGet<{ items: Agent[] }>("/v1/agents").data?.items ?? [];
  const offers = useGet<PluginOffer>("/v1/plugins").data?.providers ?? [];
  const names = withChosen(agents.map((one) => one.name), agent);
  const providers = withChosen(offers.filter((one) => ["stt", "llm", "tts"].includes(one.kind)).map((one) => `${one.kind}:${one.name}`), provider);
  const all = { value: "", label: S.all };
  return (
    <>
      <Select label={S.agent} value={agent} onValue={(value) => query.set({ agent: value })} options={[all, ...names.map((name) => ({ value: name, label: name }))]} />
      <Select label={S.provider} value={provider} onValue={(value) => query.set({ provider: value })} options={[all, ...providers.map((name) => ({ value: name, label: name }))]} />
    </>
  );
}

const withChosen = (names: string[], chosen: string): string[] => [...new Set([...names, ...(chosen ? [chosen] : [])])].sort();

function Figures({ data, agent, group, busy }: { data: Latency; agent: string; group: string; busy: boolean }) {
  const query = useQuery(), zone = useStore(zoneStore);
  if (data.all.n === 0) return <Empty icon="latency" title={S.empty}>{S.emptyHint}</Empty>;
  return (
    <div class="latency" aria-busy={busy}>
      <Stats>
        {WHICH.map((which) => <Headline key={which} of={data.all} which={which} />)}
        <Stat label={S.turns} value={count(data.all.n)} hint={S.measured} />
      </Stats>
      <Card>
        <Frame title={S.overTime} hint={S.overTimeHint(duration(data.slot_ms))} table={slotTable(data, zone)}>
          <TimeChart label={S.overTime} slots={data.slots} slot_ms={data.slot_ms} since={data.since} until={data.until}
            onRange={(since, until) => query.set({ range: null, since: String(Math.round(since)), until: String(Math.round(until)) }, { push: true })} />
        </Frame>
      </Card>
      <Card>
        <Frame title={S.heat} hint={S.heatHint} table={heatTable(data, zone)}>
          <Heatmap label={S.heat} source={data} open={(cell) => navigate(`/sessions?${sessionsQuery(cell, agent)}`)} />
        </Frame>
      </Card>
      <Card><Stages stages={data.stages} /></Card>
      <Card title={S.groups} actions={
        <Select label={S.groupBy} hideLabel value={group} onValue={(value) => query.set({ group: value === "agent" ? null : value })}
          options={GROUPS.map((value) => ({ value, label: S.group[value] }))} />
      }>
        <DataTable label={`${S.groups}: ${S.group[group as "agent"] ?? group}`} columns={groupColumns(group)} rows={data.groups} rowKey={(row) => row.value} exportName="latency-groups" />
      </Card>
      <Slowest turns={data.slowest} />
    </div>
  );
}

function Headline({ of, which }: { of: Percentiles; which: Which }) {
  const us = shown(of, which);
  return <Stat label={which} value={us === null ? "–" : <Ms us={us} />} hint={us === null ? S.needs(SHOWN_FROM[which]) : undefined} />;
}

const told = (of: Percentiles, which: Which): string => { const us = shown(of, which); return us === null ? "–" : ms(us); };

function slotTable(data: Latency, zone: Zone): Table {
  return {
    columns: [CHARTS.from, CHARTS.n, ...WHICH],
    rows: data.slots.filter((slot) => slot.n > 0).map((slot) => [shortOf(slot.at, zone), slot.n, ...WHICH.map((which) => told(slot, which))]),
  };
}

function heatTable(data: Latency, zone: Zone): Table {
  const made = grid(data), rows: Table["rows"] = [];
  made.counts.forEach((n, i) => {
    if (n === 0) return;
    const cell = cellAt(data, made, i % made.columns, Math.floor(i / made.columns));
    rows.push([shortOf(cell.since, zone), ms(cell.over_us), cell.to_us === null ? "∞" : ms(cell.to_us), n]);
  });
  return { columns: [CHARTS.from, ">", "≤", CHARTS.n], rows };
}

type Stage = Latency["stages"][number];

function Stages({ stages }: { stages: Stage[] }) {
  const sorted = [...stages].sort(byStage);
  const most = Math.max(1, ...sorted.map((stage) => shown(stage, "p99") ?? shown(stage, "p95") ?? stage.p50_us ?? 0));
  const table: Table = {
    columns: [S.stage, CHARTS.n, ...WHICH, S.hidden],
    rows: sorted.map((stage) => [stageName(stage.name), stage.n, ...WHICH.map((which) => told(stage, which)), percent(stage.hidden, stage.n)]),
  };
  return (
    <Frame title={S.stages} hint={S.stagesHint} table={table}>
      <ul class="stages">
        {sorted.map((stage) => (
          <li key={stage.name}>
            <div class="stage-name" title={stageMeans(stage.name)}>{stageName(stage.name)}<span>{stageMeans(stage.name)}</span></div>
            <Spread stage={stage} most={most} />
            <div class="stage-numbers">
              {WHICH.map((which) => <span key={which}><small>{which}</small> {told(stage, which)}</span>)}
              {stage.hidden > 0 && <span title={S.hiddenMeans}><small>{S.hidden}</small> {percent(stage.hidden, stage.n)}</span>}
            </div>
          </li>
        ))}
      </ul>
    </Frame>
  );
}

function Spread({ stage, most }: { stage: Stage; most: number }) {
  const at = (us: number | null) => `${((us ?? 0) / most) * 100}%`;
  const p95 = shown(stage, "p95"), p99 = shown(stage, "p99"), colour = `var(${stageColour(stage.name)})`;
  return (
    <div class="spread" aria-hidden="true" style={{ color: colour }}>
      {p99 !== null && <i class="to-p99" style={{ left: at(stage.p50_us), right: `calc(100% - ${at(p99)})` }} />}
      {p95 !== null && <i class="to-p95" style={{ left: at(stage.p50_us), right: `calc(100% - ${at(p95)})` }} />}
      <i class="p50" style={{ left: at(stage.p50_us) }} />
    </div>
  );
}

type Grouped = Latency["groups"][number];
const number = (which: Which): Column<Grouped> => ({
  key: which, title: which, align: "right", value: (row) => shown(row, which), cell: (row) => <Ms us={shown(row, which)} />,
});
const COUNT: Column<Grouped> = { key: "n", title: CHARTS.n, align: "right", value: (row) => row.n, cell: (row) => count(row.n) };
const made = new Map<string, Column<Grouped>[]>();

function groupColumns(group: string): Column<Grouped>[] {
  let columns = made.get(group);
  if (columns === undefined) {
    const title = S.group[group as "agent"] ?? S.value;
    columns = [{ key: "value", title, grow: true, value: (row) => row.value, cell: (row) => row.value || S.none }, COUNT, ...WHICH.map(number)];
    made.set(group, columns);
  }
  return columns;
}

function cause(turn: SlowTurn): string {
  const found = mainCause(turn.spans);
  if (found === null) return "";
  // Chunks are the LLM's sentences.
  const kind = found.name === "chunk" ? "llm" : found.name;
  return S.causeOf(stageName(found.name), turn.providers?.[kind], percent(found.share, 1));
}

function Slowest({ turns }: { turns: SlowTurn[] }) {
  const scale = Math.max(1, ...turns.map((turn) => turn.response_us));
  const names = [...new Set(turns.flatMap((turn) => turn.spans.filter((span) => span.us > 0).map((span) => span.name)))].sort((a, b) => byStage({ name: a }, { name: b }));
  const columns: Column<SlowTurn>[] = [
    { key: "at", title: S.when, value: (turn) => turn.at, cell: (turn) => <Time at={turn.at} /> },
    { key: "response", title: S.response, align: "right", value: (turn) => turn.response_us, cell: (turn) => <Ms us={turn.response_us} /> },
    { key: "spans", title: S.spans, cell: (turn) => <Waterfall spans={turn.spans} scale_us={scale} /> },
    { key: "cause", title: S.cause, value: cause, cell: (turn) => <span class="nowrap">{cause(turn)}</span> },
    { key: "agent", title: S.agent, wideOnly: true, value: (turn) => turn.agent, cell: (turn) => turn.agent },
    { key: "said", title: S.said, grow: true, wideOnly: true, value: (turn) => turn.user_text, cell: (turn) => turn.user_text ?? <span class="quiet">{S.nothingSaid}</span> },
  ];
  return (
    <Card title={S.slowest}>
      <p class="chart-hint">{S.slowestHint}</p>
      <StageLegend names={names} />
      <DataTable label={S.slowest} columns={columns} rows={turns} rowKey={(turn) => turn.turn_id} exportName="slowest-turns"
        to={(turn) => `/sessions/${encodeURIComponent(turn.session_id)}?turn=${encodeURIComponent(turn.turn_id)}`} />
    </Card>
  );
}
