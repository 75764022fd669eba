// Every event of the native protocol, as docs/reference/protocol.md has them. Times are Unix ms, `_us` microseconds.

interface Base<T extends string> {
  type: T;
  /** From 1, without gaps, within the session; missing where it goes to this client alone. */
  seq?: number;
  at?: number;
  session_id?: string;
}
export interface Span { name: string; us: number; hidden?: boolean }

export interface SessionStarted extends Base<"session.started"> {
  agent: string; agent_version?: number; input_rate: number; output_rate: number; resume_token?: string; resumed?: boolean;
  /** The conversation is recorded: whoever talks is to be told. */
  recorded?: boolean;
  /** Who speaks instead of the agent, where somebody has taken over already. */
  operator?: string;
}
export interface AgentChanged extends Base<"agent.changed"> { agent: string; former: string; agent_version?: number; recorded?: boolean }
export interface OperatorTookOver extends Base<"operator.took_over"> { operator: string }
export interface OperatorHandedBack extends Base<"operator.handed_back"> { operator: string; reason: "handed_back" | "lost" }
export interface SessionEnded extends Base<"session.ended"> { reason: string }
export interface SpeechStarted extends Base<"user.speech_started"> { turn_id: string }
export interface SpeechPaused extends Base<"user.speech_paused"> { turn_id: string }
export interface SpeechStopped extends Base<"user.speech_stopped"> { turn_id: string; silence_ms: number }
export interface Interruption extends Base<"user.interruption"> {
  turn_id: string; reply_id: string; accepted: boolean; cause: string; speech_ms: number; text?: string;
}
export interface Transcript extends Base<"user.transcript"> { turn_id: string; text: string; final: boolean }
export interface TurnCommitted extends Base<"turn.committed"> { turn_id: string; text: string }
export interface ReplyStarted extends Base<"reply.started"> { reply_id: string; turn_id: string }
export interface ReplyText extends Base<"reply.text"> { reply_id: string; delta: string }
export interface ReplyDucked extends Base<"reply.ducked"> { reply_id: string }
export interface ReplyResumed extends Base<"reply.resumed"> { reply_id: string; from_ms: number }
export interface ToolCalled extends Base<"tool.called"> { reply_id: string; call_id: string; name: string; arguments: string }
export interface ToolProgress extends Base<"tool.progress"> { reply_id: string; call_id: string; message: string; fraction?: number }
export interface ToolReturned extends Base<"tool.returned"> {
  reply_id: string; call_id: string; name: string; status: "ok" | "failed" | "cancelled"; result: string;
}
export interface ClearAudio extends Base<"clear_audio"> { reply_id: string; played_ms: number }
export interface ReplyFinished extends Base<"reply.finished"> {
  reply_id: string; turn_id: string; reason: "completed" | "interrupted" | "failed" | "ended"; text: string; heard_text: string;
  played_ms?: number; estimated?: boolean;
}
export interface TurnMetrics extends Base<"turn.metrics"> {
  turn_id: string; reply_id: string; response_us: number; spans: Span[]; jitter_us?: number; speculated?: boolean;
  saved_us?: number; discarded?: number; providers?: Record<string, string>; hooks?: Record<string, number>;
}
export interface ProviderSwitched extends Base<"provider.switched"> { kind: string; provider: string; to: string; cause: string }
export interface SessionMetrics extends Base<"session.metrics"> {
  turns: number; speculations_kept?: number; speculations_discarded?: number; saved_ms?: number; interruptions?: number;
  false_interruptions?: Record<string, number>; nudges?: number; resumes?: number; timeouts?: Record<string, number>;
  failures?: Record<string, number>;
}
export interface Pong extends Base<"pong"> { t: number }
export interface ServerError extends Base<"error"> { code: string; message: string; fix?: string; retryable?: boolean }

export type ServerEvent =
  | SessionStarted | AgentChanged | OperatorTookOver | OperatorHandedBack | SessionEnded
  | SpeechStarted | SpeechPaused | SpeechStopped | Interruption | Transcript | TurnCommitted
  | ReplyStarted | ReplyText | ReplyDucked | ReplyResumed | ToolCalled | ToolProgress | ToolReturned
  | ClearAudio | ReplyFinished | TurnMetrics | ProviderSwitched | SessionMetrics | Pong | ServerError;

export type Command =
  | { type: "session.configure"; agent?: string; input_rate?: number; output_rate?: number; output?: "audio" | "text";
      resume_token?: string; last_seq?: number; played_ms?: number }
  | { type: "text"; text: string }
  | { type: "interrupt" }
  | { type: "playback"; reply_id: string; played_ms: number }
  | { type: "dtmf"; digits: string }
  | { type: "ping"; t: number }
  | { type: "end"; reason?: string };
