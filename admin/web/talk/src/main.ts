// The page to talk on: one button, the conversation in writing, and what to do when something is in the way.
import workletsUrl from "../../client/src/worklets.ts?worker&url";
import { claimsOf, RejoinderClient, type ConnectionState } from "../../client/src/client";
import { ClientError, type ErrorKind } from "../../client/src/errors";
import type { ServerEvent } from "../../client/src/events";
import { makeRoom } from "../../client/src/target";
import { Captions, element } from "./captions";
import { history } from "./history";
import { loudness, SettingsDialog } from "./settings";
import { TEXT, WITHOUT_MICROPHONE } from "./strings";

type Doing = keyof typeof TEXT.doing;

const $ = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;
const [log, notice, orb, orbLabel, doing, connection] = ["log", "notice", "orb", "orb-label", "doing", "connection"].map((id) => $(id)) as [HTMLElement, HTMLElement, HTMLButtonElement, HTMLElement, HTMLElement, HTMLElement];
const [mute, leave, stop, sendButton] = ["mute", "leave", "stop", "send"].map((id) => $(id)) as [HTMLButtonElement, HTMLButtonElement, HTMLButtonElement, HTMLButtonElement];
const text = $<HTMLTextAreaElement>("text");
const link = new URLSearchParams(location.hash.slice(1));
const wanted = new URLSearchParams(location.search).get("agent") ?? undefined;
const WAITING_MS = 2_000;
/** After these there is no point in asking again. */
const FINAL: Record<string, [ErrorKind, { code: string; message?: string; fix?: string }]> = {
  bad_request: ["unauthorized", { code: "bad_request", message: TEXT.damaged }],
  unauthorized: ["unauthorized", { code: "unauthorized" }],
  forbidden: ["unauthorized", { code: "forbidden", message: TEXT.another }],
  unknown_session: ["session_over", { code: "unknown_session", message: TEXT.unknown, fix: TEXT.askAgain }],
  room_expired: ["session_over", { code: "room_expired", message: TEXT.expired, fix: TEXT.askAgain }],
  session_over: ["session_over", { code: "session_over", fix: TEXT.askAgain }],
};

class Talk {
  private readonly captions = new Captions(log);
  private readonly settings = new SettingsDialog($("open-settings"), () => this.modeChanged());
  private session = link.get("session");
  private token = link.get("token");
  /** The room was made by this page, so its end is ours to decide. */
  private made = false;
  private voice: RejoinderClient | null = null;
  private writing: RejoinderClient | null = null;
  private lastSeq = 0;
  private replying = "";
  private operator = false;
  private over = false;
  private rtt = 0;
  private making: Promise<void> | null = null;
  /** What the new connection tells while that is fetched which was before. */
  private kept: ServerEvent[] | null = null;

