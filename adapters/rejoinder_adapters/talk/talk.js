// A conversation in writing: events come by SSE (read with fetch, which can send the token), messages go by POST.
"use strict";

const $ = (id) => document.getElementById(id);
const log = $("log"), text = $("text");
const link = new URLSearchParams(location.hash.slice(1));
const session = link.get("session") ?? "", token = link.get("token") ?? "";
const path = `/v1/sessions/${encodeURIComponent(session)}`;
const headers = token ? { authorization: `Bearer ${token}` } : {};
const SILENCE_MS = 40_000; // The server sends something every 15 s.
const LONGEST_WAIT_MS = 15_000;
// After these there is no point in coming back.
const FINAL = {
  bad_request: "This link is damaged. Ask for a new one.",
  unauthorized: "This link has expired or is not valid. Ask for a new one.",
  forbidden: "This link is for another conversation.",
  unknown_session: "There is no such conversation.",
  room_expired: "This link has expired: nobody had joined in time. Ask for a new one.",
  session_over: "This conversation is over.",
};
let lastId = 0, over = false, connected = false, replying = null;
const bubbles = new Map();

// --- what is shown -----------------------------------------------------------------------------------------------

function atEnd(change) {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const result = change();
  if (near) log.scrollTop = log.scrollHeight;
  return result;
}

function add(tag, className, content = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = content;
  return atEnd(() => log.appendChild(element));
}

function bubble(id, who) {
  let found = bubbles.get(id);
  if (!found) {
    const article = add("article", `said ${who}`);
    article.setAttribute("aria-label", who === "user" ? "You" : "Agent");
    found = { article, words: article.appendChild(document.createElement("p")) };
    bubbles.set(id, found);
  }
  return found;
}

function say(id, who, words, more = false) {
  const { words: place } = bubble(id, who);
  atEnd(() => (place.textContent = more ? place.textContent + words : words));
}

function remark(id, words) {
  const found = bubbles.get(id);
  if (!found) return;
  const small = document.createElement("small");
  small.textContent = words;
  atEnd(() => found.article.appendChild(small));
}

const note = (words) => add("p", "note", words);
const status = (words) => ($("status").textContent = words);

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

function refresh() {
  const open = connected && !over && !listens;
  text.disabled = $("send").disabled = !open;
  $("stop").disabled = !open || replying === null;
}

function finish(words) {
  over = true;
  replying = null;
  status("Over");
  notice(words);
  refresh();
}

// --- what happens ------------------------------------------------------------------------------------------------

const on = {
  "session.started": (event) => ($("title").textContent = `Conversation with ${event.agent}`),
  "agent.changed": (event) => {
    $("title").textContent = `Conversation with ${event.agent}`;
    note(`${event.former} has handed over to ${event.agent}.`);
  },
  "user.transcript": (event) => event.text && say(event.turn_id, "user", event.text),
  "turn.committed": (event) => say(event.turn_id, "user", event.text),
  "reply.started": (event) => {
    bubble(event.reply_id, "agent").article.setAttribute("aria-busy", "true");
    replying = event.reply_id;
  },
  "reply.text": (event) => say(event.reply_id, "agent", event.delta, true),
  "reply.finished": (event) => {
    const { article } = bubble(event.reply_id, "agent");
    if (event.text) say(event.reply_id, "agent", event.text);
    // Only now a screen reader reads it, as a whole.
    article.removeAttribute("aria-busy");
    if (event.reason === "interrupted") remark(event.reply_id, "stopped");
    if (event.reason === "failed") remark(event.reply_id, "failed");
    if (replying === event.reply_id) replying = null;
  },
  "turn.metrics": (event) => remark(event.reply_id, `answered after ${Math.round((event.response_us ?? 0) / 1000)} ms`),
  // Above the answer that comes of it.
  "tool.called": (event) => log.insertBefore(note(`used ${event.name}`), bubble(event.reply_id, "agent").article),
  "error": (event) => note(event.message),
  "session.ended": () => finish("The conversation has ended."),
};

