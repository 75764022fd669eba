// Plugins: cards of what is installed, with how each does; the troubled ones first.
import { useGet } from "../api";
import { Link, useQuery } from "../router";
import { S } from "../strings/plugins";
import type { Plugin, PluginOffer } from "../types";
import { Badge, Choice, Empty, ErrorBox, Field, Icon, Loading, Page, Select } from "../ui";
import "./parts/parts.css";
import "./plugins.css";

const RANK = { failed: 0, degraded: 1, ok: 2 };
export const TONES = { ok: "good", degraded: "warn", failed: "bad" } as const;
export const ICONS = { ok: "check", degraded: "warn", failed: "bad" } as const;

interface Offered { kind: string; name: string }

/** What a plugin offers, by kind and name; one that only has hooks has the kind "hook". */
function offersOf(plugin: Plugin, all: PluginOffer): Offered[] {
  return [
    ...all.providers.filter((one) => one.plugin === plugin.name).map(({ kind, name }) => ({ kind, name })),
    ...all.tools.filter((one) => one.plugin === plugin.name).map(({ name }) => ({ kind: "tool", name })),
  ];
}

export default function PluginsPage() {
  const query = useQuery(), sought = query.get("q").toLowerCase(), kind = query.get("kind"), only = query.get("only") === "problems" ? "problems" : "all";
  const { data, error, loading, reload } = useGet<PluginOffer>("/v1/plugins", { every: 10_000 });
  const cards = data?.plugins
    .map((plugin) => ({ plugin, offers: offersOf(plugin, data) }))
    .filter(({ plugin, offers }) => only === "all" || plugin.state !== "ok" || plugin.problems.length > 0)
    .filter(({ offers }) => kind === "" || (kind === "hook" ? offers.length === 0 : offers.some((one) => one.kind === kind)))
    .filter(({ plugin, offers }) => [plugin.name, plugin.distribution, ...offers.map((one) => one.name)].some((name) => name.toLowerCase().includes(sought)))
    .sort((a, b) => RANK[a.plugin.state] - RANK[b.plugin.state] || a.plugin.name.localeCompare(b.plugin.name));
  return (
    <Page title={S.title} lead={S.lead} tools={
      <div class="filters">
        <Field label={S.search} type="search" placeholder={S.searchHint} value={query.get("q")} onValue={(q) => query.set({ q })} />
        <Select label={S.kind} value={kind} onValue={(value) => query.set({ kind: value })}
          options={[{ value: "", label: S.anyKind }, ...Object.entries(S.kinds).map(([value, label]) => ({ value, label }))]} />
        <Choice label={S.showing} value={only} onValue={(value) => query.set({ only: value === "all" ? null : value })}
          options={[{ value: "all", label: S.all }, { value: "problems", label: S.troubled }]} />
      </div>
    }>
      {error && <ErrorBox error={error} onRetry={reload} />}
      {!cards && !error && <Loading lines={6} />}
      {cards?.length === 0 && <Empty icon="plugins" title={data?.plugins.length ? S.nothingFits : S.noPlugins} />}
      {cards && <ul class="plugins" aria-busy={loading}>{cards.map((card) => <PluginCard key={card.plugin.name} {...card} />)}</ul>}
    </Page>
  );
}

function PluginCard({ plugin, offers }: { plugin: Plugin; offers: Offered[] }) {
  const kinds = [...new Set(offers.map((one) => one.kind))];
  return (
    <li class={`plugin ${plugin.state}`}>
      <div class="plugin-head">
        <h2><Link to={`/plugins/${encodeURIComponent(plugin.name)}`}>{plugin.name}</Link></h2>
        <Badge tone={TONES[plugin.state]} icon={ICONS[plugin.state]}>{S.states[plugin.state]}</Badge>
      </div>
      <p class="plugin-from">{plugin.distribution || S.folder} {plugin.version}</p>
      {(plugin.error ?? plugin.health) !== null && <p class="plugin-error"><Icon name={ICONS[plugin.state]} size={14} /><span>{plugin.error ?? plugin.health}</span></p>}
      {kinds.map((kind) => (
        <p key={kind} class="plugin-offers"><span class="quiet">{S.kinds[kind] ?? kind}</span> {offers.filter((one) => one.kind === kind).map((one) => <code key={one.name}>{one.name}</code>)}</p>
      ))}
      {kinds.length === 0 && plugin.hooks.length > 0 && <p class="plugin-offers"><span class="quiet">{S.hooks}</span> {plugin.hooks.map((hook) => <code key={hook}>{hook}</code>)}</p>}
    </li>
  );
}
