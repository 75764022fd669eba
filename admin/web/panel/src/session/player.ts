// The one playhead of a session's page: it plays the recording, or goes along the timeline without one.
import { store } from "../store";

export type Solo = "both" | "user" | "agent";
export const RATES = [0.5, 0.75, 1, 1.25, 1.5, 2] as const;

export class Player {
  /** ms since the beginning. */
  readonly at = store(0);
  readonly playing = store(false);
  readonly rate = store(1);
  readonly solo = store<Solo>("both");
  readonly failed = store<string | null>(null);
  #audio: HTMLAudioElement | null = null;
  #context: AudioContext | null = null;
  #gains: { user: GainNode; agent: GainNode } | null = null;
  #frame = 0;
  #last = 0;
  #duration = 0;

  /** `url` is of the recording; null: there is none, and only the playhead moves. */
  load(url: string | null, duration: number): void {
    this.#duration = duration;
    if ((this.#audio?.getAttribute("src") ?? null) === url) return;
    this.#release();
    if (url === null) return;
    const audio = new Audio();
    audio.preload = "metadata";
    audio.src = url;
    audio.preservesPitch = true;
    audio.playbackRate = this.rate.get();
    audio.onended = () => this.pause();
    audio.onerror = () => { this.pause(); this.failed.set(audio.error?.message || "audio"); };
    this.#audio = audio;
  }

  get duration(): number { return this.#duration; }

  async play(): Promise<void> {
    if (this.at.get() >= this.#duration - 20) this.seek(0);
    this.playing.set(true);
    this.#last = performance.now();
    if (this.#audio) {
      this.#wire(this.#audio);
      void this.#context?.resume();
      try {
        await this.#audio.play();
      } catch (error) {
        this.pause();
        this.failed.set(error instanceof Error ? error.message : String(error));
        return;
      }
    }
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(this.#tick);
  }

  pause(): void {
    this.playing.set(false);
    this.#audio?.pause();
    cancelAnimationFrame(this.#frame);
  }

  toggle(): void { if (this.playing.get()) this.pause(); else void this.play(); }

  seek(to: number): void {
    const at = Math.min(this.#duration, Math.max(0, to));
    if (this.#audio) this.#audio.currentTime = at / 1000;
    this.at.set(at);
  }

  setRate(rate: number): void {
    this.rate.set(rate);
    if (this.#audio) this.#audio.playbackRate = rate;
  }

  setSolo(solo: Solo): void {
    this.solo.set(solo);
    if (!this.#gains) return;
    this.#gains.user.gain.value = solo === "agent" ? 0 : 1;
    this.#gains.agent.gain.value = solo === "user" ? 0 : 1;
  }

  close(): void {
    this.pause();
    this.#release();
  }

  #tick = (now: number): void => {
    if (!this.playing.get()) return;
    if (this.#audio) this.at.set(this.#audio.currentTime * 1000);
    else {
      const at = this.at.get() + (now - this.#last) * this.rate.get();
      this.#last = now;
      if (at >= this.#duration) { this.at.set(this.#duration); this.pause(); return; }
      this.at.set(at);
    }
    this.#frame = requestAnimationFrame(this.#tick);
  };

  /** Left is the user, right the agent: both are heard in the middle, or one alone. Needs a click or key before it. */
  #wire(audio: HTMLAudioElement): void {
    if (this.#context) return;
    const context = this.#context = new AudioContext();
    const splitter = context.createChannelSplitter(2), user = context.createGain(), agent = context.createGain();
    context.createMediaElementSource(audio).connect(splitter);
    splitter.connect(user, 0);
    splitter.connect(agent, 1);
    user.connect(context.destination);
    agent.connect(context.destination);
    this.#gains = { user, agent };
    this.setSolo(this.solo.get());
  }

  #release(): void {
    if (this.#audio) { this.#audio.onerror = null; this.#audio.removeAttribute("src"); this.#audio.load(); }
    void this.#context?.close();
    this.#audio = this.#context = this.#gains = null;
    this.failed.set(null);
  }
}