function take(id, data) {
  const event = JSON.parse(data);
  // What comes again after a reconnection is known.
  if (id && id <= lastId) return;
  if (id) lastId = id;
  on[event.type]?.(event);
  refresh();
}

// --- the connection ----------------------------------------------------------------------------------------------

async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  return { code: "", detail: `The server answered with ${response.status}.`, ...problem };
}

async function read(response, alive) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const field = (name) => lines.filter((line) => line.startsWith(name)).map((line) => line.slice(name.length).trim());
      const data = field("data:").join("\n");
      if (data) take(Number(field("id:")[0] ?? 0), data);
    }
  }
}

async function connect() {
  const abort = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  alive();
  try {
    const asked = { ...headers, accept: "text/event-stream", ...(lastId && { "last-event-id": String(lastId) }) };
    const response = await fetch(`${path}/events`, { headers: asked, signal: abort.signal, cache: "no-store" });
    if (response.status === 204) return finish("This conversation is over.");
    if (!response.ok) {
      const problem = await problemOf(response);
      if (FINAL[problem.code]) return finish(FINAL[problem.code]);
      return status(problem.code === "session_not_started" ? "Waiting for somebody to begin ..." : problem.detail);
    }
    connected = true;
    status(listens ? "You are listening" : "Connected");
    refresh();
    await read(response, alive);
  } finally {
    clearTimeout(timer);
    connected = false;
    refresh();
  }
}

async function stay() {
  for (let wait = 500; !over; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    const before = lastId;
    try {
      await connect();
    } catch {
      status("The connection is lost; trying again ...");
    }
    if (lastId > before) wait = 500;
    if (!over) await new Promise((done) => setTimeout(done, wait * (0.75 + Math.random() / 2)));
  }
}

async function post(what, body) {
  try {
    const options = { method: "POST", headers: { ...headers, "content-type": "application/json" }, body };
    const response = await fetch(`${path}/${what}`, options);
    if (response.ok) return notice(""), true;
    const problem = await problemOf(response);
    notice(FINAL[problem.code] ?? problem.detail);
  } catch {
    notice("That did not reach the server. Try again.");
  }
  return false;
}

async function send() {
  const words = text.value.trim();
  if (!words || text.disabled) return;
  text.value = "";
  // What was not taken is given back, unless there is something new.
  if (!(await post("messages", JSON.stringify({ text: words }))) && !text.value) text.value = words;
  text.focus();
}

function claimsOf(jwt) {
  // Only to show what fits and to renew in time: what is allowed, the server decides.
  try {
    return JSON.parse(atob(jwt.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return {};
  }
}

async function renew({ iat, exp }) {
  // A conversation may outlive its token. The new one goes into the address, so that reloading the page works, too.
  for (let wait = (exp - iat) * 500; wait > 0 && !over; ) {
    await new Promise((done) => setTimeout(done, wait));
    const response = await fetch(`${path}/token`, { method: "POST", headers }).catch(() => null);
    wait = 5_000;
    if (!response) continue;
    if (!response.ok) return;
    const { token: next } = await response.json();
    headers.authorization = `Bearer ${next}`;
    link.set("token", next);
    history.replaceState(null, "", `#${link}`);
    const fresh = claimsOf(next);
    wait = (fresh.exp - fresh.iat) * 500;
  }
}

const claims = claimsOf(token);
const listens = claims.role === "listener";
if (listens) $("form").hidden = true;
$("form").addEventListener("submit", (event) => (event.preventDefault(), send()));
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) event.preventDefault(), send();
});
$("stop").addEventListener("click", () => post("interrupt"));
document.addEventListener("keydown", (event) => event.key === "Escape" && !$("stop").disabled && post("interrupt"));
window.addEventListener("hashchange", () => location.reload());
if (session) stay(), renew(claims);
else finish("This page needs a link: POST /v1/rooms gives one, as join.page.");
refresh();
