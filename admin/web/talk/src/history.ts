// What was said before one came: the events of a session, page by page.
import type { ServerEvent } from "../../client/src/events";

export interface History {
  events: ServerEvent[];
  /** The code of the problem, where there was one: `session_not_started`, `unauthorized` ... */
  code: string;
}

export async function history(session: string, token: string | null, after: number): Promise<History> {
  const events: ServerEvent[] = [];
  for (let cursor: number | null = after; cursor !== null; ) {
    const response: Response | null = await fetch(`/v1/sessions/${encodeURIComponent(session)}/events?limit=1000&after=${cursor}`, {
      headers: { accept: "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) },
      cache: "no-store",
    }).catch(() => null);
    if (!response) return { events, code: "connection_lost" };
    const answer = (await response.json().catch(() => ({}))) as { items?: ServerEvent[]; next_cursor?: number | null; code?: string };
    if (!response.ok) return { events, code: answer.code ?? "refused" };
    events.push(...(answer.items ?? []));
    cursor = answer.next_cursor ?? null;
  }
  return { events, code: "" };
}
