// One agent, or a new one: its form, its JSON, its versions with what changed, who uses it; tried out without being saved.
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { AgentForm } from "../agents/AgentForm";
import { defaultOf, lineOf, sparse, type Profiles } from "../agents/definition";
import { DiffView } from "../agents/DiffView";
import { TryButton } from "../agents/TryButton";
import { UsedBy } from "../agents/UsedBy";
import { store, useDraft, type Draft } from "../agents/useDraft";
import { Versions } from "../agents/Versions";
import { ApiError, get, may, send, useGet } from "../api";
import { pretty } from "../diff";
import { useForm } from "../forms/form";
import { shapeOf, type Shape, type Values } from "../forms/schema";
import type { PageProps } from "../pages";
import { Link, navigate, useQuery } from "../router";
import { S } from "../strings/agents";
import type { Agent, AgentSchema, AgentVersion, Json, PluginOffer } from "../types";
import { Badge, Button, Card, ConfirmDialog, Dialog, ErrorBox, Field, Icon, Loading, Page, Tabs, toast } from "../ui";
import "../agents/agents.css";
import "./parts/parts.css";

interface Known { schema: AgentSchema; shape: Shape; agents: Agent[]; offers: PluginOffer | undefined }

export default function AgentPage({ params }: PageProps) {
  const name = params["name"], query = useQuery(), from = query.get("from");
  const schema = useGet<AgentSchema>("/v1/agent_schema"), agents = useGet<{ items: Agent[] }>("/v1/agents"), offers = useGet<PluginOffer>("/v1/plugins").data;
  const versions = useGet<{ items: AgentVersion[] }>(name ? `/v1/agents/${encodeURIComponent(name)}/versions` : null);
  const shape = useMemo(() => schema.data && shapeOf(schema.data.schema), [schema.data]);
  // What is there already stays, with what was typed, where asking again fails.
  const error = [schema, agents, versions].find((got) => got.error && !got.data)?.error;
  const title = name ?? S.newTitle;
  if (error) return <Page title={title} actions={<Link class="button" to="/agents">{S.back}</Link>}><ErrorBox error={error} onRetry={() => { agents.reload(); versions.reload(); }} /></Page>;
  if (!schema.data || !shape || !agents.data || (name && !versions.data)) return <Page title={title}><Loading lines={8} /></Page>;
  const known: Known = { schema: schema.data, shape, agents: agents.data.items, offers };
  const agent = known.agents.find((one) => one.name === (name ?? from));
  const full = agent ? sparse(agent.definition, shape, known.schema.profiles) : {};
  if (!name) return <NewAgent key={from} known={known} first={full} from={agent?.name ?? null} />;
  const reload = () => { agents.reload(); versions.reload(); };
  const items = versions.data?.items ?? [];
  // As it was given, not with all its defaults: what nobody set stays what the release says.
  const given = items.find((one) => one.definition !== null)?.definition ?? full;
  return <Editor key={name} name={name} agent={agent} first={given as Values} versions={items} known={known} onChanged={reload} />;
}

const labelOf = (path: readonly string[]): string => S.labels[path.join(".")] ?? path.at(-1) ?? "";

function NewAgent({ known, first, from }: { known: Known; first: Values; from: string | null }) {
  const draft = useDraft(first), query = useQuery(), [name, setName] = useState(""), [stop, setStop] = useState(false);
  const nameWrong = draft.problem && ["bad_agent_name", "version_mismatch", "agent_fixed"].includes(draft.problem.code) ? draft.problem.message : undefined;
  const save = async () => {
    const made = await draft.run(() => store(name.trim(), draft.values, 0));
    if (made === undefined) return;
    toast(S.saved(made.name, made.version));
    navigate(`/agents/${encodeURIComponent(made.name)}`, { replace: true });
  };
  return (
    <Page title={S.newTitle} lead={from && S.newFrom(from)} actions={<>
      <TryButton name={name.trim() || "agent"} draft={draft} disabled={stop} stored={false} />
      <Link class="button" to="/agents">{S.back}</Link>
    </>}>
      <div class="new-name"><Field label={S.name} hint={S.nameHint} required autoFocus maxLength={64} value={name} onValue={setName} problem={nameWrong} /></div>
      <Edit draft={draft} known={known} tab={query.get("tab", "form")} onTab={(tab) => query.set({ tab: tab === "form" ? null : tab })} name={S.newTitle} onStop={setStop} always told={nameWrong !== undefined}
        save={<Button kind="primary" busy={draft.busy} disabled={name.trim() === ""} onClick={() => void save()}>{S.saveNew}</Button>} />
    </Page>
  );
}

type EditorProps = { name: string; agent: Agent | undefined; first: Values; versions: AgentVersion[]; known: Known; onChanged: () => void };

