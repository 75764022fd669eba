// One plugin: how it does, what went wrong and where, what it offers, and its settings.
import { useState } from "preact/hooks";
import { ApiError, may, send, useGet } from "../api";
import { equal } from "../diff";
import { useForm } from "../forms/form";
import { shapeOf, type FieldError, type Values } from "../forms/schema";
import { SchemaFields } from "../forms/SchemaForm";
import type { PageProps } from "../pages";
import { Link, useQuery } from "../router";
import { S } from "../strings/plugins";
import type { JsonSchema, Plugin, PluginOffer, PluginSection, Trouble } from "../types";
import { Badge, Button, Card, Empty, ErrorBox, Icon, Json, Loading, Page, Tabs, Time, toast } from "../ui";
import { ICONS, TONES } from "./plugins";
import "./parts/parts.css";
import "./plugins.css";

export default function PluginPage({ params }: PageProps) {
  const name = params["name"] ?? "", query = useQuery();
  const { data, error, reload } = useGet<PluginOffer>("/v1/plugins", { every: 10_000 });
  const sections = useGet<{ items: PluginSection[] }>(may("admin") ? "/v1/plugin_settings" : null);
  const plugin = data?.plugins.find((one) => one.name === name);
  const lead = plugin && <>{plugin.distribution || S.folder} {plugin.version} <Badge tone={TONES[plugin.state]} icon={ICONS[plugin.state]}>{S.states[plugin.state]}</Badge></>;
  if (!data || !plugin) {
    return (
      <Page title={name} lead={<Link to="/plugins">{S.back}</Link>}>
        {error ? <ErrorBox error={error} onRetry={reload} /> : data ? <Empty icon="plugins" title={S.notThere(name)}>{S.notThereFix}</Empty> : <Loading />}
      </Page>
    );
  }
  // A section may be named after a provider, and the audit log links by that.
  const mine = sections.data?.items.filter((section) => section.plugin === name) ?? [];
  const tabs = [
    { id: "problems", label: S.problems, count: plugin.problems.length },
    { id: "offers", label: S.what },
    { id: "settings", label: S.settings, count: may("admin") ? mine.length : undefined },
  ];
  const troubled = plugin.state !== "ok" || plugin.problems.length > 0;
  const tab = query.get("tab", troubled ? "problems" : "offers");
  return (
    <Page title={name} lead={lead} actions={<Link class="button" to="/plugins">{S.back}</Link>}>
      <Tabs label={name} tabs={tabs} value={tab} onValue={(id) => query.set({ tab: id })}>
        {tab === "settings" ? <Settings sections={mine} error={sections.error} loading={sections.loading && !sections.data} onSaved={() => { sections.reload(); reload(); }} />
          : tab === "offers" ? <Offers plugin={plugin} all={data} /> : <Problems plugin={plugin} />}
      </Tabs>
    </Page>
  );
}

function Problems({ plugin }: { plugin: Plugin }) {
  return (
    <div class="stack">
      {plugin.state !== "ok" && (
        <div class="notice warn" role="note"><Icon name={ICONS[plugin.state]} /><div><p><b>{plugin.error ?? plugin.health}</b></p><p>{S.todo[plugin.state]}</p></div></div>
      )}
      {plugin.health !== null && plugin.error !== null && <Card title={S.health}><p>{plugin.health}</p></Card>}
      <Card>
        {plugin.problems.length === 0 ? <p class="quiet">{S.noProblems}</p> : plugin.problems.map((trouble) => <TroubleItem key={`${trouble.stage} ${trouble.subject} ${trouble.what}`} trouble={trouble} />)}
      </Card>
    </div>
  );
}

function TroubleItem({ trouble }: { trouble: Trouble }) {
  return (
    <article class="trouble">
      <p class="trouble-what">{trouble.what}</p>
      <p class="trouble-when">
        {trouble.subject && <><code>{trouble.subject}</code> · </>}{S.stages[trouble.stage] ?? S.stage(trouble.stage)} · {S.times(trouble.count)}, {S.last} <Time at={trouble.at} mode="full" />
      </p>
      {trouble.details
        ? <details open><summary>{S.details}</summary><pre class="code" tabIndex={0} aria-label={S.details}>{trouble.details}</pre></details>
        : !may("admin") && <p class="hint">{S.noDetails}</p>}
    </article>
  );
}

