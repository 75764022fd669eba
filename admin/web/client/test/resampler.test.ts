import { expect, test } from "vitest";
import { Resampler } from "../src/resampler";

function tone(hz: number, rate: number, seconds: number): Float32Array {
  return Float32Array.from({ length: rate * seconds }, (_, at) => 0.5 * Math.sin((2 * Math.PI * hz * at) / rate));
}

/** In blocks as the audio thread gives them. */
function resample(input: Float32Array, from: number, to: number, block = 128): Float32Array {
  const resampler = new Resampler(from, to);
  const parts: number[] = [];
  for (let at = 0; at < input.length; at += block) parts.push(...resampler.push(input.subarray(at, at + block)));
  return Float32Array.from(parts);
}

const rms = (samples: Float32Array): number => Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);

test.each([
  [48_000, 16_000],
  [44_100, 16_000],
  [24_000, 48_000],
  [24_000, 44_100],
  [16_000, 16_000],
  [96_000, 16_000],
])("a tone stays the same tone from %i to %i Hz", (from, to) => {
  const output = resample(tone(1_000, from, 0.5), from, to);
  const wanted = tone(1_000, to, 0.5);
  expect(Math.abs(output.length - wanted.length)).toBeLessThan(to * 0.0025);
  const middle = [to * 0.05, output.length - to * 0.05] as const;
  const off = output.slice(...middle).map((sample, at) => sample - wanted[at + middle[0]]!);
  expect(20 * Math.log10(rms(off) / rms(wanted))).toBeLessThan(-60);
});

test("what the lower rate cannot hold is gone and does not come back as something else", () => {
  const output = resample(tone(11_000, 48_000, 0.5), 48_000, 16_000);
  expect(20 * Math.log10(rms(output.subarray(800)) / 0.3536)).toBeLessThan(-60);
});

test("the size of the blocks makes no difference", () => {
  const input = tone(440, 44_100, 0.2);
  const one = resample(input, 44_100, 16_000, 128);
  const other = resample(input, 44_100, 16_000, 1_777);
  expect(other.length).toBe(one.length);
  expect([...other]).toEqual([...one]);
});
