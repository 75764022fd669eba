// What the page and the audio thread say to one another.
import type { JitterState } from "./jitter";

export const MICROPHONE = "rejoinder-microphone";
export const SPEAKER = "rejoinder-speaker";

export interface MicrophoneOptions { rate: number; frameMs: number }
export type ToMicrophone = { open: boolean } | { stop: true };
/** One frame of PCM16 and its root mean square (0 to 1). */
export interface FromMicrophone { pcm: ArrayBuffer; rms: number }

export interface SpeakerOptions { rate: number; startMs?: number }
export type ToSpeaker = { begin: string } | { pcm: ArrayBuffer } | { clear: true } | { gain: number } | { rate: number } | { stop: true };
/** `at` is the time (s) of the audio thread; `cleared`: a `clear` has been done. */
export interface FromSpeaker extends JitterState { rms: number; at: number; cleared: boolean }
