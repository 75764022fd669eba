// Who uses an agent: its newest sessions, and the agents that transfer to it.
import { url, useGet } from "../api";
import { Link } from "../router";
import { S } from "../strings/agents";
import type { Agent, SessionList, SessionRow } from "../types";
import { Card, DataTable, Empty, ErrorBox, Ms, Time, type Column } from "../ui";

const columns: Column<SessionRow>[] = [
  { key: "started", title: S.started, value: (row) => row.started_at, cell: (row) => <Time at={row.started_at} /> },
  { key: "version", title: S.version, align: "right", value: (row) => row.agent_version, cell: (row) => row.agent_version ?? <span class="none">–</span> },
  { key: "turns", title: S.turns, align: "right", value: (row) => row.turns, cell: (row) => row.turns },
  { key: "p50", title: "p50", align: "right", value: (row) => row.p50_us, cell: (row) => <Ms us={row.p50_us} /> },
  { key: "max", title: "max", align: "right", wideOnly: true, value: (row) => row.max_us, cell: (row) => <Ms us={row.max_us} /> },
];

export function UsedBy({ name, users }: { name: string; users: Agent[] }) {
  const { data, error, loading, reload } = useGet<SessionList>(url("/v1/sessions", { agent: name, limit: 20 }));
  return (
    <div class="stack">
      <Card title={S.transfersHere}>
        {users.length === 0 ? <p class="quiet">{S.nobody}</p> : <ul class="badges">{users.map((one) => <li key={one.name}><Link to={`/agents/${encodeURIComponent(one.name)}`}>{one.name}</Link></li>)}</ul>}
      </Card>
      <Card title={S.usedLead} actions={<Link class="button size-s" to={`/sessions?agent=${encodeURIComponent(name)}`}>{S.allSessions}</Link>}>
        {error ? <ErrorBox error={error} onRetry={reload} />
          : <DataTable label={S.usedLead} columns={columns} rows={data?.items} rowKey={(row) => row.id} loading={loading && !data} to={(row) => `/sessions/${row.id}`} empty={<Empty icon="sessions" title={S.noSessions} />} />}
      </Card>
    </div>
  );
}
