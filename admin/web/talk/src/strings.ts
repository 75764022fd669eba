// All words of the talk page that are not in talk.html.
import type { ErrorKind } from "../../client/src/errors";

export const TEXT = {
  title: (agent: string) => `Talk to ${agent}`,
  tab: (agent: string) => `${agent} - Rejoinder`,
  you: "You",
  agent: "Agent",
  start: "Start talking",
  join: "Talk",
  listen: "Listen",
  again: "Talk again",
  hold: "Hold to talk",
  connecting: "Connecting",
  holding: "Let go to send",
  tryAgain: "Try again",
  withoutMicrophone: "Go on without a microphone",
  mute: "Mute",
  unmute: "Unmute",
  end: "End",
  leave: "Leave",
  interrupted: "interrupted",
  failed: "failed",
  unheard: "not heard",
  ms: (ms: number) => `${ms} ms`,
  latency: (ms: number) => `Answered after ${ms} ms; show where the time went`,
  tool: (name: string) => `Used ${name}`,
  toolFailed: (name: string) => `${name} failed`,
  handedOver: (from: string, to: string) => `${from} has handed over to ${to}.`,
  tookOver: (name: string) => (name ? `A person, ${name}, has taken over.` : "A person has taken over."),
  handedBack: "The agent answers again.",
  over: "The conversation is over.",
  notReached: "That did not reach the server.",
  defaultDevice: "Default",
  device: (number: number) => `Device ${number}`,
  state: { idle: "", connecting: "Connecting", connected: "Connected", reconnecting: "Reconnecting", closed: "Not connected" },
  waiting: "Waiting for somebody to begin",
  listening: "You are listening",
  rtt: (ms: number) => `Connected, ${ms} ms`,
  doing: {
    idle: "Your browser will ask for the microphone.",
    ready: "Say something.",
    muted: "Your microphone is off.",
    hearing: "Listening ...",
    thinking: "One moment ...",
    speaking: "Speaking. You can interrupt.",
    reconnecting: "The connection is lost; trying again ...",
    operator: "A person is with you.",
  },
};

/** After these the microphone is missing, and one can go on without. */
export const WITHOUT_MICROPHONE: ReadonlySet<ErrorKind> = new Set(["insecure_origin", "mic_denied", "no_device", "device_busy"]);

export const SPANS: Record<string, string> = {
  endpointing: "Silence until the turn is over",
  stt: "Speech to text",
  llm: "First word of the model",
  chunk: "First sentence",
  tts: "First sound",
  send: "Sending",
  play: "Playing",
};
