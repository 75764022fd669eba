// The sessions there were: filters with counts, views to keep, what was said in them. All of it is in the URL.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { may, url, usePages } from "../api";
import { clock } from "../format";
import { zone } from "../prefs";
import { navigate, useQuery, type Query } from "../router";
import { useStore } from "../store";
import { excerpt, marked } from "../session/heard";
import { S } from "../strings/sessions";
import type { Facet, Found, SessionList, SessionRow } from "../types";
import { Badge, Button, Card, Check, DataTable, Dialog, Empty, ErrorBox, Field, Icon, IconButton, Ms, Page, Select, Time, type Column } from "../ui";
import { read, typed } from "../ui/RangePicker";
import "./sessions.css";

const LENGTHS: Record<string, number> = { "1h": 3_600_000, "24h": 86_400_000, "7d": 604_800_000 };
const FACETS = ["agent", "agent_version", "channel", "end_reason"] as const;
const FILTERS = [...FACETS, "live", "bad", "min_ms", "provider", "range", "since", "until", "room_id"];
const PAGE = 50;

export default function SessionsPage() {
  const query = useQuery(), sought = query.get("q").trim();
  return (
    <Page title={S.title} wide>
      <Search key={sought} query={query} />
      <Views query={query} />
      <Sessions query={query} sought={sought} />
    </Page>
  );
}

/** The range of time in the URL; a relative one moves on, in steps, so that drawing again asks nothing new. */
function timesOf(query: Query): { since: number | null; until: number | null } {
  const length = LENGTHS[query.get("range")];
  if (length) return { since: Math.floor(Date.now() / 60_000) * 60_000 - length, until: null };
  return { since: Number(query.get("since")) || null, until: Number(query.get("until")) || null };
}

function apiQuery(query: Query) {
  const { since, until } = timesOf(query);
  return {
    agent: query.get("agent"), agent_version: query.get("agent_version"), channel: query.get("channel"), end_reason: query.get("end_reason"),
    live: query.get("live"), bad: query.get("bad"), min_ms: query.get("min_ms"), provider: query.get("provider"), room_id: query.get("room_id"), since, until,
  };
}

function Search({ query }: { query: Query }) {
  const [text, setText] = useState(query.get("q"));
  const go = (event: Event) => { event.preventDefault(); query.set({ q: text.trim().length > 1 ? text.trim() : null }, { push: true }); };
  return (
    <form class="sessions-search" role="search" onSubmit={go}>
      <Icon name="search" size={16} />
      <Field label={S.search} hideLabel type="search" placeholder={S.search} value={text} minLength={2} maxLength={200}
        onValue={(value) => { setText(value); if (!value) query.set({ q: null }); }} />
    </form>
  );
}

// --- views

interface View { name: string; search: string }
const KEY = "rejoinder.views";

function ownViews(): View[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((one): one is View => typeof (one as View)?.name === "string" && typeof (one as View).search === "string").slice(0, 30) : [];
  } catch { return []; }
}

function Views({ query }: { query: Query }) {
  const [own, setOwn] = useState(ownViews);
  const [naming, setNaming] = useState<string>();
  const utc = useStore(zone) === "utc";
  const keep = (views: View[]) => { setOwn(views); try { localStorage.setItem(KEY, JSON.stringify(views)); } catch { /* it is kept for this page only */ } };
  const day = midnight(Date.now(), utc), before = midnight(day - 3_600_000, utc);
  const now = String(new URLSearchParams(query.all()));
  const fixed: View[] = [
    { name: S.saved.all, search: "" },
    { name: S.saved.bad, search: String(new URLSearchParams({ bad: "true", since: String(before), until: String(day) })) },
    { name: S.saved.slow, search: String(new URLSearchParams({ min_ms: "1500", since: String(day), sort: "slowest" })) },
  ];
  const view = (one: View) => (
    <Button size="s" aria-pressed={one.search === now} onClick={() => navigate(`/sessions${one.search && `?${one.search}`}`)}>{one.name}</Button>
  );
  const save = (event: Event) => {
    event.preventDefault();
    const name = naming?.trim();
    if (name) keep([...own.filter((one) => one.name !== name), { name, search: now }]);
    setNaming(undefined);
  };
  return (
    <div class="row" role="group" aria-label={S.views}>
      {fixed.map((one) => <span key={one.name}>{view(one)}</span>)}
      {own.map((one) => <span key={one.name} class="own-view">{view(one)}<IconButton icon="close" size="s" label={S.forget(one.name)} onClick={() => keep(own.filter((other) => other !== one))} /></span>)}
      {now && ![...fixed, ...own].some((one) => one.search === now) && <Button size="s" kind="quiet" icon="plus" onClick={() => setNaming("")}>{S.saveView}</Button>}
      {naming !== undefined && (
        <Dialog title={S.saveView} onClose={() => setNaming(undefined)}>
          <form onSubmit={save}><Field label={S.viewName} value={naming} onValue={setNaming} maxLength={60} autofocus required />
            <div class="actions end"><Button kind="primary" type="submit">{S.save}</Button></div></form>
        </Dialog>
      )}
    </div>
  );
}

