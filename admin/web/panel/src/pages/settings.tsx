// Settings in effect, each with where it comes from; and what this is.
import { useMemo } from "preact/hooks";
import { useGet, useMe } from "../api";
import { Link, useQuery } from "../router";
import { S as ALL } from "../strings/admin";
import type { Setting } from "../types";
import { Badge, Card, Check, Choice, DataTable, Empty, ErrorBox, Field, Page, type Column } from "../ui";
import "./parts/parts.css";

const S = ALL.settings;
const TONES = { default: "plain", file: "accent", env: "accent", flag: "warn", panel: "accent" } as const;

function told(setting: Setting): string {
  if (setting.secret) return setting.origin === "default" ? S.secretUnset : S.secretSet;
  return typeof setting.value === "string" ? setting.value : JSON.stringify(setting.value);
}

const columns: Column<Setting>[] = [
  { key: "key", title: S.key, value: (row) => row.key, cell: (row) => <code>{row.key}</code> },
  { key: "value", title: S.value, value: told, cell: (row) => (row.secret ? <Badge icon="keys">{told(row)}</Badge> : <code class="setting-value" title={told(row)}>{told(row)}</code>) },
  { key: "origin", title: S.origin, value: (row) => row.origin, cell: (row) => <Badge tone={TONES[row.origin] ?? "plain"}>{S.origins[row.origin] ?? row.origin}</Badge> },
  { key: "meaning", title: S.meaning, grow: true, wideOnly: true, value: (row) => row.description, cell: (row) => <span class="quiet" title={row.description}>{row.description}</span> },
];

const PARTS = ["server", "agents", "plugins", "all"] as const;
type Part = (typeof PARTS)[number];
const partOf = (row: Setting): Part => (row.key.startsWith("agents.") ? "agents" : row.key.startsWith("plugins.") ? "plugins" : "server");

export default function SettingsPage() {
  const me = useMe(), query = useQuery(), sought = query.get("q"), changed = query.get("set") === "1";
  const part = PARTS.find((one) => one === query.get("part")) ?? "server";
  const { data, error, loading, reload } = useGet<{ items: Setting[] }>("/v1/settings");
  const rows = useMemo(() => {
    const words = sought.toLowerCase().split(/\s+/).filter(Boolean);
    return data?.items.filter((row) => (part === "all" || partOf(row) === part) && (!changed || row.origin !== "default") && words.every((word) => `${row.key} ${row.description}`.toLowerCase().includes(word)));
  }, [data, sought, changed, part]);
  return (
    <Page title={S.title} lead={S.lead} tools={
      <div class="filters">
        <Field label={S.search} type="search" placeholder={S.searchHint} value={sought} onValue={(q) => query.set({ q })} />
        <Choice label={S.part} value={part} onValue={(value) => query.set({ part: value === "server" ? null : value })} options={PARTS.map((value) => ({ value, label: S.parts[value] }))} />
        <Check label={S.changed} checked={changed} onValue={(on) => query.set({ set: on ? "1" : null })} />
      </div>
    }>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {(rows || !error) && <Card flush><DataTable label={S.title} columns={columns} rows={rows} rowKey={(row) => row.key} loading={loading && !rows} exportName="settings" empty={<Empty icon="settings" title={S.nothing} />} /></Card>}
      <p class="hint"><Link to="/plugins">{S.plugins}</Link></p>
      <Card title={S.about}>
        <dl class="pairs">
          <dt>{S.aboutVersion}</dt><dd>{me?.version}</dd>
          <dt>{S.aboutApi}</dt><dd><a href="/docs">{S.aboutDocs}</a></dd>
          <dt>{S.aboutLicence}</dt><dd>{S.licence} {S.licences}</dd>
        </dl>
      </Card>
    </Page>
  );
}
