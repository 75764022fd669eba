// A conversation with a Rejoinder server: microphone, loudspeaker, events, and the way back when the connection breaks.
import { Microphone, openMicrophone, Sound, Speaker, type MicrophoneConstraints } from "./audio";
import { Emitter } from "./emitter";
import { ClientError, ofServer } from "./errors";
import type { Command, ServerEvent, SessionStarted } from "./events";
import type { FromSpeaker } from "./messages";
import { Reconnect } from "./reconnect";
import { find, post, sessionPath, type Target, type TargetOptions } from "./target";
import { dialWebSocket, type Dial, type Transport } from "./transport";

export interface ClientOptions extends TargetOptions {
  /** Use a microphone, and how; false: this one only hears, reads and writes. Echo cancellation and so on are on. */
  microphone?: boolean | MicrophoneConstraints;
  /** False: no sound at all, only text (and no microphone). */
  audio?: boolean;
  /** The microphone is only heard between `talk(true)` and `talk(false)`. */
  pushToTalk?: boolean;
  /** Hz of what comes. */
  outputRate?: number;
  /** The URL of client-worklets.js; without it, it is beside this file. */
  worklets?: string;
  /** ms to connect, and to wait for a session. */
  timeoutMs?: number;
  dial?: Dial;
}

export type ConnectionState = "idle" | "connecting" | "connected" | "reconnecting" | "closed";

/** What the client itself tells, beside the server's events (`event` is each of these). */
export interface ClientEvents {
  event: ServerEvent;
  state: ConnectionState;
  /** Something is wrong that does not end it (autoplay, a lost microphone), or the reason why it is over. */
  problem: ClientError;
  /** Root mean square (0 to 1), some twenty times a second. */
  level: { source: "microphone" | "speaker"; rms: number };
  /** What was heard of a reply so far. */
  heard: { reply_id: string; played_ms: number };
  /** A round trip to the server, in ms. */
  rtt: number;
  devices: MediaDeviceInfo[];
  /** Whether the browser plays sound: it does not before a gesture of the user (`autoplay_blocked`), and then it does. */
  sound: boolean;
  /** A fresh room token, in place of one that expires. */
  token: string;
}
export type EventMap = { [Event in ServerEvent as Event["type"]]: Event } & ClientEvents;

export const INPUT_RATE = 16_000;
const OUTPUT_RATE = 24_000;
const DUCKED = 0.25;
const REPORT_MS = 150;
const PING_MS = 4_000;
/** Without a word from the server for so long the connection is taken for dead. */
const SILENCE_MS = 9_000;

export class RejoinderClient extends Emitter<EventMap> {
  state: ConnectionState = "idle";
  session: SessionStarted | null = null;
  /** Where it is connected to; known once `connect` is done. */
  target: Target | null = null;

  private readonly options: ClientOptions;
  private readonly dial: Dial;
  private transport: Transport | null = null;
  private sound: Sound | null = null;
  private microphone: Microphone | null = null;
  private speaker: Speaker | null = null;
  private isMuted = false;
  private isTalking = false;
  private pushes: boolean;
  private lastSeq = 0;
  private openReply = "";
  private playing = "";
  private cleared = false;
  private gap = false;
  private reported = "";
  private reportedAt = 0;
  private heardAt = 0;
  private lastError: ClientError | null = null;
  private configured: { resolve: () => void; reject: (error: ClientError) => void } | null = null;
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private readonly retry = new Reconnect();
  private wake: (() => void) | null = null;
  private readonly stops: (() => void)[] = [];

  constructor(options: ClientOptions = {}) {
    super();
    this.options = options;
    this.dial = options.dial ?? dialWebSocket;
    this.pushes = options.pushToTalk ?? false;
  }

  /**
   * Open microphone, loudspeaker and connection, and wait for the session. Call it while a click or a key is being
   * handled: browsers play no sound before.
   *
   * @throws ClientError with a `kind` and a `fix`; everything is closed again then.
   */
  async connect(): Promise<SessionStarted> {
    if (this.state !== "idle") throw new Error("A client connects once; make a new one.");
    this.setState("connecting");
    try {
      await this.open();
    } catch (error) {
      this.close();
      throw error instanceof ClientError ? error : new ClientError("refused", { cause: error, message: String(error) });
    }
    return this.session!;
  }

  /** The user says this in writing. */
  text(text: string): void {
    this.send({ type: "text", text });
  }

  /** Stop the answer now. */
  interrupt(): void {
    this.send({ type: "interrupt" });
  }

  /** End the session, for everybody in it, and close. */
  end(reason?: string): void {
    this.send(reason ? { type: "end", reason } : { type: "end" });
    this.close();
  }

  send(command: Command): void {
    this.transport?.send(command);
  }