function midnight(at: number, utc: boolean): number {
  const day = new Date(at);
  return utc ? day.setUTCHours(0, 0, 0, 0) : day.setHours(0, 0, 0, 0);
}

// --- filters

function Filters({ query, facets, sort }: { query: Query; facets: Record<string, Facet> | null; sort: string }) {
  const utc = useStore(zone) === "utc";
  const { since, until } = timesOf(query);
  const name = query.get("range") || (since || until ? "custom" : "");
  const [custom, setCustom] = useState(name === "custom");
  useEffect(() => setCustom(name === "custom"), [name]);
  const n = FILTERS.filter((one) => query.has(one)).length;
  const wide = useRef(matchMedia("(min-width: 52rem)").matches);
  const choose = (value: string) => {
    setCustom(value === "custom");
    if (value !== "custom") query.set({ range: value, since: null, until: null });
  };
  return (
    <details class="filters" open={wide.current || undefined}>
      <summary><Icon name="filter" size={16} />{S.filtersN(n)}</summary>
      <div class="filters-body">
        <Select label={S.range} value={custom ? "custom" : name} onValue={choose} options={Object.entries(S.times).map(([value, label]) => ({ value, label }))} />
        {custom && <>
          <Field label={S.from} type="datetime-local" value={since ? typed(since, utc).slice(0, 16) : ""} onValue={(value) => query.set({ range: null, since: String(read(value, utc) || "") })} />
          <Field label={S.to} type="datetime-local" value={until ? typed(until, utc).slice(0, 16) : ""} onValue={(value) => query.set({ range: null, until: String(read(value, utc) || "") })} />
        </>}
        <Select label={S.state} value={query.get("live")} onValue={(value) => query.set({ live: value })}
          options={[{ value: "", label: S.states.all }, { value: "true", label: S.states.live }, { value: "false", label: S.states.ended }]} />
        {FACETS.map((facet) => <FacetSelect key={facet} facet={facet} values={facets?.[facet] ?? []} query={query} />)}
        <Select label={S.slower} value={query.get("min_ms")} onValue={(value) => query.set({ min_ms: value })}
          options={[{ value: "", label: S.slowerAny }, ...[...new Set(["800", "1200", "1500", "3000", query.get("min_ms")])].filter(Boolean).map((value) => ({ value, label: `${value} ms` }))]} />
        <Select label={S.sort} value={sort} onValue={(value) => query.set({ sort: value === "started" ? null : value })} options={Object.entries(S.sorts).map(([value, label]) => ({ value, label }))} />
        <span title={S.badHint}><Check label={S.bad} checked={query.get("bad") === "true"} onValue={(on) => query.set({ bad: on ? "true" : null })} /></span>
        {query.has("provider") && <p class="row"><span class="quiet">{S.provider}</span> <Badge>{query.get("provider")}</Badge> <IconButton size="s" icon="close" label={S.clear} onClick={() => query.set({ provider: null })} /></p>}
        {n > 0 && <Button size="s" kind="quiet" icon="close" onClick={() => query.set(Object.fromEntries(FILTERS.map((one) => [one, null])))}>{S.reset}</Button>}
      </div>
    </details>
  );
}

/** The values there are, with how many sessions have each. */
function FacetSelect({ facet, values, query }: { facet: string; values: Facet; query: Query }) {
  const chosen = query.get(facet);
  const all = chosen && !values.some((one) => one.value === chosen) ? [{ value: chosen, count: 0 }, ...values] : values;
  if (all.length === 0 || (all.length === 1 && !chosen)) return null;
  return <Select label={S.facet[facet]!} value={chosen} onValue={(value) => query.set({ [facet]: value })}
    options={[{ value: "", label: S.states.all }, ...all.map((one) => ({ value: one.value, label: `${one.value} (${one.count})` }))]} />;
}

// --- the list