  constructor() {
    orb.addEventListener("click", () => void this.pressed());
    orb.addEventListener("pointerdown", (event) => this.held(event, true));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"] as const) orb.addEventListener(name, (event) => this.held(event, false));
    mute.addEventListener("click", () => this.setMute(!this.voice?.muted));
    leave.addEventListener("click", () => this.hangUp());
    stop.addEventListener("click", () => this.interrupt());
    text.addEventListener("input", () => this.refresh());
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void this.write();
    });
    $("form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.write();
    });
    document.addEventListener("keydown", (event) => this.key(event, true));
    document.addEventListener("keyup", (event) => this.key(event, false));
    window.addEventListener("blur", () => this.talking(false));
    window.addEventListener("hashchange", () => location.reload());
    if (wanted) this.named(wanted);
    this.refresh();
    if (this.session) void this.arrive();
  }

  private get listens(): boolean {
    return claimsOf(this.token).role === "listener";
  }

  private get client(): RejoinderClient | null {
    return this.voice ?? this.writing;
  }

  // --- coming and going

  /** With a link: what was said so far; and if it has begun, be there. */
  private async arrive(): Promise<void> {
    for (;;) {
      const { events, code } = await history(this.session!, this.token, this.lastSeq);
      for (const event of events) this.take(event);
      if (this.over) return;
      if (code === "session_not_started") {
        if (!this.listens) return;
        this.connected("connecting", TEXT.waiting);
      } else if (FINAL[code]) return this.finish(new ClientError(...FINAL[code]));
      else if (code) this.connected("reconnecting");
      else if (!this.voice) {
        // Not in the way of somebody who begins to talk at this moment.
        if (await this.openWriting()) return;
      } else return;
      await new Promise((done) => setTimeout(done, WAITING_MS));
    }
  }

  private async openWriting(): Promise<boolean> {
    if (this.writing || this.over) return true;
    const client = this.make({ audio: false });
    this.writing = client;
    this.kept = [];
    try {
      await client.connect();
    } catch (error) {
      this.kept = null;
      if (this.writing === client) this.writing = null;
      const known = error as ClientError;
      if (known.kind === "session_over" || known.kind === "unauthorized") this.finish(known);
      else if (known.code !== "session_not_started") this.problem(known, () => void this.openWriting());
      this.refresh();
      return this.over;
    }
    await this.catchUp(client);
    this.refresh();
    return true;
  }

  /** What happened between the pages of history and the connection. */
  private async catchUp(client: RejoinderClient): Promise<void> {
    const joined = client.session?.seq ?? 0;
    const missed = joined > this.lastSeq && !this.made ? (await history(this.session!, this.token, this.lastSeq)).events : [];
    const kept = this.kept ?? [];
    this.kept = null;
    for (const event of [...missed, ...kept]) this.take(event);
  }

  /** The one big button. */
  private async pressed(): Promise<void> {
    if (this.over) {
      if (!this.made) return;
      this.reset();
    }
    if (!this.voice) await this.start(true);
  }

  private async start(microphone: boolean): Promise<void> {
    this.tell(null);
    const client = this.make({ microphone: microphone && !this.listens ? this.settings.constraints : false, pushToTalk: this.settings.push });
    this.voice = client;
    this.refresh();
    try {
      await client.connect();
    } catch (error) {
      if (this.voice === client) this.voice = null;
      this.refresh();
      const known = error as ClientError;
      if (known.kind === "no_device" && this.settings.forgetMicrophone()) return void this.start(microphone);
      if (known.kind === "session_over") return this.finish(known);
      return this.problem(known, () => void this.start(microphone));
    }
    this.adopt(client);
    this.writing?.close();
    this.writing = null;
    this.settings.use(client);
    this.refresh();
  }

  private make(how: ConstructorParameters<typeof RejoinderClient>[0]): RejoinderClient {
    const where = this.session ? { session: this.session, ...(this.token ? { token: this.token } : {}) } : wanted === undefined ? {} : { agent: wanted };
    const client = new RejoinderClient({ ...how, ...where, url: location.origin, worklets: workletsUrl });
    const current = (): boolean => client === this.client;
    client.on("event", (event) => (this.kept && client === this.writing ? this.kept.push(event) : this.take(event)));
    client.on("state", (state) => {
      if (state === "closed") this.closed(client);
      else if (current()) this.connected(state);
      this.refresh();
    });
    client.on("problem", (problem) => this.problem(problem, null));
    client.on("sound", (plays) => plays && notice.dataset.kind === "autoplay_blocked" && this.tell(null));
    client.on("rtt", (ms) => {
      this.rtt = Math.round(ms);
      if (current()) this.connected(client.state);
    });
    client.on("level", ({ source, rms }) => orb.style.setProperty(source === "microphone" ? "--mic" : "--voice", loudness(rms).toFixed(3)));
    client.on("token", (token) => this.keepToken(token));
    return client;
  }

  /** A room was made for us: from now on this page is its link, also when it is loaded again. */
  private adopt(client: RejoinderClient): void {
    const target = client.target;
    if (!target?.made || !target.session) return;
    this.made = true;
    this.session = target.session;
    link.set("session", target.session);
    this.keepToken(target.token ?? "");
  }

  private keepToken(token: string): void {
    this.token = token || null;
    if (token) link.set("token", token);
    window.history.replaceState(null, "", `#${link}`);
  }

  private closed(client: RejoinderClient): void {
    if (client === this.voice) {
      this.voice = null;
      this.settings.use(null);
      orb.style.setProperty("--mic", "0");
      orb.style.setProperty("--voice", "0");
    } else if (client === this.writing) this.writing = null;
    if (!this.client) this.connected("closed");
  }

  private hangUp(): void {
    const { voice } = this;
    if (!voice) return;
    if (this.made) {
      this.over = true;
      voice.end();
      this.captions.note(TEXT.over);
    } else {
      voice.close();
      void this.openWriting();
    }
    this.refresh();
  }

  private finish(problem: ClientError | null): void {
    this.over = true;
    this.replying = "";
    if (problem) this.problem(problem, null);
    this.refresh();
  }

  private reset(): void {
    this.captions.clear();
    this.session = this.token = null;
    this.lastSeq = 0;
    this.over = this.made = this.operator = false;
    for (const name of ["session", "token"]) link.delete(name);
    window.history.replaceState(null, "", location.pathname + location.search);
  }

  // --- what happens

  private take(event: ServerEvent): void {
    if (event.seq && event.type !== "session.started") {
      // Two connections may tell it, and so may the log.
      if (event.seq <= this.lastSeq) return;
      this.lastSeq = event.seq;
    }
    this.captions.show(event);
    switch (event.type) {
      case "session.started":
        this.named(event.agent);
        $("recorded").hidden = !event.recorded;
        if (event.operator && !this.operator) this.captions.note(TEXT.tookOver(event.operator), "operator");
        this.operator = Boolean(event.operator);
        this.doing("ready");
        break;
      case "agent.changed":
        this.named(event.agent);
        $("recorded").hidden = !event.recorded;
        break;
      case "user.speech_started":
        this.doing("hearing");
        break;
      case "user.speech_stopped":
      case "turn.committed":
        this.doing("thinking");
        break;
      case "user.transcript":
        if (event.final && !event.text) this.doing("ready");
        break;
      case "reply.started":
        this.replying = event.reply_id;
        this.doing("thinking");
        break;
      case "reply.text":
        this.doing("speaking");
        break;
      case "reply.finished":
        if (this.replying === event.reply_id) this.replying = "";
        this.doing("ready");
        break;
      case "operator.took_over":
        this.operator = true;
        this.doing("operator");
        break;
      case "operator.handed_back":
        this.operator = false;
        this.doing("ready");
        break;
      case "error":
        this.tell({ message: event.message, fix: event.fix ?? "", kind: event.code });
        break;
      case "session.ended":
        this.finish(null);
        break;
    }
    this.refresh();
  }

  private problem(problem: ClientError, again: (() => void) | null = null): void {
    this.tell(problem, again);
  }

  // --- what the user does

  private async write(): Promise<void> {
    const words = text.value.trim();
    if (!words || sendButton.disabled) return;
    text.value = "";
    this.tell(null);
    this.refresh();
    if (this.over && this.made) this.reset();
    const taken = await this.ready();
    if (taken) this.client?.text(words);
    // What was not taken is given back, unless there is something new.
    else if (!text.value) text.value = words;
    this.refresh();
    text.focus();
  }

  /** A connection to write on; without a link it takes a room. */
  private async ready(): Promise<boolean> {
    if (!this.client && !this.session) {
      this.making ??= this.makeRoom().finally(() => (this.making = null));
      await this.making;
      if (!this.session) return false;
    }
    if (!this.client) await this.openWriting();
    return this.client?.state === "connected";
  }

  private async makeRoom(): Promise<void> {
    try {
      const room = await makeRoom(new URL("/talk/room", location.href), wanted);
      this.made = true;
      this.session = room.session_id;
      link.set("session", room.session_id);
      this.keepToken(room.join.token ?? "");
    } catch (error) {
      this.problem(error as ClientError, null);
    }
  }

  private interrupt(): void {
    if (this.replying) this.client?.interrupt();
  }

  private setMute(muted: boolean): void {
    this.voice?.mute(muted);
    this.doing(muted ? "muted" : "ready");
    this.refresh();
  }

  private modeChanged(): void {
    if (this.voice) this.voice.pushToTalk = this.settings.push;
    this.refresh();
  }

  private held(event: PointerEvent, down: boolean): void {
    if (!this.voice || !this.settings.push) return;
    if (down) orb.setPointerCapture(event.pointerId);
    this.talking(down);
  }

  private talking(down: boolean): void {
    if (!this.voice || !this.settings.push) return;
    this.voice.talk(down);
    document.body.classList.toggle("talking", down);
    this.refresh();
  }

  private key(event: KeyboardEvent, down: boolean): void {
    const target = event.target as HTMLElement;
    if ($<HTMLDialogElement>("settings").open) return;
    if (event.key === "Escape" && down) return this.interrupt();
    if (event.key !== " " || event.repeat || !this.voice || !this.settings.push) {
      // A space that is held scrolls nothing.
      if (event.key === " " && event.repeat && document.body.classList.contains("talking")) event.preventDefault();
      return;
    }
    if (target !== orb && target.closest("textarea, button, select, input")) return;
    event.preventDefault();
    this.talking(down);
  }

  // --- what is shown

  private named(agent: string): void {
    $("title").textContent = TEXT.title(agent);
    document.title = TEXT.tab(agent);
  }

  private doing(what: Doing): void {
    if (this.voice?.muted && what === "ready") what = "muted";
    if (this.operator && what === "ready") what = "operator";
    document.body.dataset.doing = what;
    const words = this.voice ? TEXT.doing[what] : "";
    if (doing.textContent !== words) doing.textContent = words;
  }

  private connected(state: ConnectionState, words = ""): void {
    connection.dataset.state = state;
    const told = words || (state === "connected" && this.rtt ? TEXT.rtt(this.rtt) : TEXT.state[state]);
    const shown = this.listens && state === "connected" && !words ? TEXT.listening : told;
    if (connection.textContent !== shown) connection.textContent = shown;
  }

  private tell(what: { message: string; fix: string; kind?: string } | null, again: (() => void) | null = null): void {
    notice.replaceChildren();
    notice.dataset.kind = what?.kind ?? "";
    if (!what) return;
    notice.append(element("p", "what", what.message), element("p", "fix", what.fix));
    const ways: [string, () => void][] = again ? [[TEXT.tryAgain, again]] : [];
    if (again && what instanceof ClientError && WITHOUT_MICROPHONE.has(what.kind)) ways.push([TEXT.withoutMicrophone, () => void this.start(false)]);
    for (const [label, work] of ways) {
      const button = element("button", "small", label) as HTMLButtonElement;
      button.type = "button";
      button.onclick = () => {
        this.tell(null);
        work();
      };
      notice.append(button);
    }
  }

  private refresh(): void {
    const { voice } = this;
    const state = voice?.state ?? "idle";
    const talks = state === "connected" || state === "reconnecting";
    const ended = this.over && !this.made;
    document.body.dataset.phase = this.over ? "over" : !voice ? (this.session ? "joined" : "idle") : talks ? "talking" : "connecting";
    document.body.classList.toggle("empty", this.captions.isEmpty);
    document.body.classList.toggle("push", talks && this.settings.push);
    document.body.classList.toggle("muted", talks && (voice?.muted ?? false));
    const hasMicrophone = talks && voice?.hasMicrophone === true;
    orb.disabled = ended || state === "connecting";
    const label = state === "connecting" ? TEXT.connecting
      : this.over ? TEXT.again
      : this.listens ? TEXT.listen
      : talks ? (hasMicrophone && this.settings.push ? (document.body.classList.contains("talking") ? TEXT.holding : TEXT.hold) : "")
      : this.captions.isEmpty ? TEXT.start : TEXT.join;
    if (orbLabel.textContent !== label) orbLabel.textContent = label;
    // While it only shows levels it is nothing to press.
    orb.tabIndex = talks && !(hasMicrophone && this.settings.push) ? -1 : 0;
    orb.ariaHidden = orb.tabIndex < 0 ? "true" : null;
    mute.hidden = !hasMicrophone;
    mute.ariaPressed = String(voice?.muted ?? false);
    mute.querySelector("span")!.textContent = voice?.muted ? TEXT.unmute : TEXT.mute;
    leave.hidden = !talks;
    leave.querySelector("span")!.textContent = this.made ? TEXT.end : TEXT.leave;
    $("form").hidden = this.listens || ended;
    sendButton.disabled = !text.value.trim();
    stop.disabled = !this.replying || !this.client;
    if (state === "reconnecting") doing.textContent = TEXT.doing.reconnecting;
    else if (!voice) doing.textContent = document.body.dataset.phase === "idle" && !this.listens ? TEXT.doing.idle : "";
    else if (talks && doing.textContent === TEXT.doing.reconnecting) this.doing("ready");
  }
}

new Talk();
