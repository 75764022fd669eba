import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { RejoinderClient } from "../src/client";
import { ClientError } from "../src/errors";
import type { Command, ServerEvent } from "../src/events";
import { find } from "../src/target";
import type { Receiver, Transport } from "../src/transport";

class FakeSocket implements Transport {
  readonly sent: Command[] = [];
  closed = false;
  constructor(readonly url: string, readonly receiver: Receiver) {}
  send(command: Command): void { this.sent.push(command); }
  sendAudio(): void {}
  close(): void { this.closed = true; }
  abandon(): void { this.receiver.onClose(true, "silent"); }
  says(event: ServerEvent): void { this.receiver.onEvent(event); }
  started(more: object = {}): void {
    this.says({ type: "session.started", seq: 1, session_id: "ses_1", agent: "guide", input_rate: 16_000, output_rate: 24_000, resume_token: "secret", ...more });
  }
}

let sockets: FakeSocket[];
let refuse: ClientError | null;
let states: string[];

function client(): RejoinderClient {
  const made = new RejoinderClient({
    url: "ws://voice.test/ws/audio", agent: "guide", audio: false,
    dial: async (url, receiver) => {
      if (refuse) throw refuse;
      const socket = new FakeSocket(url, receiver);
      sockets.push(socket);
      return socket;
    },
  });
  made.on("state", (state) => states.push(state));
  return made;
}

async function connected(): Promise<RejoinderClient> {
  const made = client();
  const waiting = made.connect();
  await vi.waitFor(() => expect(sockets[0]?.sent).toHaveLength(1));
  sockets[0]!.started();
  await waiting;
  return made;
}

