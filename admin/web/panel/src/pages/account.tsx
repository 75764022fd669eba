// One's own account: logins, password, how the panel looks.
import { useState } from "preact/hooks";
import { ApiError, send, useGet, useMe } from "../api";
import { browserOf } from "../format";
import { ThemeSwitch, ZoneSwitch } from "../ui/Switches";
import { S } from "../strings/account";
import type { LoginRow } from "../types";
import { Badge, Button, Card, DataTable, ErrorBox, Field, Page, Time, toast, toastError, type Column } from "../ui";

export default function AccountPage() {
  const who = useMe();
  if (!who) return null;
  return (
    <Page title={S.title}>
      <div class="grid-2">
        <div class="stack">
        <Card title={S.who}>
          {who.open ? <p>{S.open}</p> : (
            <dl class="pairs">
              <dt>{S.name}</dt><dd>{who.user.name}</dd>
              <dt>{S.role}</dt><dd>{S.roles[who.user.role] ?? who.user.role}</dd>
              <dt>{S.mayDo}</dt><dd>{who.scopes.map((scope) => S.scopes[scope] ?? scope).join(", ")}</dd>
            </dl>
          )}
        </Card>
        <Card title={S.look}>
          <dl class="pairs"><dt>{S.theme}</dt><dd><ThemeSwitch /></dd><dt>{S.times}</dt><dd><ZoneSwitch /></dd></dl>
        </Card>
        </div>
        {!who.open && <Password />}
      </div>
      {!who.open && <Logins />}
    </Page>
  );
}

function Logins() {
  const got = useGet<{ items: LoginRow[] }>("/admin/api/logins");
  const end = async (row: LoginRow) => {
    try {
      await send("DELETE", `/admin/api/logins/${row.id}`);
      toast(S.ended);
      got.reload();
    } catch (failed) { toastError(failed); }
  };
  const columns: Column<LoginRow>[] = [
    { key: "client", title: S.client, cell: (row) => <>{browserOf(row.client)} {row.current && <Badge tone="accent">{S.current}</Badge>}</> },
    { key: "address", title: S.address, cell: (row) => row.address },
    { key: "seen", title: S.seen, cell: (row) => <Time at={row.seen_at} /> },
    { key: "began", title: S.began, cell: (row) => <Time at={row.created_at} />, wideOnly: true },
    { key: "end", title: "", cell: (row) => !row.current && <Button size="s" aria-label={S.endLoginOf(browserOf(row.client))} onClick={() => void end(row)}>{S.endLogin}</Button>, align: "right" },
  ];
  return (
    <Card flush title={S.logins}>
      {got.error ? <ErrorBox error={got.error} onRetry={got.reload} /> : <DataTable label={S.logins} columns={columns} rows={got.data?.items} rowKey={(row) => row.id} />}
    </Card>
  );
}

function Password() {
  const [old, setOld] = useState(""), [next, setNext] = useState(""), [again, setAgain] = useState("");
  const [busy, setBusy] = useState(false), [differ, setDiffer] = useState(false);
  const [error, setError] = useState<ApiError>();
  const change = async (event: Event) => {
    event.preventDefault();
    setError(undefined);
    setDiffer(next !== again);
    if (next !== again) return;
    setBusy(true);
    try {
      await send("POST", "/admin/api/password", { old, new: next });
      toast(S.changed);
      setOld(""); setNext(""); setAgain("");
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      setError(failed);
    } finally { setBusy(false); }
  };
  return (
    <Card title={S.password}>
      <form onSubmit={(event) => void change(event)}>
        <Field label={S.old} type="password" autocomplete="current-password" value={old} onValue={setOld} required problem={error?.code === "wrong_password" ? error.message : undefined} />
        <Field label={S.new_} hint={S.newHint} type="password" autocomplete="new-password" value={next} onValue={setNext} required problem={error?.code === "weak_password" ? error.message : undefined} />
        <Field label={S.again} type="password" autocomplete="new-password" value={again} onValue={setAgain} required problem={differ ? S.differ : undefined} />
        {error && !["wrong_password", "weak_password"].includes(error.code) && <ErrorBox error={error} />}
        <Button kind="primary" type="submit" busy={busy}>{S.change}</Button>
      </form>
    </Card>
  );
}