  get muted(): boolean {
    return this.isMuted;
  }

  /** While it is muted the microphone hears nothing; the browser shows it so. */
  mute(muted: boolean): void {
    this.isMuted = muted;
    this.microphone?.mute(muted);
  }

  get pushToTalk(): boolean {
    return this.pushes;
  }

  set pushToTalk(pushes: boolean) {
    this.pushes = pushes;
    this.microphone?.gate(!pushes || this.isTalking);
  }

  /** With push-to-talk: the button is held down, or let go. */
  talk(talking: boolean): void {
    this.isTalking = talking;
    this.microphone?.gate(!this.pushes || talking);
  }

  /** Microphones and loudspeakers; they have names once a microphone was allowed. */
  async devices(): Promise<MediaDeviceInfo[]> {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return all.filter(({ kind, deviceId }) => deviceId && (kind === "audioinput" || kind === "audiooutput"));
  }

  get hasMicrophone(): boolean {
    return this.microphone !== null;
  }

  get microphoneId(): string | undefined {
    return this.microphone?.deviceId;
  }

  /** Go on with another microphone ("" is the system's default one), or with other processing of its sound. */
  async useMicrophone(deviceId: string, processing: Omit<MicrophoneConstraints, "deviceId"> = {}): Promise<void> {
    if (!this.microphone) return;
    const stream = await openMicrophone({ ...this.constraints(), ...processing, deviceId });
    if (this.microphone) this.microphone.use(stream);
    else stopStream(stream);
  }

  /** Play on another loudspeaker, where the browser can choose one. */
  async useSpeaker(deviceId: string): Promise<void> {
    const context = this.sound?.context as (AudioContext & { setSinkId?(id: string): Promise<void> }) | undefined;
    await context?.setSinkId?.(deviceId);
  }

  /** Let go of everything: microphone, sound, connection. Idempotent. */
  close(): void {
    if (this.state === "closed") return;
    this.configured?.reject(this.lastError ?? new ClientError("session_over", { message: "The conversation was closed." }));
    this.configured = null;
    this.timers.forEach(clearTimeout);
    this.timers.clear();
    this.wake?.();
    for (const stop of this.stops.splice(0)) stop();
    this.microphone?.close();
    this.speaker?.close();
    void this.sound?.close();
    this.transport?.close();
    this.microphone = this.speaker = this.sound = this.transport = null;
    this.setState("closed");
    this.forgetAll();
  }

  // --- opening

  private async open(): Promise<void> {
    const hears = this.options.audio !== false;
    const speaks = hears && this.options.microphone !== false;
    if (hears && !globalThis.isSecureContext) throw new ClientError("insecure_origin");
    // Both in the user's gesture, so before anything is awaited.
    if (hears) this.sound = new Sound(this.options.worklets ?? beside("client-worklets.js"));
    const asked = speaks ? openMicrophone(this.constraints()) : null;
    asked?.catch(() => undefined);
    const [stream] = await Promise.all([asked, this.sound?.ready()]);
    if (this.over()) {
      stopStream(stream);
      throw new ClientError("session_over", { message: "The conversation was closed." });
    }
    if (this.sound) this.openSound(this.sound, stream);
    this.target ??= await find(this.options, home());
    if (this.over()) throw new ClientError("session_over", { message: "The conversation was closed." });
    await this.join(false);
    this.after(PING_MS, () => this.ping());
    this.keepToken();
  }

  private openSound(sound: Sound, stream: MediaStream | null): void {
    this.speaker = new Speaker(sound, { rate: this.outputRate }, (state, now) => this.progress(state, now));
    if (stream) {
      this.microphone = new Microphone(sound, INPUT_RATE, (pcm, rms) => this.speak(pcm, rms), () => this.microphoneGone());
      this.microphone.use(stream);
      this.microphone.mute(this.isMuted);
      this.talk(this.isTalking);
    }
    void sound.plays(() => this.emit("sound", true)).then((plays) => {
      if (plays || this.over()) return;
      this.emit("sound", false);
      this.emit("problem", new ClientError("autoplay_blocked"));
    });
    this.listen(navigator.mediaDevices, "devicechange", () => void this.devices().then((all) => this.emit("devices", all)));
    this.listen(globalThis, "online", () => this.wake?.());
    this.listen(globalThis, "pagehide", () => this.close());
  }

  private listen(target: EventTarget | undefined, name: string, listener: () => void): void {
    target?.addEventListener(name, listener);
    this.stops.push(() => target?.removeEventListener(name, listener));
  }

