import { expect, test } from "vitest";
import { JitterBuffer } from "../src/jitter";

const RATE = 1_000; // One sample is one millisecond.
const QUANTUM = 10;

function ones(count: number, value = 1): Float32Array {
  return new Float32Array(count).fill(value);
}

class Desk {
  readonly buffer = new JitterBuffer({ rate: RATE, startMs: 60, leastMs: 40, mostMs: 200, fadeMs: 8 });
  readonly heard: number[] = [];

  run(ms: number): this {
    for (let at = 0; at < ms; at += QUANTUM) {
      const output = new Float32Array(QUANTUM);
      this.buffer.read(output);
      this.heard.push(...output);
    }
    return this;
  }
}

test("playing begins when enough is there", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  desk.buffer.feed(ones(40));
  desk.run(20);
  expect(desk.heard.every((sample) => sample === 0)).toBe(true);
  desk.buffer.feed(ones(40));
  desk.run(10);
  expect(desk.heard.slice(-10)).toEqual(Array(10).fill(1));
});

test("a short answer is not kept waiting for more", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  desk.buffer.feed(ones(20));
  desk.run(200);
  expect(desk.heard.filter((sample) => sample === 1)).toHaveLength(20);
  expect(desk.heard.indexOf(1)).toBeLessThanOrEqual(60);
  expect(desk.buffer.state()).toMatchObject({ reply: "r1", playedMs: 20, playing: false, underruns: 0 });
});

test("the playhead counts what was played of each reply, and nothing that only waits", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  desk.buffer.feed(ones(100));
  desk.buffer.begin("r2");
  desk.buffer.feed(ones(100, 0.5));
  desk.run(50);
  expect(desk.buffer.state()).toMatchObject({ reply: "r1", playedMs: 50, bufferedMs: 150 });
  desk.run(80);
  expect(desk.buffer.state()).toMatchObject({ reply: "r2", playedMs: 30, bufferedMs: 70 });
  expect(desk.heard.slice(95, 105)).toEqual([1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5]);
});

test("clear fades within 8 ms, drops the rest and tells the exact place", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  desk.buffer.feed(ones(1_000));
  desk.run(100);
  expect(desk.buffer.clear()).toBe(true);
  const output = ones(QUANTUM);
  expect(desk.buffer.read(output)).toBe(true);
  expect([...output.slice(8)]).toEqual([0, 0]);
  for (let at = 1; at < 8; at++) {
    expect(output[at]!).toBeLessThan(output[at - 1]!);
    expect(output[at - 1]! - output[at]!).toBeLessThan(0.2);
  }
  expect(desk.buffer.state()).toMatchObject({ reply: "r1", playedMs: 108, bufferedMs: 0, playing: false });
  desk.run(100);
  expect(desk.heard.slice(-100).every((sample) => sample === 0)).toBe(true);
});

test("what comes after a clear is played, whole, and counted on for the same reply", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  desk.buffer.feed(ones(500));
  desk.run(100);
  desk.buffer.clear();
  desk.buffer.feed(ones(80, 0.25));
  desk.run(200);
  expect(desk.heard.filter((sample) => sample === 0.25)).toHaveLength(80);
  expect(desk.buffer.state()).toMatchObject({ reply: "r1", playedMs: 188 });
});

test("clear before anything was heard leaves silence and a playhead at nothing", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  desk.buffer.feed(ones(30));
  expect(desk.buffer.clear()).toBe(false);
  desk.run(200);
  expect(desk.heard.every((sample) => sample === 0)).toBe(true);
  expect(desk.buffer.state()).toMatchObject({ playedMs: 0, bufferedMs: 0 });
});

test("an underrun lengthens the buffer within its bounds, and calm shortens it again", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  for (let round = 0; round < 10; round++) {
    desk.buffer.feed(ones(100));
    desk.run(400);
  }
  expect(desk.buffer.state()).toMatchObject({ underruns: 9, targetMs: 200, playedMs: 1_000 });
  for (let round = 0; round < 4_000; round++) {
    desk.buffer.feed(ones(100));
    desk.run(100);
  }
  expect(desk.buffer.state().targetMs).toBe(40);
});

test("the end of an answer is no underrun", () => {
  const desk = new Desk();
  for (const reply of ["r1", "r2", "r3"]) {
    desk.buffer.begin(reply);
    desk.buffer.feed(ones(100));
    desk.run(400);
  }
  expect(desk.buffer.state()).toMatchObject({ underruns: 0, targetMs: 60 });
});

test("ducking and its end are ramps", () => {
  const desk = new Desk();
  desk.buffer.begin("r1");
  desk.buffer.feed(ones(1_000));
  desk.run(100);
  desk.buffer.duck(0.25);
  desk.run(100);
  desk.buffer.duck(1);
  desk.run(100);
  const steps = desk.heard.slice(1).map((sample, at) => Math.abs(sample - desk.heard[at]!));
  expect(Math.max(...steps)).toBeLessThan(0.03);
  expect(desk.heard[199]).toBeCloseTo(0.25);
  expect(desk.heard[299]).toBe(1);
});
