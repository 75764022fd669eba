// Rooms: made with an agent, links and tokens for people by role, and what became of the session of each.
import { useState } from "preact/hooks";
import { get, may, send, url, useGet } from "../api";
import { Link, useQuery } from "../router";
import { S as ADMIN } from "../strings/admin";
import { S } from "../strings/rooms";
import type { Agent, Join, Live, Page as Paged, Room, SessionList } from "../types";
import { Badge, Button, Card, Copy, DataTable, Empty, ErrorBox, Field, Page, Select, Time, toastError, type Column } from "../ui";
import { FormDialog, OnceDialog } from "./parts/FormDialog";
import "./parts/parts.css";

type State = keyof typeof S.states;
const TONES = { waiting: "accent", live: "good", over: "plain", expired: "plain" } as const;
type Role = keyof typeof S.roles;
type Open = { what: "create" } | { what: "invite"; room: Room } | { what: "link"; join: Join } | null;

export default function RoomsPage() {
  const query = useQuery();
  const { data, error, loading, reload } = useGet<Paged<Room>>("/v1/rooms", { every: 5_000 });
  const live = useGet<{ items: Live[] }>("/v1/live", { every: 5_000 }).data?.items;
  const [more, setMore] = useState<{ rows: Room[]; cursor: string | null } | null>(null), [busy, setBusy] = useState(false);
  const [open, setOpen] = useState<Open>(query.get("new") === "1" ? { what: "create" } : null);
  const rooms = data && [...data.items, ...(more?.rows ?? []).filter((room) => !data.items.some((one) => one.id === room.id))];
  // Of rooms nobody is in it is asked once whether somebody was.
  const sessions = useGet<SessionList>("/v1/sessions?limit=200", { every: 10_000 }).data?.items;
  const now = Date.now();
  const stateOf = (room: Room): State => {
    if (live?.some((one) => one.id === room.session_id)) return "live";
    const session = sessions?.find((one) => one.id === room.session_id);
    if (session) return session.live ? "live" : "over";
    return room.expires_at <= now ? "expired" : "waiting";
  };
  const next = more ? more.cursor : data?.next_cursor;
  const onMore = async () => {
    setBusy(true);
    try {
      const page = await get<Paged<Room>>(url("/v1/rooms", { before: next }));
      setMore({ rows: [...(more?.rows ?? []), ...page.items], cursor: page.next_cursor });
    } catch (failed) {
      toastError(failed);
    } finally {
      setBusy(false);
    }
  };
  const close = () => { setOpen(null); query.set({ new: null, agent: null }); };
  const columns: Column<Room>[] = [
    { key: "agent", title: S.agent, value: (room) => room.agent, cell: (room) => room.agent },
    { key: "state", title: S.state, value: stateOf, cell: (room) => { const state = stateOf(room); return <Badge tone={TONES[state]}>{S.states[state]}</Badge>; } },
    { key: "id", title: S.id, wideOnly: true, value: (room) => room.id, cell: (room) => <code>{room.id}</code> },
    { key: "made", title: S.made, value: (room) => room.created_at, cell: (room) => <Time at={room.created_at} /> },
    { key: "expires", title: S.expires, wideOnly: true, value: (room) => room.expires_at, cell: (room) => <Time at={room.expires_at} /> },
    { key: "session", title: S.session, value: (room) => room.session_id, cell: (room) => (["live", "over"].includes(stateOf(room)) ? <Link to={`/sessions/${room.session_id}`}>{S.openSession}</Link> : <span class="none">–</span>) },
    { key: "actions", title: ADMIN.actions, align: "right", cell: (room) => ["live", "waiting"].includes(stateOf(room)) && may("talk") && (
      <Button size="s" kind="quiet" icon="plus" aria-label={`${S.invite}: ${room.id}`} onClick={() => setOpen({ what: "invite", room })}>{S.invite}</Button>
    ) },
  ];
  return (
    <Page title={S.title} lead={S.lead} actions={may("talk") && <Button kind="primary" icon="plus" onClick={() => setOpen({ what: "create" })}>{S.create}</Button>}>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(rooms || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={rooms} rowKey={(room) => room.id} loading={busy || (loading && !rooms)} exportName="rooms"
        onMore={next ? () => void onMore() : undefined} empty={<Empty icon="rooms" title={S.empty}>{S.emptyHint}</Empty>} /></Card>}
      {open?.what === "create" && <Invite agent={query.get("agent")} onClose={close} onJoin={(join) => { setOpen({ what: "link", join }); reload(); }} />}
      {open?.what === "invite" && <Invite room={open.room} agent={open.room.agent} onClose={close} onJoin={(join) => setOpen({ what: "link", join })} />}
      {open?.what === "link" && <LinkDialog join={open.join} onClose={close} />}
    </Page>
  );
}