  /** Connect a socket and wait for `session.started` on it. */
  private async join(resuming: boolean): Promise<void> {
    const { timeoutMs = 10_000 } = this.options;
    const target = this.target!;
    const path = resuming && this.session?.session_id ? sessionPath(this.session.session_id) : target.path;
    const url = new URL(path, target.origin.replace(/^http/, "ws"));
    const [name, credential] = (await this.credential(resuming)) ?? [];
    if (name && credential) url.searchParams.set(name, credential);
    this.lastError = null;
    let transport: Transport | null = null;
    // What an old socket still says is nobody's business.
    const mine = (): boolean => transport === null || transport === this.transport;
    const dialled = this.dial(url.href, {
      onEvent: (event) => mine() && this.take(event),
      onAudio: (pcm) => mine() && this.play(pcm),
      onClose: (broken, reason) => mine() && this.lost(broken, reason),
    }, timeoutMs);
    transport = await dialled.catch(async (error: unknown) => {
      throw resuming || target.token ? error : await this.whyRefused(error);
    });
    if (this.over()) return transport.close();
    this.transport = transport;
    const started = new Promise<void>((resolve, reject) => (this.configured = { resolve, reject }));
    const timer = this.after(timeoutMs, () => this.configured?.reject(new ClientError("connection_lost", { message: "The server did not start the conversation in time." })));
    transport.send({
      type: "session.configure",
      input_rate: INPUT_RATE,
      output_rate: this.outputRate,
      output: this.sound ? "audio" : "text",
      ...(resuming
        ? { resume_token: this.session?.resume_token ?? "", last_seq: this.lastSeq, played_ms: this.openReply ? this.heard() : 0 }
        : path === "/ws/audio" && this.options.agent ? { agent: this.options.agent } : {}),
    });
    try {
      await started;
    } catch (error) {
      this.configured = this.transport = null;
      transport.close();
      throw error;
    } finally {
      clearTimeout(timer);
      this.timers.delete(timer);
    }
  }

  /** What to put into the query of the socket's URL, where a browser cannot send headers. */
  private async credential(resuming: boolean): Promise<[string, string] | null> {
    const { ticket } = this.options;
    if (ticket !== undefined) return ["ticket", typeof ticket === "string" ? ticket : await ticket()];
    const { origin, token } = this.target!;
    if (!token) return null;
    try {
      return ["ticket", (await post<{ ticket: string }>(new URL("/v1/tickets", origin), {}, token)).ticket];
    } catch (error) {
      // Who comes back may do so with a token that has expired meanwhile.
      if (resuming && error instanceof ClientError && error.kind === "unauthorized") return ["access_token", token];
      throw error;
    }
  }

  /** A browser does not tell why a WebSocket was refused. */
  private async whyRefused(error: unknown): Promise<unknown> {
    try {
      await post(new URL("/v1/tickets", this.target!.origin), {});
    } catch (problem) {
      if (problem instanceof ClientError && problem.kind === "unauthorized") return problem;
    }
    return error;
  }

  /** A conversation may outlive its token, and is to be reloaded then. */
  private keepToken(): void {
    const { token, origin, session } = this.target!;
    const { iat, exp } = claimsOf(token);
    if (!iat || !exp || !session) return;
    this.after(Math.max(5_000, (exp - iat) * 500), () => {
      void post<{ token: string }>(new URL(`/v1/sessions/${encodeURIComponent(session)}/token`, origin), {}, token)
        .then(({ token: fresh }) => {
          if (this.over()) return;
          this.target!.token = fresh;
          this.emit("token", fresh);
          this.keepToken();
        })
        .catch((error: unknown) => {
          if (error instanceof ClientError && error.kind === "connection_lost") this.after(5_000, () => this.keepToken());
        });
    });
  }

  // --- what the server says

  private take(event: ServerEvent): void {
    this.heardAt = Date.now();
    const resumed = event.type === "session.started" && event.resumed;
    // That one has the newest number, and what was missed follows.
    if (event.seq && !resumed) this.lastSeq = Math.max(this.lastSeq, event.seq);
    switch (event.type) {
      case "session.started":
        this.session = event;
        this.retry.done();
        this.setState("connected");
        this.configured?.resolve();
        this.configured = null;
        break;
      case "reply.started":
        this.openReply = this.playing = event.reply_id;
        this.cleared = this.gap = false;
        this.speaker?.duck(1);
        this.speaker?.begin(event.reply_id);
        break;
      case "reply.ducked":
        this.speaker?.duck(DUCKED);
        break;
      case "reply.resumed":
        this.cleared = this.gap = false;
        this.speaker?.duck(1);
        break;
      case "clear_audio":
        this.cleared = true;
        this.speaker?.clear();
        this.speaker?.duck(1);
        break;
      case "reply.finished":
        if (this.openReply === event.reply_id) this.openReply = "";
        break;
      case "pong":
        this.emit("rtt", performance.now() - event.t);
        break;
      case "error":
        this.lastError = ofServer(event);
        if (this.configured && !event.seq) this.configured.reject(this.lastError);
        break;
      case "session.ended":
        this.emitServer(event);
        this.close();
        return;
    }
    this.emitServer(event);
  }

