// Where a conversation is: from the link of a page, a session and its token, an endpoint that makes a room, or a URL.
import { ClientError, ofServer } from "./errors";

export interface TargetOptions {
  /** A server (`https://voice.example`) or the WebSocket itself; without it, where this file came from. */
  url?: string;
  /** The link to a room's page, `.../talk#session=...&token=...`. */
  link?: string;
  session?: string;
  token?: string;
  /** Good once; a function is asked again when the connection was lost. */
  ticket?: string | (() => string | Promise<string>);
  /** POST here answers with a room and how to join it; without anything else it is the server's `/talk/room`. */
  endpoint?: string;
  /** With whom, where the room (or, with a WebSocket's URL, the session) is made for this conversation. */
  agent?: string;
}

export interface Target {
  /** Of the server, `https://voice.example`. */
  origin: string;
  /** `/v1/sessions/{id}/ws`, or `/ws/audio` for a session of its own. */
  path: string;
  session: string | null;
  token: string | null;
  /** The room was made just now, for this conversation. */
  made: boolean;
}

interface MadeRoom { session_id: string; agent?: string; join: { ws: string; token?: string; page?: string } }

export async function find(options: TargetOptions, home: string): Promise<Target> {
  const base = new URL((options.url ?? "").replace(/^ws/, "http") || home, home);
  const given = options.link === undefined ? null : new URL(options.link, base);
  const fragment = new URLSearchParams(given?.hash.slice(1));
  const origin = (given ?? base).origin;
  const session = options.session ?? fragment.get("session");
  const token = options.token ?? fragment.get("token");
  if (session) return { origin, path: sessionPath(session), session, token, made: false };
  if (given) throw new ClientError("unauthorized", { message: "This link is damaged.", code: "bad_request" });
  if (options.url && /^\/(ws\/|v1\/sessions\/)/.test(base.pathname)) {
    const named = /^\/v1\/sessions\/([^/]+)\/ws/.exec(base.pathname)?.[1] ?? null;
    return { origin, path: base.pathname, session: named, token, made: named === null };
  }
  const room = await makeRoom(new URL(options.endpoint ?? "/talk/room", base), options.agent);
  const where = new URL(room.join.ws.replace(/^ws/, "http"), base);
  return { origin: where.origin, path: where.pathname, session: room.session_id, token: room.join.token ?? null, made: true };
}

export function sessionPath(session: string): string {
  return `/v1/sessions/${encodeURIComponent(session)}/ws`;
}

/** Ask an endpoint for a room. */
export async function makeRoom(endpoint: URL, agent?: string): Promise<MadeRoom> {
  const wanted = agent === undefined ? {} : { agent };
  try {
    return await post(endpoint, wanted);
  } catch (error) {
    if (!(error instanceof ClientError) || error.code !== "csrf") throw error;
    // Somebody who is logged in to the panel asks; their page proves that it is the server's own.
    const me = await fetch(new URL("/admin/api/me", endpoint)).catch(() => null);
    const { csrf } = ((await me?.json().catch(() => null)) ?? {}) as { csrf?: string };
    if (!csrf) throw error;
    return await post(endpoint, wanted, null, { "x-csrf-token": csrf });
  }
}

/** POST JSON; a refusal becomes the `ClientError` that it means. */
export async function post<T>(url: URL, body: unknown, token?: string | null, headers: Record<string, string> = {}): Promise<T> {
  let response: Response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers, ...(token ? { authorization: `Bearer ${token}` } : {}) },
      body: JSON.stringify(body),
      cache: "no-store",
    });
  } catch (cause) {
    throw new ClientError("connection_lost", { cause });
  }
  const answer: unknown = await response.json().catch(() => null);
  if (response.ok) return answer as T;
  const problem = { code: response.status === 401 ? "unauthorized" : "", detail: `The server answered with ${response.status}.` };
  throw ofServer({ ...problem, ...(answer as object | null) });
}
