// What took the time in a turn, in a sentence, and what makes that stage shorter.
import { mainCause } from "../charts/percentiles";
import { stageName } from "../charts/stages";
import { ms } from "../format";
import type { Span, Turn } from "../types";

/** The sum of the spans in us. They are contiguous, so it is the response itself, exactly. */
export const sumOf = (spans: readonly Span[]): number => spans.reduce((sum, span) => sum + span.us, 0);

/** Where each span begins (us since the user's last speech). */
export function places(spans: readonly Span[]): { span: Span; from: number }[] {
  let from = 0;
  return spans.map((span) => {
    const place = { span, from };
    from += span.us;
    return place;
  });
}

const WHAT: Record<string, (time: string) => string> = {
  endpointing: (time) => `${time} of silence were waited for until the turn was over.`,
  stt: (time) => `the transcript came ${time} after the end of the turn was decided.`,
  llm: (time) => `the LLM took ${time} to its first word.`,
  chunk: (time) => `${time} passed until the first words were enough to be spoken.`,
  tts: (time) => `${time} passed until the voice made its first sound.`,
  send: (time) => `the first sound waited ${time} to be sent.`,
  play: (time) => `${time} passed until the client played the first sound.`,
};

/** "62 % is endpointing: 480 ms of silence were waited for until the turn was over." */
export function sentence(spans: readonly Span[]): string {
  const cause = mainCause([...spans]);
  if (!cause) return "";
  const what = WHAT[cause.name]?.(ms(cause.us)) ?? `it took ${ms(cause.us)}.`;
  return `${Math.round(cause.share * 100)} % is ${stageName(cause.name).toLowerCase()}: ${what}`;
}

const ADVICE: Record<string, string> = {
  endpointing: "A brisker turn profile, a lower end_silence_ms or a turn detector shortens it; more people are cut off then.",
  stt: "A faster STT, or one that streams. With speculation it runs while the silence is waited for.",
  llm: "A smaller or nearer model, a shorter prompt, fewer tools; prefill and speculation hide it behind the silence.",
  chunk: "Answers that begin with a short sentence. Say so in the prompt.",
  tts: "A faster voice, or one that streams its sound.",
  send: "The event loop is busy: see its lag under Nodes.",
  play: "The network and the client's buffer: WebRTC or a nearer server helps.",
};

export const adviceFor = (stage: string): string => ADVICE[stage] ?? "";

/** How speculation went in a turn, in a sentence; "" where there was none. */
export function speculation(turn: Pick<Turn, "speculated" | "saved_us" | "discarded">): string {
  const thrown = turn.discarded ? ` ${turn.discarded} prepared ${turn.discarded === 1 ? "answer was" : "answers were"} thrown away.` : "";
  if (turn.speculated) return `The answer was prepared during the silence; without that it would have come ${ms(turn.saved_us ?? 0)} later.${thrown}`;
  return thrown.trim();
}
