// Webhooks: made (the secret is shown once), changed, switched off and on; what was delivered, tried out and sent again.
import { useState } from "preact/hooks";
import { get, send, url, useGet } from "../api";
import { fullOf } from "../format";
import { zone } from "../prefs";
import { navigate, useQuery } from "../router";
import { S as ALL } from "../strings/admin";
import type { Json as JsonValue, Page as Paged } from "../types";
import { Badge, Button, Card, ConfirmDialog, Copy, DataTable, Dialog, Empty, ErrorBox, Field, Json, Page, Select, TextArea, Time, toast, toastError, type Column } from "../ui";
import { FormDialog, OnceDialog } from "./parts/FormDialog";
import "./parts/parts.css";

const S = ALL.webhooks;

interface Webhook {
  id: string; url: string; events: string[]; description: string; enabled: boolean; created_at: number;
  failing_since: number | null; disabled_at: number | null; disabled_reason: string | null;
}
interface Delivery {
  id: string; type: string; state: "pending" | "delivered" | "failed"; created_at: number; next_attempt_at: number | null;
  attempts: number; delivered_at: number | null; status: number | null; error: string | null; payload: { [key: string]: JsonValue };
}
interface Made { secret: string; webhook: Webhook }
type Open = { what: "create" } | { what: "edit" | "rotate" | "remove"; hook: Webhook } | { what: "once"; made: Made } | null;

const stateOf = (hook: Webhook): keyof typeof S.states => (!hook.enabled ? "off" : hook.failing_since !== null ? "failing" : "on");
const TONES = { on: "good", off: "plain", failing: "bad" } as const;

export default function WebhooksPage() {
  const query = useQuery(), chosen = query.get("webhook");
  const { data, error, loading, reload } = useGet<{ items: Webhook[] }>("/v1/webhooks", { every: 15_000 });
  const [open, setOpen] = useState<Open>(null);
  const close = () => setOpen(null);
  const hook = data?.items.find((one) => one.id === chosen);
  const made = (result: Made) => { setOpen({ what: "once", made: result }); query.set({ webhook: result.webhook.id }); reload(); return false; };
  const columns: Column<Webhook>[] = [
    { key: "url", title: S.url, grow: true, value: (row) => row.url, cell: (row) => row.url },
    { key: "state", title: S.state, value: stateOf, cell: (row) => <Badge tone={TONES[stateOf(row)]}>{S.states[stateOf(row)]}</Badge> },
    { key: "events", title: S.events, value: (row) => row.events.join(" "), cell: (row) => <span class="badges">{row.events.slice(0, 3).map((name) => <Badge key={name}>{name}</Badge>)}{row.events.length > 3 && <Badge title={row.events.join(", ")}>+{row.events.length - 3}</Badge>}</span> },
    { key: "description", title: S.description, wideOnly: true, value: (row) => row.description, cell: (row) => row.description },
    { key: "created", title: S.created, wideOnly: true, value: (row) => row.created_at, cell: (row) => <Time at={row.created_at} /> },
  ];
  return (
    <Page title={S.title} lead={S.lead} actions={<Button kind="primary" icon="plus" onClick={() => setOpen({ what: "create" })}>{S.create}</Button>}>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(data || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={data?.items} rowKey={(row) => row.id} loading={loading} current={chosen}
        onOpen={(row) => query.set({ webhook: row.id === chosen ? null : row.id })} empty={<Empty icon="webhooks" title={S.empty}>{S.emptyHint}</Empty>} /></Card>}
      {data && chosen && !hook && <ErrorBox error={S.unknown} />}
      {hook && <Detail key={hook.id} hook={hook} onChanged={reload} onOpen={setOpen} />}
      {open?.what === "create" && <Edit onDone={made} onClose={close} />}
      {open?.what === "edit" && <Edit hook={open.hook} onDone={() => { reload(); return true; }} onClose={close} />}
      {open?.what === "rotate" && <Rotate hook={open.hook} onMade={made} onClose={close} />}
      {open?.what === "remove" && (
        <ConfirmDialog title={S.removeTitle} confirm={S.remove} danger onClose={close}
          onConfirm={async () => { await send("DELETE", `/v1/webhooks/${open.hook.id}`); navigate("/webhooks", { replace: true }); toast(S.removed); reload(); }}>
          <p><code>{open.hook.url}</code></p><p>{S.removeWhy}</p>
        </ConfirmDialog>
      )}
      {open?.what === "once" && <OnceDialog title={S.onceTitle} why={S.onceWhy} label={S.onceLabel} text={open.made.secret} onClose={close} />}
    </Page>
  );
}

