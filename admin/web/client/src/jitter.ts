// The jitter buffer: what came of a reply waits here until its time; runs in the audio thread, on nothing but samples.

export interface JitterOptions {
  /** Hz; what is put in and taken out. */
  rate: number;
  /** ms that are gathered before playing begins: at first, at least and at most. It grows where it was not enough. */
  startMs?: number;
  leastMs?: number;
  mostMs?: number;
  /** ms that a fade to silence takes. */
  fadeMs?: number;
}

export interface JitterState {
  /** The reply that is (or was last) being played, and ms of its audio that were taken out. */
  reply: string;
  playedMs: number;
  bufferedMs: number;
  targetMs: number;
  /** How often it ran dry in the middle of a reply. */
  underruns: number;
  playing: boolean;
}

interface Chunk { reply: string; samples: Float32Array }

const CALM_S = 10;
const RAMP_MS = 40;

export class JitterBuffer {
  private readonly rate: number;
  private readonly least: number;
  private readonly most: number;
  private readonly fadeLength: number;
  private queue: Chunk[] = [];
  /** Samples taken of the first chunk. */
  private taken = 0;
  private buffered = 0;
  private target: number;
  private reply = "";
  private feeding = "";
  private played = 0;
  private underruns = 0;
  private playing = false;
  /** It ran dry: if more comes of the same reply, that was an underrun. */
  private dry = false;
  /** Samples since the first one that waits came. */
  private waited = 0;
  private calm = 0;
  private gain = 1;
  private gainGoal = 1;
  private gainStep = 0;
  /** Samples of the fade that are left; the rest of the queue is void, and what came since then waits. */
  private fading = 0;
  private next: Chunk[] = [];

  constructor({ rate, startMs = 60, leastMs = 40, mostMs = 200, fadeMs = 8 }: JitterOptions) {
    this.rate = rate;
    this.least = this.samples(leastMs);
    this.most = this.samples(mostMs);
    this.fadeLength = this.samples(fadeMs);
    this.target = this.samples(startMs);
  }

  /** What is fed from now on belongs to `reply`. What waits of the one before is played first. */
  begin(reply: string): void {
    this.feeding = reply;
  }

  feed(samples: Float32Array): void {
    if (!samples.length) return;
    const chunk = { reply: this.feeding, samples };
    if (this.fading) {
      this.next.push(chunk);
      return;
    }
    if (this.dry) {
      this.dry = false;
      if (this.feeding === this.reply) {
        this.underruns++;
        this.calm = 0;
        this.target = Math.min(this.most, this.target * 1.5);
      }
    }
    if (!this.playing && !this.buffered) this.waited = 0;
    this.queue.push(chunk);
    this.buffered += samples.length;
  }

  /** Drop what waits, after a short fade. True if there was something to be heard. */
  clear(): boolean {
    const heard = this.playing && this.buffered > 0;
    this.dry = false;
    this.next = [];
    if (heard) this.fading ||= Math.min(this.fadeLength, this.buffered);
    else this.drop();
    return heard;
  }

  /** Play at `gain` from now on, without a jump. */
  duck(gain: number): void {
    this.gainGoal = gain;
    this.gainStep = (gain - this.gain) / this.samples(RAMP_MS);
  }

  /** Fill `output`; silence where there is nothing. True when something has begun or ended that should be told at once. */
  read(output: Float32Array): boolean {
    output.fill(0);
    if (!this.playing) {
      if (!this.buffered) return false;
      this.waited += output.length;
      // What is short as a whole is not kept waiting.
      if (this.buffered < this.target && this.waited < this.target) return false;
      this.playing = true;
      this.take(output);
      return true;
    }
    return this.take(output);
  }

  state(): JitterState {
    return {
      reply: this.reply,
      playedMs: this.ms(this.played),
      bufferedMs: this.ms(this.buffered),
      targetMs: this.ms(this.target),
      underruns: this.underruns,
      playing: this.playing,
    };
  }

  private take(output: Float32Array): boolean {
    let told = false;
    let at = 0;
    while (at < output.length && this.queue.length) {
      const chunk = this.queue[0]!;
      if (chunk.reply !== this.reply) {
        this.reply = chunk.reply;
        this.played = 0;
        told = true;
      }
      let count = Math.min(output.length - at, chunk.samples.length - this.taken);
      if (this.fading) count = Math.min(count, this.fading);
      for (let index = 0; index < count; index++) {
        if (this.gain !== this.gainGoal) this.step();
        const fade = this.fading ? (this.fading - index) / (this.fadeLength + 1) : 1;
        output[at + index] = chunk.samples[this.taken + index]! * this.gain * fade;
      }
      at += count;
      this.taken += count;
      this.played += count;
      this.buffered -= count;
      if (this.taken === chunk.samples.length) {
        this.queue.shift();
        this.taken = 0;
      }
      if (this.fading && !(this.fading -= count)) {
        this.drop();
        return true;
      }
    }
    this.settle(at);
    if (at < output.length) {
      this.playing = false;
      this.dry = true;
      return true;
    }
    return told;
  }

  /** After long enough without an underrun a shorter buffer is tried. */
  private settle(count: number): void {
    this.calm += count;
    if (this.calm < CALM_S * this.rate) return;
    this.calm = 0;
    this.target = Math.max(this.least, this.target - this.samples(10));
  }

  private step(): void {
    this.gain += this.gainStep;
    if ((this.gainStep >= 0) === (this.gain >= this.gainGoal)) this.gain = this.gainGoal;
  }

  private drop(): void {
    this.queue = this.next;
    this.next = [];
    this.buffered = this.queue.reduce((sum, chunk) => sum + chunk.samples.length, 0);
    this.taken = this.fading = this.waited = 0;
    this.playing = this.dry = false;
  }

  private samples(ms: number): number {
    return Math.round((ms * this.rate) / 1000);
  }

  private ms(samples: number): number {
    return (samples * 1000) / this.rate;
  }
}
