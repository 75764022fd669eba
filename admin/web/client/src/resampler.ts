// A streaming resampler: polyphase windowed sinc (Kaiser), for any two rates. It holds back about 1 ms.

const ZERO_CROSSINGS = 16;
const BETA = 8;
const MOST_PHASES = 512;

export class Resampler {
  private readonly up: number;
  private readonly down: number;
  private readonly phases: number;
  private readonly taps: number;
  private readonly table: Float32Array;
  /** The input that is still needed, `taps - 1` samples before the next output's last one. */
  private held: Float32Array;
  /** Where the next output is: input samples into `held`, and `up`ths of one. */
  private whole = 0;
  private part = 0;

  constructor(readonly from: number, readonly to: number) {
    const divisor = gcd(from, to);
    this.up = to / divisor;
    this.down = from / divisor;
    this.phases = Math.min(this.up, MOST_PHASES);
    // Below the lower of the two Nyquist frequencies, with room for the filter's slope.
    const cutoff = Math.min(1, to / from) * 0.94;
    const half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.taps = 2 * half;
    this.table = new Float32Array(this.phases * this.taps);
    for (let phase = 0; phase < this.phases; phase++) {
      let sum = 0;
      const row = this.table.subarray(phase * this.taps, (phase + 1) * this.taps);
      for (let tap = 0; tap < this.taps; tap++) {
        const at = tap - half + 1 - phase / this.phases;
        row[tap] = cutoff * sinc(cutoff * at) * kaiser(at / half);
        sum += row[tap]!;
      }
      for (let tap = 0; tap < this.taps; tap++) row[tap]! /= sum;
    }
    this.held = new Float32Array(half - 1);
  }

  /** The output that `input` makes possible. */
  push(input: Float32Array): Float32Array {
    if (this.from === this.to) return input.slice();
    const held = new Float32Array(this.held.length + input.length);
    held.set(this.held);
    held.set(input, this.held.length);
    const most = Math.max(0, Math.ceil(((held.length - this.taps + 1 - this.whole) * this.up) / this.down) + 1);
    const output = new Float32Array(most);
    let count = 0;
    while (this.whole + this.taps <= held.length) {
      const row = Math.floor((this.part * this.phases) / this.up) * this.taps;
      let sum = 0;
      for (let tap = 0; tap < this.taps; tap++) sum += held[this.whole + tap]! * this.table[row + tap]!;
      output[count++] = sum;
      this.part += this.down;
      this.whole += Math.floor(this.part / this.up);
      this.part %= this.up;
    }
    const used = Math.min(this.whole, held.length);
    this.held = held.slice(used);
    this.whole -= used;
    return output.subarray(0, count);
  }
}

function gcd(a: number, b: number): number {
  return b ? gcd(b, a % b) : a;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function kaiser(x: number): number {
  return Math.abs(x) >= 1 ? 0 : bessel(BETA * Math.sqrt(1 - x * x)) / bessel(BETA);
}

function bessel(x: number): number {
  let sum = 1;
  for (let k = 1, term = 1; term > sum * 1e-9; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}