function Offers({ plugin, all }: { plugin: Plugin; all: PluginOffer }) {
  const providers = all.providers.filter((one) => one.plugin === plugin.name), tools = all.tools.filter((one) => one.plugin === plugin.name);
  return (
    <div class="stack">
      {providers.length > 0 && (
        <Card title={S.providers}>
          {providers.map((one) => (
            <article class="offer" key={`${one.kind}:${one.name}`}>
              <div class="offer-head"><code>{one.name}</code><Badge tone="accent">{S.kinds[one.kind] ?? one.kind}</Badge></div>
              <p>{one.summary}</p>
              <dl class="pairs"><dt>{S.capabilities}</dt><dd>{Object.keys(one.capabilities).length > 0 ? <Json value={one.capabilities} open={0} /> : S.noCapabilities}</dd></dl>
            </article>
          ))}
        </Card>
      )}
      {tools.length > 0 && (
        <Card title={S.tools}>
          {tools.map((one) => (
            <article class="offer" key={one.name}>
              <div class="offer-head"><code>{one.name}</code>{one.side_effects && <Badge tone="warn" title={S.sideEffectsHint}>{S.sideEffects}</Badge>}</div>
              <p>{one.description}</p>
              <dl class="pairs"><dt>{S.parameters}</dt><dd><Parameters schema={one.parameters} /></dd></dl>
            </article>
          ))}
        </Card>
      )}
      <Card title={S.hooks}>
        <p class="hint">{S.hooksWhat}</p>
        {plugin.hooks.length > 0 ? <span class="badges">{plugin.hooks.map((hook) => <Badge key={hook}>{hook}</Badge>)}</span> : <p class="quiet">{S.noHooks}</p>}
      </Card>
    </div>
  );
}

function Parameters({ schema }: { schema: JsonSchema }) {
  const fields = shapeOf(schema).fields;
  if (fields.length === 0) return <span class="quiet">{S.none}</span>;
  return <dl class="pairs">{fields.map(([name, field]) => <><dt><code>{name}</code></dt><dd>{field.kind}{field.required ? " *" : ""} <span class="quiet">{field.description}</span></dd></>)}</dl>;
}

function Settings({ sections, error, loading, onSaved }: { sections: PluginSection[]; error: ApiError | undefined; loading: boolean; onSaved: () => void }) {
  if (!may("admin")) return <Empty icon="keys" title={S.settingsAdmin} />;
  if (error) return <ErrorBox error={error} />;
  if (loading) return <Loading />;
  if (sections.length === 0) return <Empty icon="settings" title={S.noSettings} />;
  return <div class="stack">{sections.map((section) => <Section key={section.name} first={section} onSaved={onSaved} />)}</div>;
}

/** The values that were made here; what comes from elsewhere is shown, not sent. */
function given(section: PluginSection): Values {
  const properties = shapeOf(section.schema).fields;
  return Object.fromEntries(properties
    .filter(([name, field]) => field.kind !== "secret" && section.origins[name] === "panel" && section.values[name] !== undefined)
    .map(([name]) => [name, section.values[name] ?? null]));
}

const PINNED = { env: S.pinnedEnv, file: S.pinnedFile } as const;

function Section({ first, onSaved }: { first: PluginSection; onSaved: () => void }) {
  const [section, setSection] = useState(first), [before, setBefore] = useState(() => given(first)), [values, setValues] = useState(before);
  const [errors, setErrors] = useState<FieldError[]>([]), [problem, setProblem] = useState<ApiError>(), [busy, setBusy] = useState(false);
  const [shape] = useState(() => shapeOf(section.schema));
  const [round, setRound] = useState(0);
  const form = useForm({
    shape, values, onValues: setValues, errors,
    pinned: ([name = ""]) => {
      const origin = section.origins[name];
      if (origin === "env" || origin === "file") return PINNED[origin];
      return section.schema.properties?.[name]?.["readOnly"] === true ? S.onlyFile : null;
    },
    secretSet: ([name = ""]) => section.values[name] === true,
    // Of what is pinned the value that holds is shown where else the default is.
    defaultOf: (path, of) => {
      const origin = section.origins[path[0] ?? ""];
      return path.length === 1 && (origin === "env" || origin === "file") ? section.values[path[0] ?? ""] : of.default;
    },
  });
  const changed = !equal(values, before);
  const save = async (event: Event) => {
    event.preventDefault();
    if (busy || form.invalid) return;
    setBusy(true);
    setErrors([]);
    setProblem(undefined);
    try {
      const saved = await send<PluginSection>("PUT", `/v1/plugin_settings/${encodeURIComponent(section.name)}`, { values });
      setSection(saved);
      setBefore(given(saved));
      setValues(given(saved));
      setRound(round + 1);
      toast(saved.restart ? S.savedRestart(section.name) : S.savedNow(section.name));
      onSaved();
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      setErrors(failed.problem.errors);
      setProblem(failed);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Card title={<code>{S.section(section.name)}</code>} actions={section.updated_by !== null && <span class="quiet">{S.changedBy(section.updated_by)} <Time at={section.updated_at} /></span>}>
      <form onSubmit={(event) => void save(event)} aria-label={S.section(section.name)}>
        {section.restart && <p class="notice warn"><Icon name="warn" size={16} />{S.restart}</p>}
        <fieldset disabled={busy}><SchemaFields key={round} form={form} /></fieldset>
        {problem && (form.rest.length > 0 || errors.length === 0) && <ErrorBox error={problem} />}
        <div class="form-foot">
          <Button type="submit" kind="primary" busy={busy} disabled={!changed || form.invalid}>{S.save}</Button>
          {(changed || form.invalid) && <Button kind="quiet" onClick={() => { setValues(before); form.clear(); setErrors([]); setProblem(undefined); setRound(round + 1); }}>{S.discard}</Button>}
          <span class="hint">{changed ? S.unsaved : S.newCalls}</span>
        </div>
      </form>
    </Card>
  );
}
