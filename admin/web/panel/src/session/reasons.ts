// Why sessions end, in plain words, and what to do about it.
import type { Tone } from "../ui/Badge";

export interface Reason { text: string; next: string; tone: Tone }

const ENDS: Record<string, Reason> = {
  client_ended: { text: "The client ended the session.", next: "", tone: "plain" },
  client_left: { text: "The client closed its connection.", next: "", tone: "plain" },
  agent_ended: { text: "The agent said goodbye and hung up.", next: "", tone: "plain" },
  ended_by_api: { text: "Somebody ended it over the API or from here.", next: "The audit log says who.", tone: "plain" },
  ended_by_operator: { text: "An operator ended it from the panel.", next: "The audit log says who.", tone: "plain" },
  idle: { text: "Nobody was connected any more.", next: "A client that loses its network has limits.idle_s to come back.", tone: "plain" },
  user_idle: { text: "The user said nothing for long, not even after being asked.", next: "nudge_after_ms and the goodbye of the agent say how long it waits.", tone: "plain" },
  server_stopped: { text: "The server was stopped.", next: "Drain it first: sessions may then end by themselves.", tone: "warn" },
  vad_failed: { text: "The detection of speech failed, and nothing can be heard without it.", next: "See the errors under Events, and the plugin of the VAD under Plugins.", tone: "bad" },
  error: { text: "An error of the server ended it.", next: "See the errors under Events; the log of the server has the place.", tone: "bad" },
  cancelled: { text: "It was cut off from within the server.", next: "See the server's log around that time.", tone: "bad" },
  overloaded: { text: "The client sent or read slower or faster than could be kept up with.", next: "See the loop lag under Nodes; fewer sessions on this node help.", tone: "bad" },
};

/** Of a session; one that nobody knows was given by who ended it. */
export function endOf(reason: string | null, live: boolean): Reason {
  if (reason === null) {
    return live ? { text: "It goes on.", next: "", tone: "good" }
      : { text: "Its end was not written down: the server was killed, or the session is on another node.", next: "See Nodes.", tone: "warn" };
  }
  return ENDS[reason] ?? { text: `Whoever ended it gave this reason: ${reason}`, next: "", tone: "plain" };
}

const CODES: Record<string, string> = {
  stt_failed: "What was said could not be recognised. See the STT provider under Plugins.",
  no_transcript: "No transcript came in time. See the STT provider's latency.",
  no_words: "Speech was heard, and no words in it: noise, another language, or a bad microphone.",
  llm_failed: "No LLM of the agent's chain answered. See the provider's key, quota and reachability under Plugins.",
  tts_failed: "The answer could not be spoken. See the TTS provider under Plugins.",
  turn_failed: "A turn broke with an error of the server; its log has the place.",
  reply_failed: "An answer broke off. See the events before it.",
  empty_reply: "The LLM answered with nothing. See what it was sent under LLM context.",
  provider_unauthorized: "A provider refused its key. Set another one under Plugins.",
  provider_rate_limited: "A provider takes no more requests for now. Raise its quota, or name a second one in the agent.",
  provider_unreachable: "A provider cannot be reached from the server.",
  provider_failed: "A provider failed. See Plugins for what it said.",
  context_too_long: "The conversation is too long for the LLM.",
  first_output: "The answer did not begin in time.",
  rate_limited: "The client sent too much.",
  frame_too_large: "The client sent a frame that is too large.",
  bad_message: "The client sent a message with wrong fields.",
  unknown_event: "The client sent a message that nobody knows.",
  bad_json: "The client sent text that is not JSON.",
  too_fast: "The client sent commands faster than they can be taken.",
  odd_audio: "The client sent half a sample.",
  recording_failed: "The sound could not be kept: see the disk of the server.",
  disk_full: "The disk of the server is full.",
  taken_over: "An operator had taken over.",
  vad_failed: ENDS["vad_failed"]!.text,
};

/** What an error's code means and what to do; "" where only its message tells. */
export const codeMeans = (code: string): string => CODES[code] ?? "";
