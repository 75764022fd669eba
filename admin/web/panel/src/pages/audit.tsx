// The audit log: who did what, to what, from where; filtered in the URL, exported.
import { useEffect, useState } from "preact/hooks";
import { get, url, useGet } from "../api";
import { Link, useQuery } from "../router";
import { S as ALL } from "../strings/admin";
import type { AuditRow, Page as Paged } from "../types";
import { Button, Card, Copy, DataTable, Dialog, Empty, ErrorBox, Field, Json, Page, Time, toastError, type Column } from "../ui";
import "./parts/parts.css";

const S = ALL.audit;
const MOST_EXPORTED = 5_000;

/** The page of the panel where what was acted on can be seen. */
function placeOf(row: AuditRow): string | null {
  const kind = row.action.split(".")[0], id = encodeURIComponent(row.subject);
  if (kind === "session" || kind === "recording") return `/sessions/${id}`;
  if (kind === "agent") return `/agents/${id}`;
  if (kind === "webhook") return `/webhooks?webhook=${id}`;
  return { key: "/keys", user: "/users", login: "/users", room: "/rooms", plugin_settings: `/plugins/${id}` }[kind ?? ""] ?? null;
}

export default function AuditPage() {
  const query = useQuery();
  const filter = { actor: query.get("actor"), action: query.get("action"), subject: query.get("subject") };
  const first = url("/v1/audit", { ...filter, limit: 100 });
  const { data, error, loading, reload } = useGet<Paged<AuditRow>>(first);
  const [more, setMore] = useState<{ rows: AuditRow[]; cursor: string | null } | null>(null), [busy, setBusy] = useState(false);
  const [shown, setShown] = useState<AuditRow | null>(null);
  useEffect(() => setMore(null), [first]);
  const next = more ? more.cursor : data?.next_cursor;
  const rows = data && [...data.items, ...(more?.rows ?? [])];
  const onMore = async () => {
    setBusy(true);
    try {
      const page = await get<Paged<AuditRow>>(url("/v1/audit", { ...filter, limit: 100, before: next }));
      setMore({ rows: [...(more?.rows ?? []), ...page.items], cursor: page.next_cursor });
    } catch (failed) {
      toastError(failed);
    } finally {
      setBusy(false);
    }
  };
  const everything = async () => {
    const all: AuditRow[] = [];
    let before: string | null = null;
    do {
      const page: Paged<AuditRow> = await get(url("/v1/audit", { ...filter, limit: 200, before }));
      all.push(...page.items);
      before = page.next_cursor;
    } while (before !== null && all.length < MOST_EXPORTED);
    return all;
  };
  const only = (name: "actor" | "action" | "subject", value: string, text: string) => (
    <button type="button" class="link cell-filter" title={S.only(text)} aria-label={S.only(text)} onClick={() => query.set({ [name]: value }, { push: true })}>{text}</button>
  );
  const columns: Column<AuditRow>[] = [
    { key: "at", title: S.when, value: (row) => row.at, cell: (row) => <Time at={row.at} /> },
    { key: "actor", title: S.actor, value: (row) => row.actor_name, cell: (row) => only("actor", row.actor, row.actor_name || row.actor) },
    { key: "action", title: S.action, value: (row) => row.action, cell: (row) => only("action", row.action, row.action) },
    { key: "subject", title: S.subject, value: (row) => row.subject, cell: (row) => { const to = placeOf(row); return to ? <Link class="nowrap" to={to}>{row.subject}</Link> : <span class="nowrap">{row.subject}</span>; } },
    { key: "detail", title: S.detail, grow: true, wideOnly: true, value: (row) => JSON.stringify(row.detail), cell: (row) => <span class="quiet" title={brief(row)}>{brief(row)}</span> },
    { key: "address", title: S.address, wideOnly: true, value: (row) => row.address, cell: (row) => <code>{row.address}</code> },
  ];
  return (
    <Page title={S.title} lead={S.lead} tools={<Filters filter={filter} />}>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(rows || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={rows} rowKey={(row) => row.id} loading={loading || busy} exportName="audit" exportRows={everything}
        onOpen={setShown} onMore={next ? () => void onMore() : undefined} empty={<Empty icon="audit" title={S.empty}>{S.emptyHint}</Empty>} /></Card>}
      {shown && (
        <Dialog title={S.rowTitle} onClose={() => setShown(null)}>
          <dl class="pairs">
            <dt>{S.when}</dt><dd><Time at={shown.at} mode="full" /></dd>
            <dt>{S.actor}</dt><dd>{shown.actor_name} <code>{shown.actor}</code></dd>
            <dt>{S.action}</dt><dd>{shown.action}</dd>
            <dt>{S.subject}</dt><dd><code>{shown.subject}</code> <Copy text={shown.subject} /></dd>
            <dt>{S.address}</dt><dd>{shown.address || "–"}</dd>
            <dt>{S.id}</dt><dd>{shown.id}</dd>
          </dl>
          <h3>{S.detail}</h3>
          <Json value={shown.detail} open={3} />
        </Dialog>
      )}
    </Page>
  );
}

/** The details in one line. */
function brief(row: AuditRow): string {
  return Object.entries(row.detail).map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
}

function Filters({ filter }: { filter: { actor: string; action: string; subject: string } }) {
  const query = useQuery();
  const [typed, setTyped] = useState(filter);
  useEffect(() => setTyped(filter), [filter.actor, filter.action, filter.subject]);
  const set = Object.values(filter).some(Boolean);
  return (
    <form class="filters" onSubmit={(event) => { event.preventDefault(); query.set(typed, { push: true }); }}>
      <Field label={S.actor} value={typed.actor} placeholder={S.actorHint} onValue={(actor) => setTyped({ ...typed, actor })} />
      <Field label={S.action} value={typed.action} placeholder="key.create" onValue={(action) => setTyped({ ...typed, action })} />
      <Field label={S.subject} value={typed.subject} onValue={(subject) => setTyped({ ...typed, subject })} />
      <Button type="submit" icon="filter">{S.filter}</Button>
      {set && <Button kind="quiet" onClick={() => query.set({ actor: null, action: null, subject: null }, { push: true })}>{S.clear}</Button>}
    </form>
  );
}
