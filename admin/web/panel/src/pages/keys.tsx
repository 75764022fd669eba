// API keys: listed, made (the secret is shown once), rotated with an overlap, revoked.
import { useState } from "preact/hooks";
import { send, useGet } from "../api";
import { S as ALL } from "../strings/admin";
import type { Key, MadeKey, Scope } from "../types";
import { Badge, Button, Card, Check, ConfirmDialog, DataTable, Empty, ErrorBox, Field, Page, Select, Time, toast, type Column } from "../ui";
import { FormDialog, OnceDialog } from "./parts/FormDialog";
import "./parts/parts.css";

const S = ALL.keys;
const SCOPES = Object.keys(ALL.scopes) as Scope[];

type State = keyof typeof S.states;
function stateOf(key: Key, now: number): State {
  if (key.revoked_at !== null && key.revoked_at <= now) return "revoked";
  return key.expires_at !== null && key.expires_at <= now ? "expired" : "good";
}
const usable = (key: Key, now: number) => stateOf(key, now) === "good";

type Open = { what: "create" } | { what: "rotate" | "revoke"; key: Key } | { what: "once"; made: MadeKey } | null;

export default function KeysPage() {
  const { data, error, loading, reload } = useGet<{ items: Key[] }>("/v1/keys");
  const [open, setOpen] = useState<Open>(null), [all, setAll] = useState(false);
  const now = Date.now(), keys = data?.items;
  const shown = keys?.filter((key) => all || usable(key, now)), gone = (keys?.length ?? 0) - (keys?.filter((key) => usable(key, now)).length ?? 0);
  const close = () => setOpen(null);
  const made = (result: MadeKey) => { setOpen({ what: "once", made: result }); reload(); return false; };
  const columns: Column<Key>[] = [
    { key: "name", title: S.name, value: (key) => key.name, cell: (key) => <span class="cell-name">{key.name}{key.dev && <Badge>{S.dev}</Badge>}</span> },
    { key: "prefix", title: S.prefix, value: (key) => key.prefix, cell: (key) => <code>{key.prefix}…</code> },
    { key: "scopes", title: S.scopes, value: (key) => key.scopes.join(" "), cell: (key) => <span class="badges">{key.scopes.map((scope) => <Badge key={scope} tone={scope === "admin" ? "warn" : "plain"} title={ALL.scopes[scope]}>{scope}</Badge>)}</span> },
    { key: "state", title: S.state, value: (key) => stateOf(key, now), cell: (key) => <Badge tone={usable(key, now) ? "good" : "plain"}>{S.states[stateOf(key, now)]}</Badge> },
    { key: "used", title: S.used, value: (key) => key.last_used_at, cell: (key) => (key.last_used_at === null ? <span class="quiet">{ALL.never}</span> : <Time at={key.last_used_at} mode="ago" />) },
    { key: "created", title: S.created, wideOnly: true, value: (key) => key.created_at, cell: (key) => <Time at={key.created_at} /> },
    { key: "expires", title: S.expires, value: (key) => key.expires_at, cell: (key) => (key.expires_at === null ? <span class="quiet">{ALL.never}</span> : <Time at={key.expires_at} />) },
    { key: "actions", title: ALL.actions, align: "right", cell: (key) => usable(key, now) && (
      <span class="row-actions">
        <Button size="s" kind="quiet" aria-label={S.rotateTitle(key.name)} onClick={() => setOpen({ what: "rotate", key })}>{S.rotate}</Button>
        <Button size="s" kind="quiet" aria-label={`${S.revoke} ${key.name}`} onClick={() => setOpen({ what: "revoke", key })}>{S.revoke}</Button>
      </span>
    ) },
  ];
  return (
    <Page title={S.title} lead={S.lead} actions={<Button kind="primary" icon="plus" onClick={() => setOpen({ what: "create" })}>{S.create}</Button>}>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(keys || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={shown} rowKey={(key) => key.id} loading={loading} exportName="keys"
        empty={<Empty icon="keys" title={S.empty}>{S.emptyHint}</Empty>} /></Card>}
      {gone > 0 && <Button size="s" kind="quiet" class="start" onClick={() => setAll(!all)}>{all ? S.hide : S.hidden(gone)}</Button>}
      {open?.what === "create" && <Create onMade={made} onClose={close} />}
      {open?.what === "rotate" && <Rotate of={open.key} onMade={made} onClose={close} />}
      {open?.what === "revoke" && (
        <ConfirmDialog title={S.revokeTitle(open.key.name)} confirm={S.revoke} danger onClose={close}
          onConfirm={async () => { await send("DELETE", `/v1/keys/${open.key.id}`); toast(S.revoked(open.key.name)); reload(); }}>
          <p>{S.revokeWhy}</p>
        </ConfirmDialog>
      )}
      {open?.what === "once" && (
        <OnceDialog title={S.onceTitle(open.made.record.name)} why={S.onceWhy} label={S.onceLabel} text={open.made.key} onClose={close}>
          <p class="quiet">{S.use}</p>
          <pre class="code">{`curl ${location.origin}/v1/agents -H "authorization: Bearer $KEY"`}</pre>
        </OnceDialog>
      )}
    </Page>
  );
}

function Create({ onMade, onClose }: { onMade: (made: MadeKey) => boolean; onClose: () => void }) {
  const [name, setName] = useState(""), [scopes, setScopes] = useState<Scope[]>(["read"]), [ttl, setTtl] = useState("0");
  const submit = async () => onMade(await send<MadeKey>("POST", "/v1/keys", { name: name.trim(), scopes, ttl_s: ttl === "0" ? null : Number(ttl) }));
  return (
    <FormDialog title={S.create} submit={ALL.create} onSubmit={submit} onClose={onClose} fields={["name", "scopes"]} disabled={name.trim() === "" || scopes.length === 0}>
      {(problemOf) => <>
        <Field label={S.name} hint={S.nameHint} required maxLength={100} autoFocus value={name} onValue={setName} problem={problemOf("name")} />
        <fieldset class="group">
          <legend>{S.scopes}</legend>
          {SCOPES.map((scope) => (
            <Check key={scope} label={scope} hint={ALL.scopes[scope]} checked={scopes.includes(scope)}
              onValue={(on) => setScopes(on ? SCOPES.filter((one) => one === scope || scopes.includes(one)) : scopes.filter((one) => one !== scope))} />
          ))}
          {scopes.length === 0 && <p class="problem" role="alert">{S.needScope}</p>}
        </fieldset>
        <Select label={S.expiry} value={ttl} onValue={setTtl} options={options(S.expiries)} />
      </>}
    </FormDialog>
  );
}

function Rotate({ of, onMade, onClose }: { of: Key; onMade: (made: MadeKey) => boolean; onClose: () => void }) {
  const [overlap, setOverlap] = useState("86400");
  const submit = async () => onMade(await send<MadeKey>("POST", `/v1/keys/${of.id}/rotate`, { overlap_s: Number(overlap) }));
  return (
    <FormDialog title={S.rotateTitle(of.name)} submit={S.rotate} onSubmit={submit} onClose={onClose}>
      {() => <><p>{S.rotateWhy}</p><Select label={S.overlap} value={overlap} onValue={setOverlap} options={options(S.overlaps)} /></>}
    </FormDialog>
  );
}

/** Objects with numbers as keys have them in rising order. */
const options = (labels: Record<string, string>) => Object.entries(labels).map(([value, label]) => ({ value, label }));