function Editor({ name, agent, first, versions, known, onChanged }: EditorProps) {
  const draft = useDraft(first), query = useQuery(), tab = query.get("tab", "form");
  const [stop, setStop] = useState(false), [removing, setRemoving] = useState(false), [conflict, setConflict] = useState<AgentVersion | null>(null);
  const [version, setVersion] = useState(versions[0]?.definition ? versions[0].version : 0), [epoch, setEpoch] = useState(0);
  const fixed = agent?.source === "settings", gone = agent === undefined;
  const mayEdit = may("agents") && !fixed;
  const users = known.agents.filter((one) => one.name !== name && Array.isArray(one.definition["transfers"]) && one.definition["transfers"].includes(name));
  const onTab = (id: string) => query.set({ tab: id === "form" ? null : id });
  /** Begin anew with what is stored now. */
  const adopt = (definition: Values, now: number) => {
    draft.reset(definition);
    setVersion(now);
    setEpoch(epoch + 1);
    onChanged();
  };
  const save = async (expect = version) => {
    const sent = draft.values;
    const made = await draft.run(async () => {
      try {
        return await store(name, sent, expect);
      } catch (failed) {
        if (!(failed instanceof ApiError) || failed.code !== "version_mismatch") throw failed;
        const newest = await get<{ items: AgentVersion[] }>(`/v1/agents/${encodeURIComponent(name)}/versions`);
        setConflict(newest.items[0] ?? null);
        return undefined;
      }
    });
    if (made === undefined) return;
    setConflict(null);
    setVersion(made.version ?? expect);
    draft.settle(sent);
    toast(S.saved(name, made.version));
    onChanged();
  };
  const lead = <>
    <Badge tone={fixed ? "plain" : "accent"}>{fixed ? S.sources.settings : gone ? S.deleted : S.versionNo(version)}</Badge> {draft.changed && <Badge tone="warn">{S.unsaved}</Badge>}
  </>;
  return (
    <Page title={name} lead={lead} actions={<>
      <TryButton name={name} draft={draft} disabled={stop} stored={!gone} />
      <Link class="button" to="/agents">{S.back}</Link>
      {may("agents") && <Link class="button" to={`/new-agent?from=${encodeURIComponent(name)}`}>{S.copyOf}</Link>}
      {mayEdit && !gone && <Button kind="danger" icon="trash" onClick={() => setRemoving(true)}>{S.remove}</Button>}
    </>}>
      {fixed && <div class="notice"><Icon name="info" /><div><p>{S.fixedTitle}</p><p>{S.fixedFix}</p></div></div>}
      {gone && <div class="notice warn"><Icon name="warn" /><div><p>{S.gone(name)}</p><p>{S.goneFix}</p></div></div>}
      <Edit key={epoch} draft={draft} known={known} name={name} tab={tab} onTab={onTab} readOnly={!mayEdit} onStop={setStop} always={gone} more={[
        { id: "versions", label: S.tabs.versions, count: versions.length, body: <Versions name={name} versions={versions} draft={draft} editable={mayEdit} onRolled={adopt} /> },
        { id: "used", label: S.tabs.used, count: undefined, body: <UsedBy name={name} users={users} /> },
      ]} save={mayEdit && (
        <Button kind="primary" busy={draft.busy} disabled={!draft.changed && !gone} onClick={() => void save()}>{S.save}</Button>
      )} hint={mayEdit && draft.changed ? S.saving((versions[0]?.version ?? 0) + 1) : ""} />
      {removing && (
        <ConfirmDialog title={S.removeTitle(name)} confirm={S.remove} danger onClose={() => setRemoving(false)}
          onConfirm={async () => {
            await send("DELETE", `/v1/agents/${encodeURIComponent(name)}`);
            toast(S.removed(name));
            navigate("/agents");
          }}>
          <p>{S.removeWhy}</p>
          {users.length > 0 && <p class="notice warn"><Icon name="warn" />{S.removeUsed(users.map((one) => one.name).join(", "))}</p>}
        </ConfirmDialog>
      )}
      {conflict && (
        <Dialog wide title={S.conflictTitle} onClose={() => setConflict(null)} actions={<>
          <Button onClick={() => setConflict(null)}>{S.keepEditing}</Button>
          {conflict.definition && <Button onClick={() => { setConflict(null); adopt(conflict.definition ?? {}, conflict.version); }}>{S.takeTheirs}</Button>}
          <Button kind="danger" busy={draft.busy} onClick={() => void save(conflict.definition ? conflict.version : 0)}>{S.overwrite}</Button>
        </>}>
          <p>{conflict.definition ? S.conflictWhy(version, conflict.version, conflict.created_by) : S.conflictDeleted(conflict.created_by)}</p>
          {conflict.definition && <DiffView before={conflict.definition} after={draft.values} label={S.conflictTitle} />}
        </Dialog>
      )}
    </Page>
  );
}

interface Extra { id: string; label: string; count: number | undefined; body: ComponentChildren }
interface EditProps {
  draft: Draft; known: Known; name: string; tab: string; onTab: (id: string) => void; readOnly?: boolean; more?: Extra[];
  save: ComponentChildren; hint?: string;
  /** There is something to save from the beginning. */
  always?: boolean;
  onStop: (stop: boolean) => void;
  /** The problem is told elsewhere already. */
  told?: boolean;
}