function Detail({ hook, onChanged, onOpen }: { hook: Webhook; onChanged: () => void; onOpen: (open: Open) => void }) {
  const [more, setMore] = useState<Delivery[]>([]), [busy, setBusy] = useState(false), [shown, setShown] = useState<Delivery | null>(null);
  const [cursor, setCursor] = useState<string | null>();
  const path = `/v1/webhooks/${hook.id}/deliveries`;
  const { data, error, loading, reload } = useGet<Paged<Delivery>>(path, { every: 5_000 });
  const next = cursor === undefined ? data?.next_cursor : cursor;
  const rows = data && [...data.items, ...more.filter((row) => !data.items.some((one) => one.id === row.id))];
  const act = async (doing: () => Promise<unknown>, told: string) => {
    setBusy(true);
    try {
      await doing();
      toast(told);
      reload();
      onChanged();
    } catch (failed) {
      toastError(failed);
    } finally {
      setBusy(false);
    }
  };
  const onMore = async () => {
    setBusy(true);
    try {
      const page = await get<Paged<Delivery>>(url(path, { before: next }));
      setMore([...more, ...page.items]);
      setCursor(page.next_cursor);
    } catch (failed) {
      toastError(failed);
    } finally {
      setBusy(false);
    }
  };
  const columns: Column<Delivery>[] = [
    { key: "type", title: S.type, value: (row) => row.type, cell: (row) => <code>{row.type}</code> },
    { key: "when", title: S.when, value: (row) => row.created_at, cell: (row) => <Time at={row.created_at} /> },
    { key: "state", title: S.delivery, value: (row) => row.state, cell: (row) => <Badge tone={row.state === "delivered" ? "good" : row.state === "failed" ? "bad" : "warn"}>{S.deliveryStates[row.state]}</Badge> },
    { key: "attempts", title: S.attempts, align: "right", value: (row) => row.attempts, cell: (row) => row.attempts },
    { key: "answer", title: S.answer, grow: true, value: (row) => row.status ?? row.error, cell: (row) => <>{row.status !== null && <code>{row.status}</code>} {row.error}</> },
    { key: "next", title: S.next, wideOnly: true, value: (row) => row.next_attempt_at, cell: (row) => <Time at={row.next_attempt_at} /> },
    { key: "again", title: ALL.actions, align: "right", cell: (row) => (
      <Button size="s" kind="quiet" icon="refresh" aria-label={`${S.redeliver}: ${row.type}, ${row.id}`} disabled={busy}
        onClick={() => void act(() => send("POST", `${path}/${row.id}/redeliver`), S.redelivered)}>{S.redeliver}</Button>
    ) },
  ];
  return (
    <Card title={hook.url} actions={<>
      <Button size="s" icon="bolt" disabled={busy || !hook.enabled} onClick={() => void act(() => send("POST", `/v1/webhooks/${hook.id}/test`), S.tested)}>{S.test}</Button>
      <Button size="s" onClick={() => onOpen({ what: "edit", hook })}>{S.edit}</Button>
      <Button size="s" disabled={busy} onClick={() => void act(() => send("PATCH", `/v1/webhooks/${hook.id}`, { enabled: !hook.enabled }), hook.enabled ? S.states.off : S.states.on)}>{hook.enabled ? S.disable : S.enable}</Button>
      <Button size="s" onClick={() => onOpen({ what: "rotate", hook })}>{S.rotate}</Button>
      <Button size="s" kind="danger" onClick={() => onOpen({ what: "remove", hook })}>{S.remove}</Button>
    </>}>
      <div class="stack">
        {hook.disabled_at !== null && <p class="notice warn">{S.disabledAt(fullOf(hook.disabled_at, zone.get()), hook.disabled_reason ?? "")}</p>}
        {hook.enabled && hook.failing_since !== null && <p class="notice warn">{S.failing(fullOf(hook.failing_since, zone.get()))}</p>}
        <span class="badges">{hook.events.map((name) => <Badge key={name}>{name}</Badge>)}</span>
        {error && <ErrorBox error={error} onRetry={reload} />}
        {(rows || !error) && <DataTable label={S.deliveries} columns={columns} rows={rows} rowKey={(row) => row.id} loading={loading && !rows} exportName="deliveries"
          onOpen={setShown} onMore={next ? () => void onMore() : undefined} empty={<Empty title={S.noDeliveries}>{S.noDeliveriesHint}</Empty>} />}
      </div>
      {shown && (
        <Dialog wide title={S.deliveryTitle(shown.type)} onClose={() => setShown(null)}>
          <dl class="pairs">
            <dt>webhook-id</dt><dd><code>{shown.id}</code> <Copy text={shown.id} /></dd>
            <dt>{S.delivery}</dt><dd>{S.deliveryStates[shown.state]} {shown.delivered_at !== null && <Time at={shown.delivered_at} mode="full" />}</dd>
            <dt>{S.attempts}</dt><dd>{shown.attempts}</dd>
            <dt>{S.answer}</dt><dd>{shown.status ?? "–"} {shown.error}</dd>
          </dl>
          <div class="row"><h3>{S.payload}</h3><Copy text={JSON.stringify(shown.payload, null, 2)} /></div>
          <Json value={shown.payload} open={3} />
        </Dialog>
      )}
    </Card>
  );
}