function Sessions({ query, sought }: { query: Query; sought: string }) {
  const asked = apiQuery(query), sort = query.get("sort", "started");
  const path = url("/v1/sessions", { ...asked, limit: PAGE, facets: true, sort: sort === "started" ? null : sort });
  const list = usePages<SessionRow, SessionList>(path, { keep: true });
  const facets = list.first?.facets ?? null;
  return (
    <>
      <Filters query={query} facets={facets} sort={sort} />
      <div class="stack">
        {list.error && <ErrorBox error={list.error} onRetry={list.reload} />}
        {sought.length > 1 ? <FoundList sought={sought} agent={asked.agent} since={asked.since} until={asked.until} /> : (
          <Card flush>
            <DataTable label={S.title} columns={COLUMNS} rows={list.items ?? (list.error ? [] : undefined)} rowKey={(row) => row.id} to={(row) => `/sessions/${row.id}`} loading={list.loading}
              onMore={list.more} exportName="sessions" rowClass={(row) => (row.live ? "is-live" : "")}
              empty={<Empty icon="sessions" title={FILTERS.some((one) => query.has(one)) ? S.none : S.noneYet}>{FILTERS.some((one) => query.has(one)) && S.noneHint}</Empty>} />
          </Card>
        )}
      </div>
    </>
  );
}

const COLUMNS: Column<SessionRow>[] = [
  { key: "started", title: S.col.started, cell: (row) => <Time at={row.started_at} />, value: (row) => new Date(row.started_at).toISOString(), sortable: false },
  { key: "agent", title: S.col.agent, cell: (row) => <>{row.agent || "–"}{row.agent_version !== null && <span class="quiet"> v{row.agent_version}</span>}</>, value: (row) => row.agent },
  { key: "said", title: S.col.said, cell: (row) => <span class="first-text">{row.first_text ?? ""}</span>, value: (row) => row.first_text, grow: true, sortable: false, wideOnly: true },
  { key: "turns", title: S.col.turns, cell: (row) => row.turns, value: (row) => row.turns, align: "right", wideOnly: true },
  { key: "p50", title: S.col.p50, cell: (row) => <Ms us={row.p50_us} />, value: (row) => row.p50_us, align: "right", wideOnly: true },
  { key: "max", title: S.col.max, cell: (row) => <Ms us={row.max_us} />, value: (row) => row.max_us, align: "right" },
  { key: "interrupted", title: S.col.interrupted, cell: (row) => row.interruptions || "", value: (row) => row.interruptions, align: "right", wideOnly: true },
  { key: "errors", title: S.col.errors, cell: (row) => (row.errors ? <Badge tone="bad">{row.errors}</Badge> : ""), value: (row) => row.errors, align: "right", wideOnly: true },
  { key: "lasted", title: S.col.lasted, cell: (row) => (row.ended_at === null ? "" : clock(row.ended_at - row.started_at)), value: (row) => (row.ended_at === null ? null : row.ended_at - row.started_at), align: "right", wideOnly: true },
  { key: "end", title: S.col.end, cell: (row) => (row.live ? <Badge tone="good" icon="live">{S.live}</Badge> : <span class="nowrap">{row.end_reason ?? "–"}{row.recorded && may("listen") && <> <Icon name="say" size={14} label={S.recorded} /></>}</span>), value: (row) => row.end_reason },
];

function FoundList({ sought, agent, since, until }: { sought: string; agent: string; since: number | null; until: number | null }) {
  const list = usePages<Found>(url("/v1/transcripts", { q: sought, agent, since, until, limit: PAGE }), { keep: true });
  const columns = useMemo<Column<Found>[]>(() => [
    { key: "at", title: S.foundCol.at, cell: (row) => <Time at={row.at} />, value: (row) => new Date(row.at).toISOString(), sortable: false },
    { key: "agent", title: S.foundCol.agent, cell: (row) => row.agent, value: (row) => row.agent, wideOnly: true },
    { key: "who", title: S.foundCol.who, cell: (row) => <Badge tone={row.role === "user" ? "user" : "agent"}>{S.roles[row.role] ?? row.role}</Badge>, value: (row) => row.role },
    { key: "text", title: S.foundCol.text, value: (row) => row.content, sortable: false,
      cell: (row) => <span class="found-text">{marked(excerpt(row.content, sought), sought).map((piece, i) => (piece.hit ? <mark key={i}>{piece.text}</mark> : piece.text))}</span> },
  ], [sought]);
  return (
    <Card flush title={S.found}>
      {list.error && <ErrorBox error={list.error} onRetry={list.reload} />}
      <DataTable label={S.found} columns={columns} rows={list.items ?? (list.error ? [] : undefined)} rowKey={(row) => `${row.session_id} ${row.turn_id} ${row.role} ${row.at}`}
        to={(row) => `/sessions/${row.session_id}${row.turn_id ? `?turn=${row.turn_id}` : ""}`} loading={list.loading} onMore={list.more} exportName="found" empty={<Empty icon="search" title={S.foundNone(sought)} />} />
    </Card>
  );
}
