import { beforeAll, expect, test, vi } from "vitest";
import { csv } from "./export";
import { browserOf, bytes, clock, duration, grade, ms, percent, shortOf } from "./format";
import { Hub, topicOf, type StreamMessage } from "./stream-hub";

beforeAll(() => {
  vi.stubGlobal("addEventListener", () => undefined);
  vi.stubGlobal("location", { pathname: "/admin", search: "", hash: "" });
});

test("spans of time are told so that they can be compared", () => {
  expect([ms(0), ms(400), ms(780_400), ms(1_535_000), ms(12_340_000), ms(12_345, true)]).toEqual(["0 ms", "< 1 ms", "780 ms", "1,535 ms", "12.3 s", "12.345 ms"]);
  expect([grade(800_000), grade(800_001), grade(1_200_001)]).toEqual(["good", "warn", "bad"]);
  expect([clock(65_000), clock(3_723_000), clock(-5), clock(1_250, true)]).toEqual(["1:05", "1:02:03", "0:00", "0:01.2"]);
  expect([duration(45_000), duration(180_000), duration(7_500_000), duration(4 * 86_400_000)]).toEqual(["45 s", "3 min", "2 h 5 min", "4 d"]);
  expect([bytes(999), bytes(1_500), bytes(72_000_000)]).toEqual(["999 B", "1.5 kB", "72 MB"]);
  expect([percent(1, 0), percent(1, 30), percent(5, 10)]).toEqual(["–", "3.3 %", "50 %"]);
});

test("today's times are short, others have their day, other years theirs", () => {
  const now = Date.UTC(2026, 10, 24, 12);
  expect(shortOf(Date.UTC(2026, 10, 24, 9, 5, 7), "utc", now)).toBe("09:05:07");
  expect(shortOf(Date.UTC(2026, 10, 23, 9, 5), "utc", now)).toBe("23 Nov 09:05");
  expect(shortOf(Date.UTC(2025, 10, 23, 9, 5), "utc", now)).toBe("23 Nov 2025 09:05");
});

test("browsers are told from their User-Agent; what is none stays text", () => {
  expect(browserOf("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36")).toBe("Chrome, Linux");
  expect(browserOf("<script>alert(1)</script>")).toBe("<script>alert(1)</script>");
  expect(browserOf("")).toBe("–");
});

test("CSV quotes what needs it, and nothing in it is a formula", () => {
  expect(csv(["a", "b"], [["x,y", 'say "hi"'], ["=1+1", -5], [null, "two\nlines"]])).toBe('a,b\r\n"x,y","say ""hi"""\r\n\'=1+1,-5\r\n,"two\nlines"\r\n');
});

test("after a login one goes back to where one wanted, and never away from the panel", async () => {
  const { match, nextOf, withChanges } = await import("./router");
  const next = (to: string) => nextOf(`?next=${encodeURIComponent(to)}`);
  expect(next("/sessions?agent=x")).toBe("/sessions?agent=x");
  expect(["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/login?next=/", ""].map(next)).toEqual(Array(6).fill("/"));
  expect(match("/sessions/:id", "/sessions/ses_1")).toEqual({ id: "ses_1" });
  expect([match("/sessions/:id", "/sessions"), match("/sessions/:id", "/sessions/%E0%A4%A")]).toEqual([null, null]);
  expect(withChanges("?a=1&b=2", { a: null, c: "3 4" })).toBe("?b=2&c=3+4");
});

test("one source for all who listen, opened again only when the topics change", async () => {
  const opened: { url: string; closed: boolean; onmessage: ((event: MessageEvent<string>) => void) | null }[] = [];
  const hub = new Hub((url) => {
    const source = { url, closed: false, onmessage: null, onopen: null, onerror: null, readyState: 1, close() { this.closed = true; } };
    opened.push(source);
    return source;
  });
  const heard: Record<string, string[]> = { one: [], two: [] };
  const one = (message: StreamMessage) => { if ("data" in message) heard["one"]!.push(message.data); };
  const two = (message: StreamMessage) => { if ("data" in message) heard["two"]!.push(message.data); };
  hub.want(one, ["live"]);
  hub.want(two, ["live", "overview"]);
  await Promise.resolve();
  expect(opened.map(({ url }) => url)).toEqual(["/v1/stream?topics=live%2Coverview"]);
  const pulse = '{"topic":"overview","active":1}';
  opened[0]!.onmessage!({ data: pulse } as MessageEvent<string>);
  expect(heard).toEqual({ one: [], two: [pulse] });
  hub.want(one, ["overview"]);
  await Promise.resolve();
  expect(opened).toHaveLength(1);
  hub.leave(two);
  await Promise.resolve();
  expect(opened.map(({ url, closed }) => [url, closed])).toEqual([["/v1/stream?topics=live%2Coverview", true], ["/v1/stream?topics=overview", false]]);
  hub.leave(one);
  await Promise.resolve();
  expect(opened[1]!.closed).toBe(true);
});

test("a message's topic is read without reading the message", () => {
  expect(topicOf('{"topic":"session:ses_1","event":{}}')).toBe("session:ses_1");
  expect(topicOf('{"event":{},"topic":"live"}')).toBe("live");
});
