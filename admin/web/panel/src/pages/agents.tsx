// Agents: who answers here, with their providers and how much they are used.
import { may, useGet } from "../api";
import { count } from "../format";
import { Link } from "../router";
import { S } from "../strings/agents";
import type { Agent, SessionList } from "../types";
import { Badge, Card, DataTable, Empty, ErrorBox, Icon, Page, Time, type Column } from "../ui";
import "./parts/parts.css";

/** The names of a chain, as the table shows them. */
function chain(agent: Agent, kind: string): string {
  const value = agent.definition[kind];
  return Array.isArray(value) ? value.join(" → ") : String(value ?? "");
}

export default function AgentsPage() {
  const { data, error, loading, reload } = useGet<{ items: Agent[] }>("/v1/agents");
  const facets = useGet<SessionList>("/v1/sessions?facets=true&limit=1").data?.facets?.["agent"];
  const sessions = (agent: Agent) => (facets === undefined ? null : (facets.find((one) => one.value === agent.name)?.count ?? 0));
  const columns: Column<Agent>[] = [
    { key: "name", title: S.name, value: (agent) => agent.name, cell: (agent) => agent.name },
    { key: "source", title: S.source, value: (agent) => agent.source, cell: (agent) => <Badge tone={agent.source === "api" ? "accent" : "plain"}>{S.sources[agent.source]}</Badge> },
    { key: "version", title: S.version, align: "right", value: (agent) => agent.version, cell: (agent) => agent.version ?? <span class="none">–</span> },
    ...(["stt", "llm", "tts"] as const).map((kind): Column<Agent> => ({ key: kind, title: kind.toUpperCase(), wideOnly: kind !== "llm", value: (agent) => chain(agent, kind), cell: (agent) => <code>{chain(agent, kind)}</code> })),
    { key: "language", title: S.language, wideOnly: true, value: (agent) => String(agent.definition["language"] ?? ""), cell: (agent) => String(agent.definition["language"] ?? "") },
    { key: "sessions", title: S.sessions, align: "right", value: sessions, cell: (agent) => { const n = sessions(agent); return n === null ? <span class="none">–</span> : <Link to={`/sessions?agent=${encodeURIComponent(agent.name)}`}>{count(n)}</Link>; } },
    { key: "changed", title: S.changed, wideOnly: true, value: (agent) => agent.created_at, cell: (agent) => <Time at={agent.created_at} /> },
  ];
  return (
    <Page title={S.title} lead={S.lead} actions={may("agents") && <Link class="button primary" to="/new-agent"><Icon name="plus" size={16} />{S.create}</Link>}>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(data || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={data?.items} rowKey={(agent) => agent.name} loading={loading && !data} exportName="agents"
        to={(agent) => `/agents/${encodeURIComponent(agent.name)}`} empty={<Empty icon="agents" title={S.empty} />} /></Card>}
    </Page>
  );
}
