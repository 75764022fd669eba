// The sound of a page: one AudioContext for microphone and loudspeaker, so that both are on one clock.
import { ClientError, ofMicrophone } from "./errors";
import { MICROPHONE, SPEAKER, type FromMicrophone, type FromSpeaker, type MicrophoneOptions, type SpeakerOptions, type ToMicrophone, type ToSpeaker } from "./messages";
import { Playhead } from "./playhead";

export interface MicrophoneConstraints {
  deviceId?: string;
  echoCancellation?: boolean;
  noiseSuppression?: boolean;
  autoGainControl?: boolean;
}

const GESTURES = ["pointerdown", "keydown", "touchend"] as const;
/** A browser that may play does so well within this. */
const UNLOCK_MS = 400;

export class Sound {
  readonly context: AudioContext;
  private readonly loaded: Promise<void>;
  private readonly unlock = (): void => void this.context.resume();

  /** `worklets`: the URL of client-worklets.js. Make it where a gesture of the user is being handled. */
  constructor(worklets: string) {
    this.context = new AudioContext({ latencyHint: "interactive" });
    void this.context.resume();
    this.loaded = this.context.audioWorklet.addModule(worklets);
    this.loaded.catch(() => undefined);
  }

  async ready(): Promise<void> {
    try {
      await this.loaded;
    } catch (cause) {
      throw new ClientError("refused", { code: "no_worklets", message: "The audio part of the client could not be loaded.", fix: "Give its URL as `worklets`.", cause });
    }
  }

  /** Whether it plays; if it may not yet, the next gesture starts it, and `onStart` is called then. */
  async plays(onStart: () => void): Promise<boolean> {
    if (this.context.state === "running") return true;
    for (const gesture of GESTURES) document.addEventListener(gesture, this.unlock, true);
    this.context.addEventListener("statechange", () => {
      if (this.context.state !== "running") return;
      this.forget();
      onStart();
    });
    await Promise.race([this.context.resume(), new Promise((done) => setTimeout(done, UNLOCK_MS))]);
    return (this.context.state as AudioContextState) === "running";
  }

  /** ms from the audio thread to the ear, as far as the browser knows. */
  latencyMs(): number {
    return 1000 * ((this.context.baseLatency || 0) + (this.context.outputLatency || 0));
  }

  async close(): Promise<void> {
    this.forget();
    if (this.context.state !== "closed") await this.context.close().catch(() => undefined);
  }

  private forget(): void {
    for (const gesture of GESTURES) document.removeEventListener(gesture, this.unlock, true);
  }
}

/** Ask for a microphone; fails with the `ClientError` that says what to do. */
export async function openMicrophone(wanted: MicrophoneConstraints): Promise<MediaStream> {
  if (!navigator.mediaDevices?.getUserMedia) throw new ClientError("insecure_origin");
  const { deviceId, ...processing } = wanted;
  const audio = { channelCount: 1, ...processing, ...(deviceId ? { deviceId: { exact: deviceId } } : {}) };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (cause) {
    throw ofMicrophone(cause);
  }
}

export class Microphone {
  private readonly node: AudioWorkletNode;
  private source: MediaStreamAudioSourceNode | null = null;
  private stream: MediaStream | null = null;
  private muted = false;

  /** `onFrame` gets PCM16 at `rate` Hz and its level, `onEnded` is called when the device is gone. */
  constructor(
    private readonly sound: Sound,
    rate: number,
    onFrame: (pcm: ArrayBuffer, rms: number) => void,
    private readonly onEnded: () => void,
  ) {
    const processorOptions: MicrophoneOptions = { rate, frameMs: 20 };
    this.node = new AudioWorkletNode(sound.context, MICROPHONE, { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit", processorOptions });
    this.node.port.onmessage = ({ data }: MessageEvent<FromMicrophone>) => onFrame(data.pcm, data.rms);
  }

  /** Take the sound of `stream` from now on; the one before is let go. */
  use(stream: MediaStream): void {
    this.release();
    this.stream = stream;
    this.source = this.sound.context.createMediaStreamSource(stream);
    this.source.connect(this.node);
    for (const track of stream.getAudioTracks()) {
      track.enabled = !this.muted;
      track.onended = this.onEnded;
    }
  }

  get deviceId(): string | undefined {
    return this.stream?.getAudioTracks()[0]?.getSettings().deviceId;
  }

  mute(muted: boolean): void {
    this.muted = muted;
    for (const track of this.stream?.getAudioTracks() ?? []) track.enabled = !muted;
  }

  /** Let through what it hears, or (push-to-talk) silence. */
  gate(open: boolean): void {
    this.tell({ open });
  }

  close(): void {
    this.release();
    this.tell({ stop: true });
    this.node.port.onmessage = null;
    this.node.disconnect();
  }

  private tell(message: ToMicrophone): void {
    this.node.port.postMessage(message);
  }

  private release(): void {
    this.source?.disconnect();
    for (const track of this.stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    this.source = this.stream = null;
  }
}

export class Speaker {
  private readonly node: AudioWorkletNode;
  private readonly playhead = new Playhead();
  private readonly rate: number;
  private reply = "";
  private received = 0;

  /** Plays PCM16 of `rate` Hz. `onProgress` is called as it plays; `now`: something began, ended or was cut. */
  constructor(private readonly sound: Sound, { rate, ...options }: SpeakerOptions, private readonly onProgress: (state: FromSpeaker, now: boolean) => void) {
    this.rate = rate;
    const processorOptions: SpeakerOptions = { rate, ...options };
    this.node = new AudioWorkletNode(sound.context, SPEAKER, { numberOfInputs: 0, outputChannelCount: [1], processorOptions });
    this.node.port.onmessage = ({ data }: MessageEvent<FromSpeaker>) => this.take(data);
    this.node.connect(sound.context.destination);
  }

  /** What is fed from now on belongs to this reply. */
  begin(reply: string): void {
    this.reply = reply;
    this.received = 0;
    this.tell({ begin: reply });
  }

  feed(pcm: ArrayBuffer): void {
    this.received += (pcm.byteLength * 500) / this.rate;
    this.tell({ pcm }, [pcm]);
  }

  clear(): void {
    this.tell({ clear: true });
  }

  duck(gain: number): void {
    this.tell({ gain });
  }

  /** ms of `reply` that were heard until now. */
  heardMs(reply: string): number {
    if (this.playhead.reply !== reply) return 0;
    this.playhead.latencyMs = this.sound.latencyMs();
    return this.playhead.heard(this.sound.context.currentTime * 1000);
  }

  close(): void {
    this.tell({ stop: true });
    this.node.port.onmessage = null;
    this.node.disconnect();
  }

  private tell(message: ToSpeaker, moved: Transferable[] = []): void {
    this.node.port.postMessage(message, moved);
  }

  private take(state: FromSpeaker): void {
    const { reply, playing, cleared } = state;
    let ms = state.playedMs;
    if (cleared) {
      this.playhead.settle(reply, ms);
      if (reply === this.reply) this.received = Math.min(this.received, ms);
    } else {
      // The resampler holds back the last half millisecond.
      if (!playing && reply === this.reply && Math.abs(this.received - ms) < 3) ms = this.received;
      this.playhead.advance(reply, ms, state.at * 1000);
    }
    this.onProgress(state, cleared || !playing || ms < 60);
  }
}
