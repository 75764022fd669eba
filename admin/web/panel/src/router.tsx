// Where one is in the panel: the History API, below /admin. All state of a page that is worth a link is in the URL.
import type { AnchorHTMLAttributes, ComponentChildren } from "preact";
import { store, useStore } from "./store";

const BASE = "/admin";

export interface Place {
  /** Without /admin: "/sessions/ses_1". */
  path: string;
  search: string;
}

const here = store<Place>(read());

function read(): Place {
  const path = location.pathname.startsWith(BASE) ? location.pathname.slice(BASE.length) : location.pathname;
  return { path: path.replace(/\/+$/, "") || "/", search: location.search };
}

addEventListener("popstate", () => here.set(read()));

export const useLocation = (): Place => useStore(here);
export const whereNow = (): Place => here.get();
export const href = (to: string): string => (to === "/" ? BASE : BASE + to);

/** Go to `to` ("/sessions?agent=x"); with `replace` the page before stays what "back" leads to. */
export function navigate(to: string, options: { replace?: boolean } = {}): void {
  const before = here.get();
  history[options.replace ? "replaceState" : "pushState"](null, "", href(to));
  here.set(read());
  if (!options.replace && before.path !== here.get().path) scrollTo(0, 0);
}

type LinkProps = { to: string; children: ComponentChildren } & Omit<AnchorHTMLAttributes<HTMLAnchorElement>, "href" | "onClick">
  & { onClick?: () => void };

/** A link within the panel; with Ctrl and the like it is the browser's. */
export function Link({ to, children, onClick, ...rest }: LinkProps) {
  const go = (event: MouseEvent) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    onClick?.();
    navigate(to);
  };
  return <a href={href(to)} onClick={go} {...(rest as object)}>{children}</a>;
}

export interface Query {
  get(name: string, otherwise?: string): string;
  has(name: string): boolean;
  all(): Record<string, string>;
  /** Change some; null or "" takes one away. It replaces the history's entry unless `push`. */
  set(changes: Record<string, string | null>, options?: { push?: boolean }): void;
}

/** The URL's query as state. */
export function useQuery(): Query {
  const { search } = useLocation();
  const params = new URLSearchParams(search);
  return {
    get: (name, otherwise = "") => params.get(name) ?? otherwise,
    has: (name) => params.has(name),
    all: () => Object.fromEntries(params),
    set(changes, { push = false } = {}) {
      const now = whereNow();
      navigate(now.path + withChanges(now.search, changes), { replace: !push });
    },
  };
}

/** `search` with `changes`, "" or beginning with a question mark. */
export function withChanges(search: string, changes: Record<string, string | null>): string {
  const params = new URLSearchParams(search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") params.delete(name);
    else params.set(name, value);
  }
  const text = params.toString();
  return text ? `?${text}` : "";
}

/** The parameters of `path` if it fits `pattern` ("/sessions/:id"), else null. */
export function match(pattern: string, path: string): Record<string, string> | null {
  const wanted = pattern.split("/"), given = path.split("/");
  if (wanted.length !== given.length) return null;
  const found: Record<string, string> = {};
  for (const [i, part] of wanted.entries()) {
    const value = given[i] ?? "";
    if (part.startsWith(":")) {
      try { found[part.slice(1)] = decodeURIComponent(value); } catch { return null; }
    } else if (part !== value) return null;
  }
  return found;
}

/** Where to go after the login: a path of the panel, whatever else the address may say. */
export function nextOf(search: string): string {
  const next = new URLSearchParams(search).get("next") ?? "/";
  return /^\/(?![/\\])/.test(next) && !next.startsWith("/login") ? next : "/";
}