beforeEach(() => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  vi.stubGlobal("location", { href: "http://voice.test/talk" });
  vi.stubGlobal("fetch", async () => { throw new TypeError("no network"); });
  [sockets, refuse, states] = [[], null, []];
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test("it says how it wants the session, and waits for it", async () => {
  const made = await connected();
  expect(sockets[0]!.url).toBe("ws://voice.test/ws/audio");
  expect(sockets[0]!.sent[0]).toEqual({ type: "session.configure", agent: "guide", input_rate: 16_000, output_rate: 24_000, output: "text" });
  expect(states).toEqual(["connecting", "connected"]);
  made.text("hello");
  expect(sockets[0]!.sent[1]).toEqual({ type: "text", text: "hello" });
});

test("events come typed, and all of them as `event`", async () => {
  const made = await connected();
  const all: string[] = [];
  let delta = "";
  made.on("reply.text", (event) => (delta += event.delta));
  made.on("event", (event) => all.push(event.type));
  sockets[0]!.says({ type: "reply.started", seq: 2, reply_id: "r1", turn_id: "t1" });
  sockets[0]!.says({ type: "reply.text", seq: 3, reply_id: "r1", delta: "Hi." });
  expect(delta).toBe("Hi.");
  expect(all).toEqual(["reply.started", "reply.text"]);
});

test("a connection that broke is resumed with the token, the last number and what was played", async () => {
  const made = await connected();
  sockets[0]!.says({ type: "reply.started", seq: 7, reply_id: "r1", turn_id: "t1" });
  sockets[0]!.receiver.onClose(true, "1006");
  await vi.waitFor(() => expect(sockets[1]?.sent).toHaveLength(1));
  expect(sockets[1]!.url).toBe("ws://voice.test/v1/sessions/ses_1/ws");
  expect(sockets[1]!.sent[0]).toMatchObject({ resume_token: "secret", last_seq: 7, played_ms: 0 });
  expect(sockets[1]!.sent[0]).not.toHaveProperty("agent");
  sockets[1]!.started({ seq: 9, resumed: true, resume_token: "next" });
  // What the old socket still says is not heard.
  sockets[0]!.says({ type: "session.ended", seq: 8, reason: "x" });
  expect(states).toEqual(["connecting", "connected", "reconnecting", "connected"]);
  sockets[1]!.receiver.onClose(true, "1006");
  await vi.waitFor(() => expect(sockets[2]?.sent).toHaveLength(1));
  expect(sockets[2]!.sent[0]).toMatchObject({ resume_token: "next", last_seq: 7 });
  made.close();
});

test("it gives up with the reason when the server cannot be reached for long", async () => {
  const made = await connected();
  const problems: ClientError[] = [];
  made.on("problem", (problem) => problems.push(problem));
  refuse = new ClientError("connection_lost");
  sockets[0]!.receiver.onClose(true, "1006");
  await vi.advanceTimersByTimeAsync(20_000);
  expect(problems.map(({ kind }) => kind)).toEqual(["connection_lost"]);
  expect(states.at(-1)).toBe("closed");
});

test("a session that is over meanwhile is not asked for again and again", async () => {
  const made = await connected();
  const problems: ClientError[] = [];
  made.on("problem", (problem) => problems.push(problem));
  sockets[0]!.receiver.onClose(true, "1006");
  await vi.waitFor(() => expect(sockets[1]?.sent).toHaveLength(1));
  sockets[1]!.says({ type: "error", code: "session_over", message: "The session 'ses_1' is over." });
  await vi.waitFor(() => expect(states.at(-1)).toBe("closed"));
  expect(problems.map(({ kind }) => kind)).toEqual(["session_over"]);
  expect(sockets).toHaveLength(2);
});

test("a silent connection is taken for dead and made anew", async () => {
  const made = await connected();
  await vi.advanceTimersByTimeAsync(13_000);
  expect(sockets[0]!.sent.some(({ type }) => type === "ping")).toBe(true);
  expect(sockets.length).toBeGreaterThan(1);
  made.close();
});

test("a refusal is told by its kind, and everything is closed", async () => {
  const made = client();
  const waiting = made.connect();
  await vi.waitFor(() => expect(sockets[0]?.sent).toHaveLength(1));
  sockets[0]!.says({ type: "error", code: "full", message: "All 100 sessions are taken.", fix: "Wait.", retryable: true });
  await expect(waiting).rejects.toMatchObject({ kind: "server_full", message: "All 100 sessions are taken.", fix: "Wait." });
  expect(sockets[0]!.closed).toBe(true);
  expect(states).toEqual(["connecting", "closed"]);
});

test("close may be called at any time and twice", async () => {
  const made = client();
  const waiting = made.connect();
  made.close();
  made.close();
  await expect(waiting).rejects.toBeInstanceOf(ClientError);
  const other = await connected();
  other.close();
  other.close();
  expect(sockets.every(({ closed }) => closed)).toBe(true);
});

test("the end of the session is told, then the client is closed", async () => {
  const made = await connected();
  const reasons: string[] = [];
  made.on("session.ended", ({ reason }) => reasons.push(reason));
  sockets[0]!.says({ type: "session.ended", seq: 2, reason: "agent_ended" });
  expect(reasons).toEqual(["agent_ended"]);
  expect(made.state).toBe("closed");
});

test("where a conversation is can be said in several ways", async () => {
  const home = "https://voice.test/client.js";
  expect(await find({ link: "/talk#session=ses_1&token=abc" }, home)).toEqual({
    origin: "https://voice.test", path: "/v1/sessions/ses_1/ws", session: "ses_1", token: "abc", made: false,
  });
  expect(await find({ link: "https://other.test/talk#session=ses_1" }, home)).toMatchObject({ origin: "https://other.test", token: null });
  expect(await find({ url: "wss://voice.test/ws/audio" }, home)).toMatchObject({ path: "/ws/audio", made: true });
  expect(await find({ url: "http://localhost:8080", session: "ses_2", token: "t" }, home)).toMatchObject({ origin: "http://localhost:8080", session: "ses_2" });
  await expect(find({ link: "/talk#nothing" }, home)).rejects.toMatchObject({ kind: "unauthorized" });
});

test("without a link a room is asked for, and a refusal keeps the server's words", async () => {
  const asked: [string, unknown][] = [];
  vi.stubGlobal("fetch", async (url: URL, { body }: { body: string }) => {
    asked.push([String(url), JSON.parse(body)]);
    return Response.json({ session_id: "ses_3", join: { ws: "ws://voice.test/v1/sessions/ses_3/ws", token: "tok" } });
  });
  expect(await find({ agent: "guide" }, "http://voice.test/talk")).toMatchObject({ session: "ses_3", token: "tok", made: true });
  expect(asked).toEqual([["http://voice.test/talk/room", { agent: "guide" }]]);
  vi.stubGlobal("fetch", async () => Response.json({ code: "talk_closed", detail: "Nobody may just talk here.", fix: "Set talk." }, { status: 403 }));
  await expect(find({}, "http://voice.test/talk")).rejects.toMatchObject({ kind: "refused", code: "talk_closed", message: "Nobody may just talk here.", fix: "Set talk." });
});
