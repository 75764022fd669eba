// What the server's REST API answers, as far as the panel reads it. Times are Unix ms, spans microseconds (`_us`).

export type Scope = "read" | "listen" | "talk" | "control" | "agents" | "admin";
export type Role = "viewer" | "analyst" | "operator" | "developer" | "admin";
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** RFC 9457, as every error of the server. */
export interface Problem {
  type: string; title: string; status: number; detail: string; code: string; fix: string | null;
  retryable: boolean; request_id: string; errors: { path: string; message: string }[];
}

/** GET /admin/api/me (401 `unauthorized` without a login). */
export interface Me {
  user: { id: string; name: string; role: Role };
  scopes: Scope[];
  csrf: string;
  /** The password was typed recently enough for what is dangerous. */
  proved: boolean;
  /** auth.mode is "none": everybody is admin, there are no accounts. */
  open: boolean;
  version: string;
}

export interface Page<T> { items: T[]; next_cursor: string | null }

// --- sessions

export interface SessionRow {
  id: string; room_id: string | null; agent: string; agent_version: number | null;
  started_at: number; ended_at: number | null; end_reason: string | null;
  channel: string | null; client: string | null;
  /** Live in this process. */
  live: boolean;
  turns: number; interruptions: number; errors: number;
  p50_us: number | null; max_us: number | null;
  recorded: boolean;
  first_text: string | null;
}
export type Facet = { value: string; count: number }[];
export interface SessionList extends Page<SessionRow> {
  /** Only with facets=true: counts over all that fit the other filters. Keys: agent, end_reason, channel, agent_version. */
  facets: Record<string, Facet> | null;
}
/** With q=: the messages that hold the words, newest first (GET /v1/transcripts?q=). */
export interface Found { session_id: string; agent: string; turn_id: string | null; role: string; content: string; at: number }

export interface Span { name: string; us: number; hidden: boolean }
export interface ToolCall {
  id: string; reply_id: string; turn_id: string | null; name: string; arguments: string;
  status: "ok" | "failed" | "cancelled" | null; result: string | null; called_at: number; returned_at: number | null;
}
export interface Turn {
  id: string; session_id: string; number: number; user_text: string | null; committed_at: number;
  reply_id: string | null; reply_text: string | null; heard_text: string | null;
  reply_reason: "completed" | "interrupted" | "failed" | "ended" | null;
  played_ms: number | null; estimated: boolean | null;
  response_us: number | null; jitter_us: number | null; speculated: boolean | null; saved_us: number | null;
  discarded: number | null; providers: Record<string, string> | null; hooks: Record<string, number> | null;
  spans: Span[]; tool_calls: ToolCall[];
}
export interface Message { id: number; session_id: string; turn_id: string | null; role: string; content: string; at: number; seq: number }
export interface Interruption {
  session_id: string; seq: number; turn_id: string; reply_id: string; accepted: boolean; cause: string;
  speech_ms: number; text: string; at: number;
}
/** GET /v1/sessions/{id} */
export interface SessionDetail {
  session: SessionRow & { input_rate: number; output_rate: number; metrics: Record<string, Json> | null };
  live: boolean; turns: Turn[]; messages: Message[]; interruptions: Interruption[];
  recording: Recording | null;
}
/** An event as the log has it: GET /v1/sessions/{id}/events with Accept: application/json. */
export interface ServerEvent { type: string; seq: number; at: number; session_id: string; [field: string]: Json }
export interface EventPage { items: ServerEvent[]; next_cursor: number | null }
/** GET /v1/sessions/{id}/llm: what the LLM was sent, exactly. */
export interface LlmRequest {
  reply_id: string; turn_id: string | null; position: number; at: number; provider: string;
  messages: { role: string; content: string; tool_calls?: { id: string; name: string; arguments: string }[]; tool_call_id?: string }[];
  tools: Json[]; max_tokens: number; temperature: number;
}

// --- recordings: GET /v1/sessions/{id}/recording is the WAV (stereo PCM16: left the user, right the agent; Range)

