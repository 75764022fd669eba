// When to try again: at once, then after growing pauses with jitter, as long as the server keeps our place.

export interface ReconnectOptions {
  /** ms that are tried in all. */
  giveUpMs?: number;
  /** The first pause (ms) after the attempt that is made at once, and the longest. */
  firstMs?: number;
  longestMs?: number;
  random?: () => number;
}

export class Reconnect {
  private readonly giveUp: number;
  private readonly first: number;
  private readonly longest: number;
  private readonly random: () => number;
  private lostAt: number | null = null;
  private pause = 0;

  constructor({ giveUpMs = 15_000, firstMs = 150, longestMs = 2_000, random = Math.random }: ReconnectOptions = {}) {
    this.giveUp = giveUpMs;
    this.first = firstMs;
    this.longest = longestMs;
    this.random = random;
  }

  /** ms to wait before the next attempt, null: it has been tried for long enough. `now` in ms. */
  next(now: number): number | null {
    if (this.lostAt === null) {
      this.lostAt = now;
      this.pause = 0;
      return 0;
    }
    this.pause = Math.min(this.longest, this.pause ? this.pause * 2 : this.first);
    const wait = this.pause * (0.75 + this.random() / 2);
    return now + wait - this.lostAt > this.giveUp ? null : wait;
  }

  /** It worked. */
  done(): void {
    this.lostAt = null;
  }
}
