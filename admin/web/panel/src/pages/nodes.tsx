// Nodes: the processes that share the database, and how each does.
import { useGet } from "../api";
import { bytes, count, duration } from "../format";
import { S as ALL } from "../strings/admin";
import type { Node } from "../types";
import { Badge, Card, DataTable, Empty, ErrorBox, Page, Time, type Column } from "../ui";
import "./parts/parts.css";

const S = ALL.nodes;
const LAG_MS = 20;

const columns: Column<Node>[] = [
  { key: "node", title: S.node, value: (node) => node.host, cell: (node) => <span class="cell-name">{node.host}<span class="quiet">{node.pid}</span>{node.here && <Badge tone="accent">{S.here}</Badge>}</span> },
  { key: "state", title: ALL.keys.state, value: (node) => stateOf(node), cell: (node) => { const state = stateOf(node); return <Badge tone={state === "ok" ? "good" : state === "lost" ? "bad" : "warn"} {...(state === "lost" ? { title: S.lostHint } : {})}>{S[state]}</Badge>; } },
  { key: "sessions", title: S.sessions, align: "right", value: (node) => node.stats.sessions, cell: (node) => <Meter part={node.stats.sessions} whole={node.stats.capacity} text={S.of(count(node.stats.sessions), count(node.stats.capacity))} /> },
  { key: "cpu", title: S.cpu, align: "right", value: (node) => node.stats.cpu_percent, cell: (node) => `${Math.round(node.stats.cpu_percent)} %` },
  { key: "memory", title: S.memory, align: "right", value: (node) => node.stats.rss_bytes, cell: (node) => bytes(node.stats.rss_bytes) },
  { key: "lag", title: S.lag, align: "right", value: (node) => node.stats.loop_lag_p99_ms, cell: (node) => <Lag ms={node.stats.loop_lag_p99_ms} /> },
  { key: "rows", title: S.rows, align: "right", value: (node) => node.stats.rows_waiting, cell: (node) => count(node.stats.rows_waiting) },
  { key: "up", title: S.up, wideOnly: true, align: "right", value: (node) => node.started_at, cell: (node) => <span>{duration((node.lost ? node.seen_at : Date.now()) - node.started_at)}</span> },
  { key: "seen", title: S.seen, wideOnly: true, value: (node) => node.seen_at, cell: (node) => <Time at={node.seen_at} mode="ago" /> },
  { key: "version", title: S.version, wideOnly: true, value: (node) => node.version, cell: (node) => node.version },
];

function stateOf(node: Node): "lost" | "draining" | "ok" {
  return node.lost ? "lost" : node.stats.draining ? "draining" : "ok";
}

function Meter({ part, whole, text }: { part: number; whole: number; text: string }) {
  const share = whole > 0 ? Math.min(1, part / whole) : 0;
  return <span class="meter"><span>{text}</span><span aria-hidden="true"><i class={share > 0.8 ? "high" : ""} style={{ width: `${share * 100}%` }} /></span></span>;
}

function Lag({ ms }: { ms: number | null }) {
  if (ms === null) return <span class="none">–</span>;
  return <span title={S.lagHint}>{ms > LAG_MS ? <Badge tone="warn" icon="warn">{ms.toFixed(1)} ms</Badge> : `${ms.toFixed(1)} ms`}</span>;
}

export default function NodesPage() {
  const { data, error, loading, reload } = useGet<{ items: Node[] }>("/v1/nodes", { every: 2_000 });
  const nodes = data?.items;
  return (
    <Page title={S.title} lead={S.lead}>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(nodes || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={nodes} rowKey={(node) => node.id} loading={loading && !nodes} exportName="nodes" empty={<Empty icon="nodes" title={S.empty} />} /></Card>}
      {nodes?.filter((node) => Object.keys(node.stats.loaded).length > 0 && !node.lost).map((node) => (
        <Card key={node.id} title={`${S.loaded}: ${node.host} ${node.pid}`}>
          <p class="hint">{S.loadedHint}</p>
          <div class="node-loaded">
            {Object.entries(node.stats.loaded).sort((a, b) => b[1] - a[1]).map(([name, seconds]) => <Badge key={name}>{name} · {seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`}</Badge>)}
          </div>
        </Card>
      ))}
    </Page>
  );
}
