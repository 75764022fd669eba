// The audio thread: the microphone's frames, resampled, and the loudspeaker behind its jitter buffer.
import { JitterBuffer } from "./jitter";
import {
  MICROPHONE, SPEAKER, type FromMicrophone, type FromSpeaker, type MicrophoneOptions, type SpeakerOptions, type ToMicrophone, type ToSpeaker,
} from "./messages";
import { Resampler } from "./resampler";

const TICK_S = 0.05;

class Microphone extends AudioWorkletProcessor {
  private readonly resampler: Resampler;
  private readonly frame: Float32Array;
  private filled = 0;
  private open = true;
  private running = true;

  constructor({ processorOptions }: AudioWorkletNodeOptions) {
    super();
    const { rate, frameMs } = processorOptions as MicrophoneOptions;
    this.resampler = new Resampler(sampleRate, rate);
    this.frame = new Float32Array((rate * frameMs) / 1000);
    this.port.onmessage = ({ data }: MessageEvent<ToMicrophone>) => {
      if ("open" in data) this.open = data.open;
      else this.running = false;
    };
  }

  process([input]: Float32Array[][]): boolean {
    const channel = input?.[0];
    // Without a source there is silence: the server's clock goes on.
    const heard = channel && this.open ? channel : new Float32Array(channel?.length ?? 128);
    for (const sample of this.resampler.push(heard)) {
      this.frame[this.filled++] = sample;
      if (this.filled === this.frame.length) this.send();
    }
    return this.running;
  }

  private send(): void {
    this.filled = 0;
    const pcm = new Int16Array(this.frame.length);
    let power = 0;
    for (let index = 0; index < pcm.length; index++) {
      const sample = Math.max(-1, Math.min(1, this.frame[index]!));
      power += sample * sample;
      pcm[index] = Math.round(sample * 32767);
    }
    const message: FromMicrophone = { pcm: pcm.buffer, rms: Math.sqrt(power / pcm.length) };
    this.port.postMessage(message, [pcm.buffer]);
  }
}

class Speaker extends AudioWorkletProcessor {
  private readonly buffer: JitterBuffer;
  private resampler: Resampler;
  private toldAt = 0;
  private power = 0;
  private count = 0;
  private clearing = false;
  private running = true;

  constructor({ processorOptions }: AudioWorkletNodeOptions) {
    super();
    const { rate, startMs } = processorOptions as SpeakerOptions;
    this.resampler = new Resampler(rate, sampleRate);
    this.buffer = new JitterBuffer({ rate: sampleRate, ...(startMs === undefined ? {} : { startMs }) });
    this.port.onmessage = ({ data }: MessageEvent<ToSpeaker>) => this.take(data);
  }

  process(_: Float32Array[][], [output]: Float32Array[][]): boolean {
    const channel = output?.[0];
    if (!channel) return this.running;
    const changed = this.buffer.read(channel);
    for (const sample of channel) this.power += sample * sample;
    this.count += channel.length;
    const { playing } = this.buffer.state();
    const cleared = this.clearing && (changed || !playing);
    if (changed || cleared || (playing && currentTime - this.toldAt >= TICK_S)) this.tell(cleared);
    return this.running;
  }

  private take(message: ToSpeaker): void {
    if ("pcm" in message) {
      const samples = Float32Array.from(new Int16Array(message.pcm), (sample) => sample / 32768);
      this.buffer.feed(this.resampler.push(samples));
    } else if ("begin" in message) {
      this.resampler = new Resampler(this.resampler.from, sampleRate);
      this.buffer.begin(message.begin);
    } else if ("clear" in message) {
      this.clearing = true;
      this.resampler = new Resampler(this.resampler.from, sampleRate);
      this.buffer.clear();
    } else if ("gain" in message) this.buffer.duck(message.gain);
    else if ("rate" in message) this.resampler = new Resampler(message.rate, sampleRate);
    else this.running = false;
  }

  private tell(cleared: boolean): void {
    const rms = Math.sqrt(this.power / Math.max(1, this.count));
    const message: FromSpeaker = { ...this.buffer.state(), rms, at: currentTime, cleared };
    if (cleared) this.clearing = false;
    this.power = this.count = 0;
    this.toldAt = currentTime;
    this.port.postMessage(message);
  }
}

registerProcessor(MICROPHONE, Microphone);
registerProcessor(SPEAKER, Speaker);