export interface Recording {
  session_id: string; rate: number; started_at: number; duration_ms: number | null; bytes: number | null;
  expires_at: number | null; deleted_at: number | null;
  /** It can be fetched now: written to its end and not deleted. */
  available: boolean;
}
/** GET /v1/sessions/{id}/recording/peaks: the loudest sample (0..127) of each 10 ms, base64 of bytes, per channel. */
export interface Peaks { per_second: 100; duration_ms: number; user: string; agent: string }

// --- live

export type Doing = "listening" | "user_speaking" | "thinking" | "tool" | "speaking";
/** A live session as the table shows it. */
export interface Live {
  id: string; agent: string; started_at: number; channel: string | null; client: string | null; node: string;
  doing: Doing; last_user: string; last_agent: string; turns: number; interruptions: number; errors: number;
  last_response_us: number | null; operator: string | null; listeners: number;
}
/**
 * GET /v1/stream?topics=live,overview,session:ses_...: one SSE stream (read, with the login's cookie). Each event's data:
 *  {topic:"live", reset:boolean, changed:Live[], gone:string[]}   at most 4 a second; reset: `changed` is all there is
 *  {topic:"overview", ...Pulse}                                   once a second
 *  {topic:"session:ID", event: ServerEvent}                       each event as it happens (never coalesced), from now on;
 *                                                                 fetch the log first and drop what you have by `seq`
 *  {topic:"session:ID", over:true}                                it is not live (any more)
 *  {topic:"session:ID", lagging:true}                             some events were dropped: fetch the log again, then as above
 */
export interface LiveUpdate { topic: "live"; reset: boolean; changed: Live[]; gone: string[] }
export interface Pulse {
  topic: "overview"; active: number; capacity: number; draining: boolean; loop_lag_p99_ms: number | null;
  turns_last_minute: number; sse_readers: number; store: "ok" | "unavailable"; rows_waiting: number;
}

// --- figures

export interface Percentiles { n: number; p50_us: number | null; p95_us: number | null; p99_us: number | null }
/** GET /v1/overview?since=&until= : the range, and the one of the same length before it. */
export interface Overview {
  since: number; until: number;
  now: OverviewPart; before: OverviewPart;
  /** The last ten sessions that went badly, newest first. */
  bad: (SessionRow & { why: string })[];
  slots: { at: number; n: number; p50_us: number | null; p95_us: number | null }[];
  slot_ms: number;
}
export interface OverviewPart { sessions: number; turns: number; response: Percentiles; errors: number; interrupted: number }
/** GET /v1/latency?since=&until=&agent=&provider=llm:guide&group=agent|stt|llm|tts|version */
export interface Latency {
  since: number; until: number; slot_ms: number;
  all: Percentiles;
  slots: ({ at: number } & Percentiles)[];
  /** Rising upper edges in us; the last bucket is open. cells: [slot index by (at-since)/slot_ms, bucket index, n]. */
  heatmap: { edges_us: number[]; cells: [number, number, number][] };
  stages: ({ name: string; hidden: number } & Percentiles)[];
  groups: ({ value: string } & Percentiles)[];
  slowest: SlowTurn[];
}
export interface SlowTurn {
  session_id: string; turn_id: string; number: number; agent: string; at: number; response_us: number;
  user_text: string | null; spans: Span[]; providers: Record<string, string> | null;
}

// --- agents, rooms, plugins, keys, webhooks

export interface Agent { name: string; version: number | null; source: "settings" | "api"; created_at: number | null; definition: Record<string, Json> }
export interface AgentVersion { version: number; created_at: number; created_by: string; definition: Record<string, Json> | null }
/** GET /v1/agent_schema: what a definition may hold, and what each profile of its `turns` sets. */
export interface AgentSchema { schema: JsonSchema; profiles: Record<string, Record<string, Json>> }
export interface Room { id: string; agent: string; session_id: string; created_at: number; expires_at: number; join: Join }
export interface Join { ws: string; events: string; page?: string; token?: string; role?: string; expires_at?: number }

