// The shell: who is logged in, the rail, the page that the address is of, the palette, and what is always there.
import { Component, type ComponentChildren, type ComponentType } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError, loadMe, may, me, prover, send, useMe } from "./api";
import { hasLink, LoginPage } from "./login";
import { PAGES, type PageEntry, type PageProps } from "./pages";
import { Palette } from "./palette";
import { Link, match, navigate, nextOf, useLocation } from "./router";
import { S } from "./strings/shell";
import { Button, Dialog, Empty, ErrorBox, Field, Icon, IconButton, Loading, Toasts, toastError } from "./ui";
import { ThemeSwitch, ZoneSwitch } from "./ui/Switches";

export function App() {
  const who = useMe(), place = useLocation();
  const [failed, setFailed] = useState<ApiError>();
  const ask = () => { setFailed(undefined); loadMe().catch((error: unknown) => setFailed(error as ApiError)); };
  useEffect(ask, []);
  const atLogin = place.path === "/login";
  useLayoutEffect(() => {
    if (who === null && !atLogin) navigate(`/login?next=${encodeURIComponent(place.path + place.search)}`, { replace: true });
    if (who && atLogin && !hasLink()) navigate(nextOf(place.search), { replace: true });
  }, [who, atLogin, place]);
  let content: ComponentChildren = null;
  if (failed) content = <main class="alone"><ErrorBox error={failed} onRetry={ask} /></main>;
  else if (atLogin && who !== undefined) content = <LoginPage next={nextOf(place.search)} />;
  else if (who && !atLogin) content = <Shell />;
  else if (who === undefined) content = <main class="boot" aria-busy="true"><p class="brand">{S.product}</p></main>;
  return <>{content}<Toasts /></>;
}

const chunks = new Map<PageEntry, ComponentType<PageProps>>();

function find(path: string): { entry: PageEntry; params: Record<string, string> } | null {
  for (const entry of PAGES) {
    const params = match(entry.path, path);
    if (params) return { entry, params };
  }
  return null;
}