function Edit({ draft, known, name, tab, onTab, readOnly = false, more = [], save, hint = "", always = false, onStop, told = false }: EditProps) {
  const { profiles } = known.schema;
  const [round, setRound] = useState(0), [broken, setBroken] = useState(false);
  const form = useForm({
    shape: known.shape, values: draft.values, onValues: draft.set, errors: draft.errors, label: labelOf,
    defaultOf: (path, of) => defaultOf(path, of, draft.values, profiles as Profiles),
    pinned: () => (readOnly ? "" : null),
  });
  useEffect(() => {
    if (!draft.changed) return;
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, [draft.changed]);
  const frame = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!draft.problem) return;
    // To the field that is wrong, or what is told of it.
    const first = frame.current?.querySelector<HTMLElement>(".field.wrong :is(input, textarea, select), .section-problem, .error-box");
    first?.focus({ preventScroll: true });
    first?.scrollIntoView({ block: "center" });
  }, [draft.problem]);
  const extra = more.find((one) => one.id === tab), editing = extra === undefined;
  const tabs = [{ id: "form", label: S.tabs.form }, { id: "json", label: S.tabs.json }, ...more.map(({ id, label, count }) => ({ id, label, count }))];
  const stop = form.invalid || broken;
  useEffect(() => onStop(stop), [stop]);
  return (
    <>
      <Tabs label={name} tabs={tabs} value={tab} onValue={onTab}>
        {extra ? extra.body : (
          <div class="stack" ref={frame}>
            {draft.problem && !told && <Wrong draft={draft} problem={draft.problem} onForm={tab === "form" ? () => onTab("json") : null} />}
            {tab === "json" ? <JsonEdit key={round} draft={draft} readOnly={readOnly} onBroken={setBroken} /> : <AgentForm key={round} form={form} offers={known.offers} agents={known.agents} />}
          </div>
        )}
      </Tabs>
      {editing && save && (draft.changed || always || stop) && (
        <div class={`save-bar ${draft.changed || stop ? "sticks" : ""}`}>
          <fieldset disabled={stop} class="row">{save}</fieldset>
          {(draft.changed || stop) && !readOnly && <Button kind="quiet" onClick={() => { draft.reset(draft.base); form.clear(); setBroken(false); setRound(round + 1); }}>{S.discard}</Button>}
          <span class="quiet">{hint}</span>
        </div>
      )}
    </>
  );
}

/** What the server says is wrong, with the lines of the JSON. */
function Wrong({ draft, problem, onForm }: { draft: Draft; problem: ApiError; onForm: (() => void) | null }) {
  if (problem.problem.errors.length === 0) return <ErrorBox error={problem} />;
  const text = pretty(draft.values);
  return (
    <div class="error-box" role="alert">
      <Icon name="bad" />
      <div>
        <p class="what">{S.problemsTitle}</p>
        <ul class="wrong-list">
          {problem.problem.errors.map((one) => {
            const line = lineOf(text, one.path);
            return <li key={one.path + one.message}><code>{one.path || S.wholeDefinition}</code> {one.message}{!onForm && line !== null && <span class="quiet"> · {S.line(line)}</span>}</li>;
          })}
        </ul>
      </div>
    </div>
  );
}

function JsonEdit({ draft, readOnly, onBroken }: { draft: Draft; readOnly: boolean; onBroken: (broken: boolean) => void }) {
  const [text, setText] = useState(() => pretty(draft.values)), [wrong, setWrong] = useState<string | null>(null);
  const tell = (problem: string | null) => { setWrong(problem); onBroken(problem !== null); };
  // Whoever leaves with broken JSON has the last draft that was whole.
  useEffect(() => () => onBroken(false), []);
  const type = (typed: string) => {
    setText(typed);
    let read: Json;
    try {
      read = JSON.parse(typed) as Json;
    } catch (error) {
      tell(S.jsonBroken(error instanceof Error ? error.message : ""));
      return;
    }
    if (read === null || typeof read !== "object" || Array.isArray(read)) tell(S.jsonNoObject);
    else {
      tell(null);
      draft.set(read);
    }
  };
  return (
    <Card title={S.json} actions={!readOnly && <Button size="s" disabled={wrong !== null} onClick={() => setText(pretty(draft.values))}>{S.format}</Button>}>
      <div class={`field ${wrong ? "wrong" : ""}`}>
        <textarea class="input json-edit" aria-label={S.json} aria-describedby="json-told" aria-invalid={wrong !== null || undefined} spellcheck={false} readOnly={readOnly}
          rows={Math.min(40, Math.max(16, text.split("\n").length + 1))} value={text} onInput={(event) => type(event.currentTarget.value)} />
        <div id="json-told" class={wrong ? "problem" : "hint"}>{wrong ?? S.jsonHint}</div>
      </div>
    </Card>
  );
}
