// Plays the stereo sound of a call as it comes, a little behind, and says how loud both sides are.

const BEHIND_S = 0.25;
const MOST_S = 1.5;
const TELL_EACH = 800;

class Listen extends AudioWorkletProcessor {
  #blocks: Int16Array[] = [];
  /** Frames that wait. */
  #waiting = 0;
  #offset = 0;
  #plays = false;
  #centre = false;
  #user = 0;
  #agent = 0;
  #count = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<ArrayBuffer | { centre: boolean }>) => {
      if (!(data instanceof ArrayBuffer)) { this.#centre = data.centre; return; }
      const block = new Int16Array(data);
      this.#blocks.push(block);
      this.#waiting += block.length / 2;
      // After a hold-up of the network: what is old is left out, so that one hears what happens.
      while (this.#waiting > MOST_S * sampleRate && this.#blocks.length > 1) {
        this.#waiting -= (this.#blocks.shift()!.length - this.#offset) / 2;
        this.#offset = 0;
      }
    };
  }

  process(_: Float32Array[][], outputs: Float32Array[][]): boolean {
    const [left, right] = outputs[0]!;
    if (!left || !right) return true;
    if (!this.#plays) this.#plays = this.#waiting >= BEHIND_S * sampleRate;
    for (let i = 0; i < left.length; i += 1) {
      const block = this.#plays ? this.#blocks[0] : undefined;
      let user = 0, agent = 0;
      if (block) {
        user = block[this.#offset]! / 32768;
        agent = block[this.#offset + 1]! / 32768;
        this.#offset += 2;
        this.#waiting -= 1;
        if (this.#offset >= block.length) { this.#blocks.shift(); this.#offset = 0; }
      } else this.#plays = false;
      left[i] = this.#centre ? (user + agent) * 0.7 : user;
      right[i] = this.#centre ? (user + agent) * 0.7 : agent;
      this.#user = Math.max(this.#user, Math.abs(user));
      this.#agent = Math.max(this.#agent, Math.abs(agent));
    }
    this.#count += left.length;
    if (this.#count >= TELL_EACH) {
      this.port.postMessage({ user: this.#user, agent: this.#agent });
      this.#count = this.#user = this.#agent = 0;
    }
    return true;
  }
}

registerProcessor("listen", Listen);
