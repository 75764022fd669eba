// The command palette: type where to go. A combobox with a list, as the ARIA pattern says.
import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import { may, useGet } from "./api";
import { PAGES } from "./pages";
import { theme, zone } from "./prefs";
import { navigate } from "./router";
import { S } from "./strings/shell";
import type { Agent, Page as PageOf } from "./types";
import { Dialog, Icon, type IconName } from "./ui";

interface Entry { id: string; kind: string; text: string; icon: IconName; go: () => void }

const MOST = 12;

export function Palette({ onClose }: { onClose: () => void }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const id = useId(), list = useRef<HTMLUListElement>(null);
  const agents = useGet<PageOf<Agent>>(may("read") ? "/v1/agents" : null);
  const entries = useMemo(() => entriesFor(text, agents.data?.items ?? []), [text, agents.data]);
  const chosen = entries[Math.min(at, entries.length - 1)];
  useEffect(() => { list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" }); }, [chosen]);
  const run = (entry: Entry | undefined) => { if (entry) { onClose(); entry.go(); } };
  const key = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); setAt((entries.length + Math.min(at, entries.length - 1) + step) % Math.max(1, entries.length)); }
    else if (event.key === "Enter") { event.preventDefault(); run(chosen); }
  };
  return (
    <Dialog title={S.searchLabel} onClose={onClose} class="palette">
      <input class="input" type="text" role="combobox" aria-expanded="true" aria-controls={`${id}-list`} aria-autocomplete="list" aria-label={S.searchLabel}
        aria-activedescendant={chosen ? `${id}-${chosen.id}` : undefined} placeholder={S.searchHint} autofocus autocomplete="off" spellcheck={false}
        value={text} onInput={(event) => { setText(event.currentTarget.value); setAt(0); }} onKeyDown={key} />
      <ul role="listbox" id={`${id}-list`} aria-label={S.searchLabel} ref={list}>
        {entries.map((one) => (
          <li key={one.id} role="option" id={`${id}-${one.id}`} aria-selected={one === chosen} onClick={() => run(one)}>
            <Icon name={one.icon} size={16} /><span class="palette-text">{one.text}</span><span class="quiet">{one.kind}</span>
          </li>
        ))}
      </ul>
      {entries.length === 0 && <p class="quiet" role="status">{S.nothingFits}</p>}
    </Dialog>
  );
}

function entriesFor(text: string, agents: readonly Agent[]): Entry[] {
  const wanted = text.trim().toLowerCase();
  const found: (Entry & { rank: number })[] = [];
  const offer = (entry: Entry) => {
    const rank = rankOf(entry.text.toLowerCase(), wanted);
    if (rank !== null) found.push({ ...entry, rank });
  };
  for (const one of PAGES) {
    if (one.path.includes(":") || !may(one.scope)) continue;
    offer({ id: `page-${one.path}`, kind: S.page, text: one.title, icon: one.icon ?? "right", go: () => navigate(one.path) });
  }
  for (const one of agents) {
    offer({ id: `agent-${one.name}`, kind: S.agent, text: one.name, icon: "agents", go: () => navigate(`/agents/${encodeURIComponent(one.name)}`) });
  }
  for (const value of ["system", "light", "dark"] as const) {
    offer({ id: `theme-${value}`, kind: S.command, text: S.toTheme(S.themes[value]), icon: "sun", go: () => theme.set(value) });
  }
  for (const value of ["local", "utc"] as const) {
    offer({ id: `zone-${value}`, kind: S.command, text: S.toZone(S.zones[value]), icon: "globe", go: () => zone.set(value) });
  }
  found.sort((a, b) => a.rank - b.rank);
  const id = /ses_[0-9a-z]{4,}/.exec(wanted)?.[0];
  const before: Entry[] = id ? [{ id: "session", kind: S.session, text: S.sessionById(id), icon: "sessions", go: () => navigate(`/sessions/${id}`) }] : [];
  const after: Entry[] = wanted.length > 2 && !id
    ? [{ id: "search", kind: S.session, text: S.searchTranscripts(text.trim()), icon: "search", go: () => navigate(`/sessions?q=${encodeURIComponent(text.trim())}`) }] : [];
  return [...before, ...found.slice(0, MOST), ...after];
}

/** How well `name` fits: 0 at its start, 1 at a word's, 2 anywhere, 3 its letters in this order; null not at all. */
export function rankOf(name: string, wanted: string): number | null {
  if (!wanted || name.startsWith(wanted)) return 0;
  if (name.includes(` ${wanted}`)) return 1;
  if (name.includes(wanted)) return 2;
  let i = 0;
  for (const letter of name) if (letter === wanted[i]) i += 1;
  return i === wanted.length ? 3 : null;
}
