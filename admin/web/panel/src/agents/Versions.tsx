// The versions of an agent: what each changed, two of them compared, an old one made the newest again.
import { useState } from "preact/hooks";
import type { Values } from "../forms/schema";
import { useQuery } from "../router";
import { S } from "../strings/agents";
import type { AgentVersion } from "../types";
import { Badge, Button, Card, ConfirmDialog, DataTable, Empty, Select, Time, toast, type Column } from "../ui";
import { changes, DiffView } from "./DiffView";
import { store, type Draft } from "./useDraft";

interface VersionsProps { name: string; versions: AgentVersion[]; draft: Draft; editable: boolean; onRolled: (definition: Values, version: number) => void }

export function Versions({ name, versions, draft, editable, onRolled }: VersionsProps) {
  const query = useQuery(), [rolling, setRolling] = useState<AgentVersion | null>(null);
  const newest = versions[0];
  if (newest === undefined) return <Empty icon="agents" title={S.noVersions} />;
  const before = (version: number) => versions.find((one) => one.version < version);
  const at = (text: string) => versions.find((one) => String(one.version) === text);
  const to = query.get("to", draft.changed ? "draft" : String(newest.version));
  const from = query.get("from", to === "draft" ? String(newest.version) : String(before(Number(to))?.version ?? ""));
  const definition = (text: string) => (text === "draft" ? draft.values : (at(text)?.definition ?? undefined));
  const told = (text: string) => (text === "draft" ? S.draft : text === "" ? S.made : S.versionNo(Number(text)));
  const columns: Column<AgentVersion>[] = [
    { key: "version", title: S.version, value: (row) => row.version, cell: (row) => <span class="cell-name">{row.version} {row === newest && <Badge tone="accent">{S.current}</Badge>}</span> },
    { key: "when", title: S.when, value: (row) => row.created_at, cell: (row) => <Time at={row.created_at} /> },
    { key: "by", title: S.by, value: (row) => row.created_by, cell: (row) => <code>{row.created_by}</code> },
    { key: "change", title: S.change, grow: true, cell: (row) => {
      if (row.definition === null) return <Badge tone="bad">{S.deleted}</Badge>;
      const old = before(row.version);
      if (old === undefined) return <span class="quiet">{S.made}</span>;
      const { added, gone } = changes(old.definition ?? undefined, row.definition);
      return <span class="quiet nowrap">{S.lines(added, gone)}</span>;
    } },
    { key: "back", title: S.rollBack, align: "right", cell: (row) => editable && row !== newest && row.definition !== null && (
      <Button size="s" kind="quiet" aria-label={`${S.rollBack}: ${S.versionNo(row.version)}`} onClick={() => setRolling(row)}>{S.rollBack}</Button>
    ) },
  ];
  const options = [...(draft.changed ? [{ value: "draft", label: S.draft }] : []), ...versions.map((one) => ({ value: String(one.version), label: S.versionNo(one.version) }))];
  const title = S.diffTitle(told(from), told(to));
  return (
    <div class="stack">
      <Card flush><DataTable label={S.tabs.versions} columns={columns} rows={versions} rowKey={(row) => row.version} current={Number(to)} exportName={`${name}-versions`}
        onOpen={(row) => query.set({ to: String(row.version), from: null })} /></Card>
      <Card title={title} actions={<>
        <Select label={S.compare} hideLabel value={from} onValue={(value) => query.set({ from: value, to })} options={[...(from === "" ? [{ value: "", label: S.made }] : []), ...options]} />
        <span class="quiet">→</span>
        <Select label={S.compareWith} hideLabel value={to} onValue={(value) => query.set({ from, to: value })} options={options} />
      </>}>
        <DiffView before={definition(from)} after={definition(to)} label={title} />
      </Card>
      {rolling && (
        <ConfirmDialog title={S.rollTitle(rolling.version)} confirm={S.rollBack} onClose={() => setRolling(null)}
          onConfirm={async () => {
            const made = await store(name, rolling.definition ?? {}, newest.version);
            toast(S.rolled(rolling.version, made.version));
            query.set({ to: null, from: null });
            onRolled(rolling.definition ?? {}, made.version ?? newest.version);
          }}>
          <p>{S.rollWhy}</p>
          <DiffView before={newest.definition ?? undefined} after={rolling.definition ?? undefined} label={S.rollTitle(rolling.version)} />
        </ConfirmDialog>
      )}
    </div>
  );
}