function Invite({ room, agent: first, onJoin, onClose }: { room?: Room; agent: string; onJoin: (join: Join) => void; onClose: () => void }) {
  const agents = useGet<{ items: Agent[] }>(room ? null : "/v1/agents").data?.items ?? [];
  const [agent, setAgent] = useState(first), [role, setRole] = useState<Role>("speaker"), [identity, setIdentity] = useState(""), [ttl, setTtl] = useState("3600");
  const roles = (Object.keys(S.roles) as Role[]).filter((one) => one !== "operator" || may("control"));
  const submit = async () => {
    const token = { role, identity: identity.trim() || null, ttl_s: Number(ttl) };
    onJoin(room ? await send<Join>("POST", `/v1/rooms/${room.id}/tokens`, token) : (await send<Room>("POST", "/v1/rooms", { ...token, agent: agent || null })).join);
    return false;
  };
  const names = agents.map((one) => ({ value: one.name, label: one.name }));
  return (
    <FormDialog title={room ? S.inviteTitle : S.create} submit={room ? S.makeLink : S.make} onSubmit={submit} onClose={onClose} fields={["identity", "ttl_s"]}>
      {(problemOf) => <>
        {room ? <p><code>{room.id}</code> · {room.agent}</p>
          : <Select label={S.agent} autoFocus value={agent} onValue={setAgent} options={[{ value: "", label: S.defaultAgent }, ...names]} problem={problemOf("agent")} />}
        <Select label={S.role} autoFocus={room !== undefined} hint={`${S.roles[role]}${may("control") ? "" : ` · ${S.noOperator}`}`} value={role} onValue={(value) => setRole(value as Role)} options={roles.map((value) => ({ value, label: value }))} />
        <Field label={S.identity} hint={S.identityHint} maxLength={100} value={identity} onValue={setIdentity} problem={problemOf("identity")} />
        <Select label={S.ttl} hint={S.ttlHint} value={ttl} onValue={setTtl} options={Object.entries(S.ttls).map(([value, label]) => ({ value, label }))} />
      </>}
    </FormDialog>
  );
}

function LinkDialog({ join, onClose }: { join: Join; onClose: () => void }) {
  return (
    <OnceDialog title={S.linkTitle} why={S.linkWhy} label={S.link} text={join.page ?? ""} onClose={onClose}>
      <p class="row"><a class="button" href={join.page ?? ""} target="_blank" rel="noopener">{S.open}</a><span class="quiet">{S.role} {join.role} · {S.until} <Time at={join.expires_at ?? null} mode="full" /></span></p>
      <details>
        <summary>{S.programs}</summary>
        <dl class="pairs">
          <dt>{S.ws}</dt><dd><code>{join.ws}</code> <Copy text={join.ws} label={ADMIN.copyThe(S.ws)} /></dd>
          <dt>{S.events}</dt><dd><code>{join.events}</code> <Copy text={join.events} label={ADMIN.copyThe(S.events)} /></dd>
          <dt>{S.token}</dt><dd><code>{join.token}</code> <Copy text={join.token ?? ""} label={ADMIN.copyThe(S.token)} /></dd>
        </dl>
      </details>
    </OnceDialog>
  );
}