function Shell() {
  const { path } = useLocation();
  const [palette, setPalette] = useState(false);
  const [menu, setMenu] = useState(false);
  const main = useRef<HTMLElement>(null);
  useEffect(() => {
    const key = (event: KeyboardEvent) => {
      if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
        event.preventDefault();
        setPalette((open) => !open);
      }
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);
  const first = useRef(true);
  useEffect(() => {
    setMenu(false);
    // Who uses a screen reader learns that another page is there; at the start the browser tells.
    if (first.current) first.current = false;
    else main.current?.focus({ preventScroll: true });
  }, [path]);
  const toMain = (event: Event) => { event.preventDefault(); main.current?.focus(); };
  return (
    <div class={`shell ${menu ? "menu-open" : ""}`}>
      <a class="skip" href="#main" onClick={toMain}>{S.skip}</a>
      <header class="topbar">
        <IconButton icon={menu ? "close" : "menu"} label={menu ? S.closeMenu : S.menu} aria-expanded={menu} aria-controls="rail" onClick={() => setMenu(!menu)} />
        <Link to="/" class="brand"><Mark />{S.product}</Link>
        <IconButton icon="search" label={S.searchLabel} onClick={() => setPalette(true)} />
      </header>
      <Rail path={path} onSearch={() => setPalette(true)} />
      {menu && <div class="veil" onClick={() => setMenu(false)} />}
      <main id="main" ref={main} tabIndex={-1}><Current path={path} /></main>
      {palette && <Palette onClose={() => setPalette(false)} />}
      <Prover />
    </div>
  );
}

function Mark() {
  return (
    <svg class="mark" width="22" height="22" viewBox="0 0 22 22" aria-hidden="true">
      <path d="M4 8v6M7.5 5v12" stroke="var(--user)" stroke-width="2" stroke-linecap="round" />
      <path d="M11 8.5v5M14.5 3.5v15M18 8v6" stroke="var(--agent)" stroke-width="2" stroke-linecap="round" />
    </svg>
  );
}

function Rail({ path, onSearch }: { path: string; onSearch: () => void }) {
  const who = useMe();
  const here = find(path)?.entry;
  const marked = here?.under ?? here?.path;
  return (
    <nav class="rail" id="rail" aria-label={S.rail}>
      <Link to="/" class="brand"><Mark />{S.product}</Link>
      <button type="button" class="rail-search" onClick={onSearch}><Icon name="search" size={16} /><span>{S.search}</span><kbd>{MAC ? "⌘" : "Ctrl "}K</kbd></button>
      {(["observe", "build", "run"] as const).map((group) => {
        const entries = PAGES.filter((one) => one.group === group && may(one.scope));
        return entries.length > 0 && (
          <section key={group} aria-label={S.groups[group]}>
            <p class="rail-group" aria-hidden="true">{S.groups[group]}</p>
            <ul>{entries.map((one) => (
              <li key={one.path}><Link to={one.path} aria-current={marked === one.path ? "page" : undefined}>{one.icon && <Icon name={one.icon} />}{one.title}</Link></li>
            ))}</ul>
          </section>
        );
      })}
      <div class="rail-foot">
        <ThemeSwitch />
        <ZoneSwitch />
        <div class="rail-who">
          {who?.open ? <span class="who" title={S.openServerHint}><Icon name="account" />{S.openServer}</span> : <>
            <Link to="/account" class="who" aria-current={path === "/account" ? "page" : undefined}><Icon name="account" /><span>{who?.user.name}</span></Link>
            <Button size="s" kind="quiet" onClick={() => void logOut()}>{S.logOut}</Button>
          </>}
        </div>
      </div>
    </nav>
  );
}

const MAC = /Mac|iPhone|iPad/.test(navigator.platform);

export async function logOut(): Promise<void> {
  try {
    await send("POST", "/admin/api/logout");
    me.set(null);
  } catch (error) {
    toastError(error);
  }
}

function Current({ path }: { path: string }) {
  const found = find(path);
  const [, redraw] = useState(0);
  const [failed, setFailed] = useState<PageEntry>();
  const entry = found?.entry;
  const Loaded = entry && chunks.get(entry);
  useEffect(() => {
    if (!entry || chunks.has(entry)) return;
    entry.load().then((loaded) => {
      chunks.set(entry, loaded.default as ComponentType<PageProps>);
      redraw((n) => n + 1);
    }, () => setFailed(entry));
  }, [entry]);
  if (!found || !entry) return <div class="page"><Empty title={S.notFound}><Link to="/">{S.toOverview}</Link></Empty></div>;
  if (!may(entry.scope)) return <div class="page"><Empty title={S.notAllowed}>{S.notAllowedFix}</Empty></div>;
  if (failed === entry) return <div class="page"><Empty title={S.chunkGone}><Button onClick={() => location.reload()}>{S.reload}</Button></Empty></div>;
  if (!Loaded) return <div class="page"><Loading /></div>;
  return <Guard key={entry.path}><Loaded params={found.params} /></Guard>;
}

/** A page that breaks takes nothing else with it. */
class Guard extends Component<{ children: ComponentChildren }, { error?: Error }> {
  static override getDerivedStateFromError(error: Error) { return { error }; }
  override render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    console.error(error);
    return <div class="page"><Empty title={S.broke}><p>{S.brokeFix}</p><pre>{String(error)}</pre><Button onClick={() => location.reload()}>{S.reload}</Button></Empty></div>;
  }
}

/** Asks for the password again when the server wants that before it does something. */
function Prover() {
  const [waiting, setWaiting] = useState<(proved: boolean) => void>();
  const [password, setPassword] = useState("");
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    prover.ask = () => new Promise((resolve) => { setPassword(""); setError(undefined); setWaiting(() => resolve); });
    return () => { prover.ask = () => Promise.resolve(false); };
  }, []);
  if (!waiting) return null;
  const over = (proved: boolean) => { setWaiting(undefined); waiting(proved); };
  const prove = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await send("POST", "/admin/api/prove", { password });
      over(true);
    } catch (failed) {
      setError(failed as ApiError);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={S.proveTitle} onClose={() => over(false)}>
      <form onSubmit={(event) => void prove(event)}>
        <p>{S.proveWhy}</p>
        <Field label={S.password} type="password" autocomplete="current-password" autofocus value={password} onValue={setPassword} required />
        {error && <ErrorBox error={error} />}
        <div class="actions end"><Button onClick={() => over(false)}>{S.cancel}</Button><Button kind="primary" type="submit" busy={busy}>{S.confirm}</Button></div>
      </form>
    </Dialog>
  );
}
