// How a conversation travels. The WebSocket is the one way there is; another (WebRTC) has the same shape.
import { ClientError } from "./errors";
import type { Command, ServerEvent } from "./events";

export interface Receiver {
  onEvent(event: ServerEvent): void;
  /** PCM16 at the output rate. */
  onAudio(pcm: ArrayBuffer): void;
  /** `broken`: nobody said goodbye, so our place is kept for a while. */
  onClose(broken: boolean, reason: string): void;
}

export interface Transport {
  send(command: Command): void;
  /** PCM16 at the input rate; dropped where the network cannot take it in time. */
  sendAudio(pcm: ArrayBuffer): void;
  /** Say goodbye; nothing is received any more. Idempotent. */
  close(): void;
  /** Take it for dead, as if it had broken. */
  abandon(): void;
}

export type Dial = (url: string, receiver: Receiver, timeoutMs: number) => Promise<Transport>;

export const SUBPROTOCOL = "rejoinder.v1";
/** Audio that waits in the socket beyond this (1 s at 16 kHz) is late anyway. */
const MOST_WAITING = 32_000;

export const dialWebSocket: Dial = (url, receiver, timeoutMs) =>
  new Promise((resolve, reject) => {
    const socket = new WebSocket(url, SUBPROTOCOL);
    socket.binaryType = "arraybuffer";
    let opened = false;
    let over = false;
    const end = (broken: boolean, reason: string): void => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      if (opened) receiver.onClose(broken, reason);
      else reject(new ClientError("connection_lost", { code: "unreachable", message: "The server cannot be reached." }));
    };
    const stop = (broken: boolean, reason: string): void => {
      end(broken, reason);
      socket.close();
    };
    const timer = setTimeout(() => stop(true, "timeout"), timeoutMs);
    const transport: Transport = {
      send: (command) => {
        if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
      },
      sendAudio: (pcm) => {
        if (socket.readyState === WebSocket.OPEN && socket.bufferedAmount < MOST_WAITING) socket.send(pcm);
      },
      close: () => {
        over = true;
        clearTimeout(timer);
        socket.close(1000);
      },
      abandon: () => stop(true, "silent"),
    };
    socket.onopen = () => {
      opened = true;
      clearTimeout(timer);
      resolve(transport);
    };
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (over) return;
      if (typeof data !== "string") return receiver.onAudio(data);
      let event: ServerEvent;
      try {
        event = JSON.parse(data) as ServerEvent;
      } catch {
        return;
      }
      receiver.onEvent(event);
    };
    socket.onclose = ({ code, reason }) => end(code === 1006 || code === 1001, reason || String(code));
  });