const lines = (text: string) => text.split(/[\n,]/).map((line) => line.trim()).filter((line) => line !== "");

const BY_DEFAULT = ["session.started", "session.ended"];

function Edit({ hook, onDone, onClose }: { hook?: Webhook; onDone: (made: Made) => boolean; onClose: () => void }) {
  const [address, setAddress] = useState(hook?.url ?? "https://"), [events, setEvents] = useState(hook?.events.join("\n") ?? "");
  const [description, setDescription] = useState(hook?.description ?? "");
  const submit = async () => {
    const wanted = lines(events), body = { url: address.trim(), events: wanted.length ? wanted : null, description };
    if (hook === undefined) return onDone(await send<Made>("POST", "/v1/webhooks", body));
    // There null leaves what was chosen before.
    const webhook = await send<Webhook>("PATCH", `/v1/webhooks/${hook.id}`, { ...body, events: body.events ?? BY_DEFAULT });
    return onDone({ webhook, secret: "" });
  };
  return (
    <FormDialog title={hook ? S.editTitle : S.create} submit={hook ? S.save : ALL.create} onSubmit={submit} onClose={onClose} fields={["url", "events", "description"]}>
      {(problemOf) => <>
        <Field label={S.url} hint={S.urlHint} type="url" required autoFocus value={address} onValue={setAddress} problem={problemOf("url")} />
        <TextArea label={S.events} hint={S.eventsHint} rows={4} class="mono" spellcheck={false} value={events} onValue={setEvents} problem={problemOf("events")} />
        <Field label={S.description} maxLength={500} value={description} onValue={setDescription} problem={problemOf("description")} />
      </>}
    </FormDialog>
  );
}

function Rotate({ hook, onMade, onClose }: { hook: Webhook; onMade: (made: Made) => boolean; onClose: () => void }) {
  const [overlap, setOverlap] = useState("86400");
  const submit = async () => onMade(await send<Made>("POST", `/v1/webhooks/${hook.id}/rotate`, { overlap_s: Number(overlap) }));
  return (
    <FormDialog title={S.rotateTitle} submit={S.rotate} onSubmit={submit} onClose={onClose}>
      {() => <>
        <p>{S.rotateWhy}</p>
        <Select label={S.overlap} value={overlap} onValue={setOverlap} options={Object.entries(ALL.keys.overlaps).map(([value, label]) => ({ value, label }))} />
      </>}
    </FormDialog>
  );
}
