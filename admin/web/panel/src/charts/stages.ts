// The stages of a turn in their order, with their names and colours.
import { S } from "../strings/charts";

const COLOURS: Record<string, string> = {
  endpointing: "--stage-endpointing", stt: "--stage-stt", hooks: "--stage-hooks", llm: "--stage-llm",
  chunk: "--stage-chunk", tts: "--stage-tts", send: "--stage-send", play: "--stage-play",
};
const ORDER = Object.keys(COLOURS);

export const stageName = (name: string): string => S.stages[name] ?? name;
export const stageMeans = (name: string): string => S.stageMeans[name] ?? "";
export const stageColour = (name: string): string => COLOURS[name] ?? "--stage-tool";

/** Sorts by the order of stages; those nobody knows come last. */
export function byStage(one: { name: string }, other: { name: string }): number {
  const place = (name: string) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return place(one.name) - place(other.name) || one.name.localeCompare(other.name);
}