export interface Trouble { stage: string; subject: string; what: string; details: string; at: number; count: number }
export interface Plugin {
  name: string; distribution: string; version: string; state: "ok" | "degraded" | "failed"; hooks: string[];
  error: string | null; problems: Trouble[]; health: string | null;
}
export interface ProviderOffer { kind: string; name: string; summary: string; plugin: string; capabilities: Record<string, Json>; settings: JsonSchema }
export interface ToolOffer { name: string; description: string; side_effects: boolean; plugin: string; parameters: JsonSchema }
export interface PluginOffer { plugins: Plugin[]; providers: ProviderOffer[]; tools: ToolOffer[] }
export interface JsonSchema {
  type?: string | string[]; title?: string; description?: string; default?: Json; enum?: Json[]; writeOnly?: boolean;
  properties?: Record<string, JsonSchema>; required?: string[]; items?: JsonSchema; anyOf?: JsonSchema[]; $ref?: string;
  $defs?: Record<string, JsonSchema>; minimum?: number; maximum?: number; [key: string]: unknown;
}
/**
 * GET /v1/plugin_settings (admin) {items}: all sections [plugins.NAME] that can be set. PUT /v1/plugin_settings/{name} {values}
 * takes the place of what was stored (a key that is left out gets its default; of a secret null or true leaves it, "" removes
 * it), asks for a proved password, and answers the PluginSection. A property with `readOnly` is for the file alone.
 */
export interface PluginSection {
  name: string; plugin: string; schema: JsonSchema;
  /** Effective values; of secrets `true` (is set) or `false`, never the value. */
  values: Record<string, Json>;
  /** Where each value comes from; what is pinned (env, file) cannot be changed here. */
  origins: Record<string, "env" | "file" | "panel" | "default">;
  /** Stored here, and takes effect when the server starts again. */
  restart: boolean;
  updated_at: number | null; updated_by: string | null;
}

export interface Key {
  id: string; name: string; prefix: string; scopes: Scope[]; dev: boolean; created_at: number;
  expires_at: number | null; revoked_at: number | null; last_used_at: number | null;
}
export interface MadeKey { key: string; record: Key }

// --- steering: POST /v1/sessions/{id}/say|whisper {text}, /interrupt, /end {reason}; PUT|DELETE /v1/sessions/{id}/takeover

export interface Takeover { session_id: string; operator: string; expires_at: number }

// --- accounts, audit, nodes, settings

/** GET /v1/users, POST /v1/users {name, role} -> {user, link}, PATCH /v1/users/{id} {role?, disabled?}, POST .../link, DELETE */
export interface User {
  id: string; name: string; role: Role; created_at: number; created_by: string; disabled_at: number | null;
  last_login_at: number | null; has_password: boolean;
}
export interface MadeUser { user: User; link: string; expires_at: number }
/** GET /admin/api/logins: {items: LoginRow[]}, one's own; DELETE /admin/api/logins/{id} ends one. */
export interface LoginRow { id: string; address: string; client: string; created_at: number; seen_at: number; current: boolean }
/** GET /v1/audit?before=&actor=&action=&subject= */
export interface AuditRow { id: number; at: number; actor: string; actor_name: string; action: string; subject: string; detail: Record<string, Json>; address: string }
/** GET /v1/nodes {items} */
export interface Node {
  id: string; host: string; pid: number; version: string; started_at: number; seen_at: number; here: boolean; lost: boolean;
  stats: {
    sessions: number; capacity: number; cpu_percent: number; rss_bytes: number; loop_lag_p99_ms: number | null;
    rows_waiting: number; draining: boolean;
    /** Seconds that each provider took to get ready. */
    loaded: Record<string, number>;
  };
}
/** GET /v1/settings (admin) {items}: every setting with where it comes from; of secrets no value. */
export interface Setting { key: string; value: Json; origin: "flag" | "env" | "file" | "panel" | "default"; secret: boolean; description: string }
