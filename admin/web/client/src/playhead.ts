// How much of a reply was heard: what the audio thread has taken, less what still is on its way to the loudspeaker.

interface Point { at: number; ms: number }

const KEPT = 64;

export class Playhead {
  reply = "";
  private points: Point[] = [];

  /** `latencyMs`: from the audio thread to the ear, 0 where that is not known. */
  constructor(public latencyMs = 0) {}

  /** At `at` (ms on any clock) the audio thread had taken `ms` of `reply`. */
  advance(reply: string, ms: number, at: number): void {
    if (reply !== this.reply) {
      this.reply = reply;
      this.points = [];
    }
    const last = this.points.at(-1);
    if (last && (ms < last.ms || at < last.at)) return;
    this.points.push({ at, ms });
    if (this.points.length > KEPT) this.points.shift();
  }

  /** It was cut (or is over) at `ms`: no more of it will be heard. */
  settle(reply: string, ms: number): void {
    this.reply = reply;
    this.points = [{ at: -Infinity, ms }];
  }

  /** ms of `reply` that were heard until `now`. */
  heard(now: number): number {
    const at = now - this.latencyMs;
    const next = this.points.findIndex((point) => point.at > at);
    const before = this.points.at(next < 0 ? -1 : next - 1);
    if (next === 0 || !before) return 0;
    const after = next < 0 ? undefined : this.points[next];
    if (!after || !Number.isFinite(before.at)) return before.ms;
    return before.ms + ((after.ms - before.ms) * (at - before.at)) / (after.at - before.at);
  }
}
