// The server's API: requests with the login's cookie, problems as exceptions, and who is logged in.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { store, useStore } from "./store";
import { S } from "./strings/shell";
import type { Me, Problem, Scope } from "./types";

/** The server said no, or could not be reached (`status` 0). */
export class ApiError extends Error {
  readonly problem: Problem;
  constructor(problem: Problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
  get status(): number { return this.problem.status; }
  get code(): string { return this.problem.code; }
}

/** `undefined` until it is known, `null` where nobody is logged in. */
export const me = store<Me | null | undefined>(undefined);
export const useMe = (): Me | null | undefined => useStore(me);

/** Whether who is logged in may do what needs `scope`. */
export function may(scope: Scope): boolean {
  const scopes = me.get()?.scopes ?? [];
  return scopes.includes(scope) || scopes.includes("admin");
}

/** Asks for the password again (the shell shows a dialog); false where that was cancelled. */
export const prover: { ask: () => Promise<boolean> } = { ask: () => Promise.resolve(false) };

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => request<T>("GET", path, undefined, signal);

/** `extra` are headers, such as {"if-match": '"3"'}. */
export const send = <T = void>(
  method: "POST" | "PUT" | "PATCH" | "DELETE", path: string, body?: unknown, extra?: Record<string, string>,
): Promise<T> => request<T>(method, path, body, undefined, extra);

async function request<T>(
  method: string, path: string, body?: unknown, signal?: AbortSignal, extra?: Record<string, string>,
): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await once<T>(method, path, body, signal, extra);
    } catch (error) {
      if (!(error instanceof ApiError) || attempt > 0) throw error;
      // A page that was open for long, or in another tab somebody logged in: the token is another one now.
      if (error.code === "csrf" && (await loadMe())) continue;
      if (error.code === "prove_password" && (await prover.ask())) continue;
      throw error;
    }
  }
}

async function once<T>(
  method: string, path: string, body: unknown, signal: AbortSignal | undefined, extra?: Record<string, string>,
): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json", ...extra };
  if (body !== undefined) headers["content-type"] = "application/json";
  const csrf = me.get()?.csrf;
  if (method !== "GET" && csrf) headers["x-csrf-token"] = csrf;
  let answer: Response;
  try {
    answer = await fetch(path, {
      method, headers, cache: "no-store", credentials: "same-origin",
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(problem(0, "unreachable", S.unreachable, S.unreachableFix));
  }
  const text = await answer.text();
  if (answer.ok) return (text ? JSON.parse(text) : undefined) as T;
  const told = readProblem(text, answer);
  if (answer.status === 401 && !LOGIN.includes(path)) me.set(null);
  throw new ApiError(told);
}

const LOGIN = ["/admin/api/login", "/admin/api/link"];

function readProblem(text: string, answer: Response): Problem {
  try {
    const read = JSON.parse(text) as Partial<Problem>;
    if (typeof read.code === "string") return { ...problem(answer.status, read.code, "", null), ...read };
  } catch {
    // Not from the server itself, perhaps from a proxy before it.
  }
  return problem(answer.status, `http_${answer.status}`, S.badAnswer(answer.status), null);
}

function problem(status: number, code: string, detail: string, fix: string | null): Problem {
  return { type: "", title: detail, status, detail, code, fix, retryable: status === 0 || status >= 500, request_id: "", errors: [] };
}

/** Asks who is logged in; false where nobody is. */
export async function loadMe(): Promise<boolean> {
  try {
    me.set(await once<Me>("GET", "/admin/api/me", undefined, undefined));
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) { me.set(null); return false; }
    throw error;
  }
}

export interface Got<T> {
  /** What was got last; stays while it is got again, and is undefined after the path changed. */
  data: T | undefined;
  error: ApiError | undefined;
  loading: boolean;
  reload: () => void;
}

/** GETs `path` (nothing if null), again when it changes and each `every` ms while the page is visible. */
export function useGet<T>(path: string | null, options: { every?: number; keep?: boolean } = {}): Got<T> {
  const { every, keep } = options;
  const [state, setState] = useState<{ path: string | null; data?: T; error?: ApiError; loading: boolean }>(
    { path, loading: path !== null });
  const [wanted, setWanted] = useState(0);
  const last = useRef(0);
  const reload = useCallback(() => setWanted((n) => n + 1), []);
  useEffect(() => {
    if (path === null) return;
    const stop = new AbortController();
    setState((was) => (was.path === path ? { ...was, loading: true }
      : { path, loading: true, ...(keep && was.data !== undefined ? { data: was.data } : {}) }));
    const fetchIt = async () => {
      last.current = Date.now();
      try {
        const data = await get<T>(path, stop.signal);
        if (!stop.signal.aborted) setState({ path, data, loading: false });
      } catch (error) {
        if (stop.signal.aborted) return;
        const told = error instanceof ApiError ? error : new ApiError(problem(0, "bug", String(error), null));
        setState((was) => ({ path, loading: false, error: told, ...(was.data !== undefined ? { data: was.data } : {}) }));
      }
    };
    void fetchIt();
    if (!every) return () => stop.abort();
    const due = () => { if (!document.hidden && Date.now() - last.current >= every - 50) void fetchIt(); };
    const timer = setInterval(due, every);
    document.addEventListener("visibilitychange", due);
    return () => {
      stop.abort();
      clearInterval(timer);
      document.removeEventListener("visibilitychange", due);
    };
  }, [path, wanted, every, keep]);
  const fresh = state.path === path || keep;
  return {
    data: fresh ? state.data : undefined,
    error: fresh ? state.error : undefined,
    loading: path !== null && (!fresh || state.loading),
    reload,
  };
}

/** `/v1/x` and `{a: 1, b: null}` to `/v1/x?a=1`: null, undefined and "" are left out. */
export function url(path: string, query: Record<string, string | number | boolean | null | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

export interface Pages<T, P> {
  /** All rows of the pages that were got; undefined before the first. */
  items: T[] | undefined;
  /** The newest answer to the first page. */
  first: P | undefined;
  error: ApiError | undefined;
  loading: boolean;
  /** Gets the next page; undefined where there is none. */
  more: (() => void) | undefined;
  reload: () => void;
}

/** A list page by page: `path` is of the first, which `before=` is added to for the others. */
export function usePages<T, P extends { items: T[]; next_cursor: string | null } = { items: T[]; next_cursor: string | null }>(
  path: string | null, options: { every?: number; keep?: boolean } = {},
): Pages<T, P> {
  const first = useGet<P>(path, options);
  const [rest, setRest] = useState<{ path: string | null; items: T[]; next: string | null; loading: boolean; error?: ApiError } | null>(null);
  const mine = rest?.path === path ? rest : null;
  const next = mine ? mine.next : first.data?.next_cursor ?? null;
  const more = async () => {
    const had = mine?.items ?? [];
    setRest({ path, items: had, next, loading: true });
    try {
      const page = await get<P>(`${path}${path?.includes("?") ? "&" : "?"}before=${encodeURIComponent(next!)}`);
      setRest({ path, items: [...had, ...page.items], next: page.next_cursor, loading: false });
    } catch (failed) {
      if (failed instanceof ApiError) setRest({ path, items: had, next, loading: false, error: failed });
      else throw failed;
    }
  };
  return {
    items: first.data && [...first.data.items, ...(mine?.items ?? [])],
    first: first.data, error: mine?.error ?? first.error, loading: first.loading || (mine?.loading ?? false),
    more: next !== null && first.data ? () => void more() : undefined,
    reload: () => { setRest(null); first.reload(); },
  };
}