  private emitServer(event: ServerEvent): void {
    this.emit(event.type, event as never);
    this.emit("event", event);
  }

  private play(pcm: ArrayBuffer): void {
    this.heardAt = Date.now();
    // The rest of what was cleared; a correct server sends none.
    if (this.cleared) return;
    // It went on for others meanwhile, so what is played here is not where the answer is.
    if (this.gap) this.playing = "";
    this.speaker?.feed(pcm);
  }

  private progress(state: FromSpeaker, now: boolean): void {
    this.emit("level", { source: "speaker", rms: state.playing ? state.rms : 0 });
    if (!this.report(now) || state.playing || state.cleared) return;
    // The end is heard a little later.
    this.after((this.sound?.latencyMs() ?? 0) + 5, () => this.report(true));
  }

  /** Tell the server how much was heard, if there is something new. */
  private report(now: boolean): boolean {
    if (!this.playing || this.state !== "connected") return false;
    const at = performance.now();
    if (!now && at - this.reportedAt < REPORT_MS) return true;
    const played_ms = this.heard();
    const key = `${this.playing} ${played_ms}`;
    if (key === this.reported) return true;
    this.reported = key;
    this.reportedAt = at;
    this.send({ type: "playback", reply_id: this.playing, played_ms });
    this.emit("heard", { reply_id: this.playing, played_ms });
    return true;
  }

  private heard(): number {
    return Math.round((this.speaker?.heardMs(this.playing) ?? 0) * 10) / 10;
  }

  // --- what the user says

  private speak(pcm: ArrayBuffer, rms: number): void {
    this.emit("level", { source: "microphone", rms });
    if (this.state === "connected") this.transport?.sendAudio(pcm);
  }

  private microphoneGone(): void {
    this.useMicrophone("").catch((error: unknown) => {
      if (error instanceof ClientError) this.emit("problem", error);
    });
  }

  // --- the connection

  private ping(): void {
    if (this.state === "connected") {
      if (Date.now() - this.heardAt > SILENCE_MS) this.transport?.abandon();
      else this.send({ type: "ping", t: performance.now() });
    }
    this.after(PING_MS, () => this.ping());
  }

  private lost(broken: boolean, reason: string): void {
    this.transport = null;
    const error = this.lastError ?? new ClientError("connection_lost", { code: reason });
    if (this.configured) return this.configured.reject(error);
    if (!broken || !this.session?.resume_token) return this.fail(error);
    this.gap = true;
    this.lastError = null;
    this.speaker?.clear();
    this.setState("reconnecting");
    void this.comeBack();
  }

  private async comeBack(): Promise<void> {
    let why: unknown;
    for (;;) {
      const wait = this.retry.next(performance.now());
      if (wait === null) break;
      await new Promise<void>((done) => {
        this.wake = done;
        this.after(wait, done);
      });
      if (this.over()) return;
      try {
        return await this.join(true);
      } catch (error) {
        why = error;
        const final = error instanceof ClientError && (error.kind === "session_over" || error.kind === "unauthorized");
        if (this.over()) return;
        if (final) break;
      }
    }
    this.fail(why instanceof ClientError ? why : new ClientError("connection_lost"));
  }

  private fail(error: ClientError): void {
    this.emit("problem", error);
    this.close();
  }

  private over(): boolean {
    return this.state === "closed";
  }

  private get outputRate(): number {
    return this.options.outputRate ?? OUTPUT_RATE;
  }

  private constraints(): MicrophoneConstraints {
    const { microphone } = this.options;
    const wanted = typeof microphone === "object" ? microphone : {};
    return { echoCancellation: true, noiseSuppression: true, autoGainControl: true, ...wanted };
  }

  private setState(state: ConnectionState): void {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", state);
  }

  private after(ms: number, work: () => void): ReturnType<typeof setTimeout> {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      work();
    }, ms);
    this.timers.add(timer);
    return timer;
  }
}

/** What a room token says of itself: only to renew it in time and to show what fits; the server decides. */
export function claimsOf(token: string | null | undefined): { role?: string; iat?: number; exp?: number } {
  try {
    return JSON.parse(atob(token!.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/"))) as object;
  } catch {
    return {};
  }
}

/** The page's own server where this file is part of a page, else the one it came from. */
function home(): string {
  return /^https?:/.test(import.meta.url) ? import.meta.url : location.href;
}

function beside(name: string): string {
  // A name that bundlers do not look for.
  return new URL(`./${name}`, home()).href;
}

function stopStream(stream: MediaStream | null | undefined): void {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
