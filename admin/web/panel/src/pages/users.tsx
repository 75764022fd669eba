// Users: invited by a link that is shown once, given roles, sent a link for a new password, disabled, deleted.
import { useState } from "preact/hooks";
import { send, useGet, useMe } from "../api";
import { S as ALL } from "../strings/admin";
import type { MadeUser, Role, User } from "../types";
import { Badge, Button, Card, ConfirmDialog, DataTable, Empty, ErrorBox, Field, Icon, Page, Select, Time, toast, toastError, type Column } from "../ui";
import { FormDialog, OnceDialog } from "./parts/FormDialog";
import "./parts/parts.css";

const S = ALL.users;
const ROLES = Object.keys(ALL.roles) as Role[];
type Open = { what: "invite" } | { what: "role" | "reset" | "disable" | "remove"; user: User } | { what: "once"; made: MadeUser } | null;

const stateOf = (user: User): keyof typeof S.states => (user.disabled_at !== null ? "disabled" : user.has_password ? "active" : "invited");
const TONES = { active: "good", invited: "warn", disabled: "plain" } as const;

export default function UsersPage() {
  const me = useMe(), openServer = me?.open ?? false;
  const { data, error, loading, reload } = useGet<{ items: User[] }>("/v1/users");
  const [open, setOpen] = useState<Open>(null);
  const close = () => setOpen(null);
  const once = (made: MadeUser) => { setOpen({ what: "once", made }); reload(); return false; };
  const enable = async (user: User) => {
    try {
      await send("PATCH", `/v1/users/${user.id}`, { disabled: false });
      toast(S.enabled(user.name));
      reload();
    } catch (failed) {
      toastError(failed);
    }
  };
  const columns: Column<User>[] = [
    { key: "name", title: S.name, value: (user) => user.name, cell: (user) => <span class="cell-name">{user.name}{user.id === me?.user.id && <Badge tone="accent">{S.you}</Badge>}</span> },
    { key: "role", title: S.role, value: (user) => user.role, cell: (user) => <Badge tone={user.role === "admin" ? "warn" : "plain"} title={ALL.roles[user.role]}>{user.role}</Badge> },
    { key: "state", title: S.state, value: stateOf, cell: (user) => <Badge tone={TONES[stateOf(user)]}>{S.states[stateOf(user)]}</Badge> },
    { key: "login", title: S.lastLogin, value: (user) => user.last_login_at, cell: (user) => (user.last_login_at === null ? <span class="quiet">{ALL.never}</span> : <Time at={user.last_login_at} mode="ago" />) },
    { key: "created", title: S.created, wideOnly: true, value: (user) => user.created_at, cell: (user) => <Time at={user.created_at} /> },
    { key: "actions", title: ALL.actions, align: "right", cell: (user) => (
      <span class="row-actions" role="group" aria-label={S.more(user.name)}>
        <Button size="s" kind="quiet" onClick={() => setOpen({ what: "role", user })}>{S.changeRole}</Button>
        {user.disabled_at === null && <Button size="s" kind="quiet" onClick={() => setOpen({ what: "reset", user })}>{S.reset}</Button>}
        {user.disabled_at === null
          ? <Button size="s" kind="quiet" onClick={() => setOpen({ what: "disable", user })}>{S.disable}</Button>
          : <Button size="s" kind="quiet" onClick={() => void enable(user)}>{S.enable}</Button>}
        <Button size="s" kind="quiet" icon="trash" aria-label={`${S.remove} ${user.name}`} title={S.remove} onClick={() => setOpen({ what: "remove", user })} />
      </span>
    ) },
  ];
  return (
    <Page title={S.title} lead={S.lead} actions={<Button kind="primary" icon="plus" onClick={() => setOpen({ what: "invite" })}>{S.invite}</Button>}>
      {openServer && <div class="notice"><Icon name="info" /><div><p>{S.open}</p><p>{S.openFix}</p></div></div>}
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(data || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={data?.items} rowKey={(user) => user.id} loading={loading} exportName="users"
        empty={<Empty icon="users" title={S.empty} />} /></Card>}
      <Card title={S.rolesTitle}>
        <dl class="roles">{ROLES.map((role) => <><dt>{role}</dt><dd>{ALL.roles[role]}</dd></>)}</dl>
      </Card>
      {open?.what === "invite" && <Invite onMade={once} onClose={close} />}
      {open?.what === "role" && <ChangeRole user={open.user} onDone={reload} onClose={close} />}
      {open?.what === "reset" && (
        <FormDialog title={S.resetTitle(open.user.name)} submit={S.resetGo} onClose={close} onSubmit={async () => once(await send<MadeUser>("POST", `/v1/users/${open.user.id}/link`))}>
          {() => <p>{S.resetWhy}</p>}
        </FormDialog>
      )}
      {open?.what === "disable" && (
        <ConfirmDialog title={S.disableTitle(open.user.name)} confirm={S.disable} danger onClose={close}
          onConfirm={async () => { await send("PATCH", `/v1/users/${open.user.id}`, { disabled: true }); reload(); }}>
          <p>{S.disableWhy}</p>
        </ConfirmDialog>
      )}
      {open?.what === "remove" && (
        <ConfirmDialog title={S.removeTitle(open.user.name)} confirm={S.remove} danger onClose={close}
          onConfirm={async () => { await send("DELETE", `/v1/users/${open.user.id}`); toast(S.removed(open.user.name)); reload(); }}>
          <p>{S.removeWhy}</p>
        </ConfirmDialog>
      )}
      {open?.what === "once" && (
        <OnceDialog title={S.onceTitle(open.made.user.name)} why={S.onceWhy} label={S.onceLabel} text={open.made.link} onClose={close}>
          <p class="quiet">{S.onceUntil} <Time at={open.made.expires_at} mode="full" /></p>
        </OnceDialog>
      )}
    </Page>
  );
}

const roleOptions = ROLES.map((value) => ({ value, label: value }));

function Invite({ onMade, onClose }: { onMade: (made: MadeUser) => boolean; onClose: () => void }) {
  const [name, setName] = useState(""), [role, setRole] = useState<Role>("viewer");
  const submit = async () => onMade(await send<MadeUser>("POST", "/v1/users", { name: name.trim(), role }));
  return (
    <FormDialog title={S.inviteTitle} submit={S.make} onSubmit={submit} onClose={onClose} fields={["name", "role"]} disabled={name.trim() === ""}>
      {(problemOf) => <>
        <Field label={S.name} hint={S.nameHint} required autoFocus maxLength={64} autocomplete="off" value={name} onValue={setName} problem={problemOf("name")} />
        <Select label={S.role} hint={ALL.roles[role]} value={role} onValue={(value) => setRole(value as Role)} options={roleOptions} />
      </>}
    </FormDialog>
  );
}

function ChangeRole({ user, onDone, onClose }: { user: User; onDone: () => void; onClose: () => void }) {
  const [role, setRole] = useState<Role>(user.role);
  return (
    <FormDialog title={S.roleTitle(user.name)} submit={S.save} onClose={onClose} disabled={role === user.role}
      onSubmit={async () => { await send("PATCH", `/v1/users/${user.id}`, { role }); onDone(); }}>
      {() => <Select label={S.role} hint={ALL.roles[role]} value={role} onValue={(value) => setRole(value as Role)} options={roleOptions} />}
    </FormDialog>
  );
}
