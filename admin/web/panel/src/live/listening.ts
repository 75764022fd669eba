// Hears a live session: a ticket, a WebSocket with both sides' sound, and a worklet that plays it.
import { send } from "../api";
import { store } from "../store";
import { S } from "../strings/live";
import worklet from "./listen-worklet?worker&url";

export type Balance = "sides" | "centre";
export interface Level { user: number; agent: number }

export class Listening {
  readonly state = store<"off" | "connecting" | "on">("off");
  readonly level = store<Level>({ user: 0, agent: 0 });
  readonly balance = store<Balance>("sides");
  /** Why it ended by itself. */
  readonly ended = store<string | null>(null);
  #context: AudioContext | null = null;
  #node: AudioWorkletNode | null = null;
  #socket: WebSocket | null = null;

  /** Begins; to be called for a click or a key, or the browser lets nothing be heard. */
  async start(session: string): Promise<void> {
    this.stop();
    this.state.set("connecting");
    this.ended.set(null);
    const context = this.#context = new AudioContext({ sampleRate: 16_000 });
    try {
      void context.resume();
      await context.audioWorklet.addModule(worklet);
      const { ticket } = await send<{ ticket: string }>("POST", "/v1/tickets");
      if (this.#context !== context) return;
      const node = this.#node = new AudioWorkletNode(context, "listen", { numberOfInputs: 0, outputChannelCount: [2] });
      node.connect(context.destination);
      node.port.onmessage = ({ data }: MessageEvent<Level>) => this.level.set(data);
      this.setBalance(this.balance.get());
      const address = new URL(`/v1/sessions/${session}/listen?ticket=${encodeURIComponent(ticket)}`, location.href);
      address.protocol = address.protocol.replace("http", "ws");
      const socket = this.#socket = new WebSocket(address);
      socket.binaryType = "arraybuffer";
      socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
        if (typeof data === "string") this.state.set("on");
        else node.port.postMessage(data, [data]);
      };
      socket.onclose = ({ code }) => {
        if (this.#socket !== socket) return;
        this.stop();
        this.ended.set(code === 1000 ? S.listenEnded : S.listenFailed);
      };
    } catch (error) {
      if (this.#context === context) this.stop();
      throw error;
    }
  }

  setBalance(balance: Balance): void {
    this.balance.set(balance);
    this.#node?.port.postMessage({ centre: balance === "centre" });
  }

  stop(): void {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    void this.#context?.close();
    this.#context = null;
    this.#node = null;
    this.level.set({ user: 0, agent: 0 });
    this.state.set("off");
  }
}
