import { expect, test } from "vitest";
import type { Live } from "../types";
import { apply, arranged, windowOf } from "./board";

const row = (id: string, more: Partial<Live> = {}): Live => ({
  id, agent: "guide", started_at: 1, channel: "websocket", client: null, node: "n1", doing: "listening", last_user: "", last_agent: "", turns: 0, interruptions: 0,
  errors: 0, last_response_us: null, operator: null, listeners: 0, ...more,
});

test("updates change what they name and leave the other rows as they are", () => {
  const rows = new Map<string, Live>();
  apply(rows, { topic: "live", reset: true, changed: [row("a"), row("b"), row("c")], gone: [] });
  const b = rows.get("b");
  apply(rows, { topic: "live", reset: false, changed: [row("a", { turns: 1 })], gone: ["c"] });
  expect([...rows.keys()]).toEqual(["a", "b"]);
  expect(rows.get("b")).toBe(b);
  expect(rows.get("a")!.turns).toBe(1);
  apply(rows, { topic: "live", reset: true, changed: [row("z")], gone: [] });
  expect([...rows.keys()]).toEqual(["z"]);
});

test("rows are found by all words, in any of what they show, and ordered", () => {
  const rows = [row("a", { started_at: 1, last_response_us: 900_000 }), row("b", { started_at: 3, last_user: "Where is my PARCEL" }), row("c", { started_at: 2, errors: 1, operator: "Ann" })];
  const ids = (words: string, order: Parameters<typeof arranged>[2], operated = false) => arranged(rows, words, order, operated).map((one) => one.id).join("");
  expect([ids("", "started"), ids("", "oldest"), ids("", "slow")[0], ids("", "trouble")[0]]).toEqual(["bca", "acb", "a", "c"]);
  expect([ids("parcel where", "started"), ids("parcel nowhere", "started"), ids("ann", "started"), ids("", "started", true)]).toEqual(["b", "", "c", "c"]);
});

test("only what is in sight is drawn, with some to spare", () => {
  expect(windowOf(0, 520, 52, 500)).toEqual({ first: 0, last: 16 });
  expect(windowOf(5200, 520, 52, 500)).toEqual({ first: 94, last: 116 });
  expect(windowOf(99_999, 520, 52, 500)).toEqual({ first: 494, last: 500 });
  expect(windowOf(0, 520, 52, 0)).toEqual({ first: 0, last: 0 });
});
