"""Other people's pages against somebody who is logged in, in a real browser: they read nothing and change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Page
from tests.adapters.accounts_help import PASSWORD, invite
from tests.adapters.conftest import running
from tests.e2e.browser import browser
from tests.e2e.sites import site

from rejoinder.settings import Auth, Limits

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer

ATTACKS = """async ({ server, session }) => {
  const found = {};
  const attempt = async (name, what) => {
    try { found[name] = await what(); } catch (error) { found[name] = `refused: ${error.name}`; }
  };
  const asked = { credentials: "include" };
  await attempt("read", async () => (await fetch(`${server}/v1/sessions`, asked)).status);
  await attempt("me", async () => (await fetch(`${server}/admin/api/me`, asked)).status);
  await attempt("stream", () => new Promise((done) => {
    const source = new EventSource(`${server}/v1/stream?topics=live`, { withCredentials: true });
    source.onmessage = () => (source.close(), done("a message"));
    source.onerror = () => (source.close(), done("refused"));
  }));
  // What needs no preflight is sent, though nothing of the answer is seen.
  const blind = (path, body) => fetch(`${server}${path}`, {
    ...asked, method: "POST", mode: "no-cors", headers: { "content-type": "text/plain" }, body,
  });
  await attempt("end", async () => (await blind(`/v1/sessions/${session}/end`, "{}")).type);
  await attempt("say", async () => (await blind(`/v1/sessions/${session}/say`, '{"text":"I was here"}')).type);
  const put = { ...asked, method: "PUT", body: "{}" };
  await attempt("agent", async () => (await fetch(`${server}/v1/agents/evil`, put)).status);
  await attempt("user", async () => (await blind("/v1/users", '{"name":"eve","role":"admin"}')).type);
  await attempt("key", async () => (await blind("/v1/keys", '{"name":"eve","scopes":["admin"]}')).type);
  await attempt("login", async () => (await blind("/admin/api/login", '{"name":"eve","password":"xxxxxxxxxx"}')).type);
  await attempt("logout", async () => (await blind("/admin/api/logout", "")).type);
  const socket = (path) => new Promise((done) => {
    const ws = new WebSocket(`${server.replace("http", "ws")}${path}`);
    ws.onopen = () => (ws.close(), done("open"));
    ws.onerror = () => done("refused");
  });
  await attempt("listen", () => socket(`/v1/sessions/${session}/listen`));
  await attempt("join", () => socket(`/v1/sessions/${session}/ws`));
  await attempt("frame", () => new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.src = `${server}/admin/users`;
    frame.onload = () => {
      // A page that may not be framed is replaced by an empty one of nobody's.
      let text = "";
      try { text = frame.contentDocument.body.textContent; } catch { text = "nobody's"; }
      done(text || "nobody's");
    };
    document.body.append(frame);
  }));
  return found;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("security")
    auth, limits = Auth(dev_key_file=folder / "dev-key"), Limits(chat_idle_s=120)
    with running(folder / "test.db", {}, auth=auth, limits=limits) as live:
        yield live


def log_in(page: Page, server: LiveServer, token: str) -> None:
    page.goto(f"{server.http}/admin/login#token={token}")
    page.get_by_label("Choose a password").fill(PASSWORD)
    page.get_by_label("The password again").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("nav")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same-site", "cross-site"])
def test_a_page_of_another_origin_gets_nothing(server: LiveServer, tmp_path: Path, host: str) -> None:
    """Another port of this machine is the same site to a browser: its requests do carry the cookie."""
    key = str(server.call(server.runtime.gate.prepare()))
    with httpx.Client(base_url=server.http, headers={"authorization": f"Bearer {key}"}, timeout=20) as api:
        asked = {"text": "hello", "agent": "scripted"}
        session_id = api.post("/v1/chat", json=asked, headers={"accept": "application/json"}).json()["session_id"]
        with (
            site({"/": "<!doctype html><title>Evil</title><body>"}, host=host) as evil,
            browser(taps=False) as chromium,
        ):
            page = chromium.page()
            log_in(page, server, invite(server, f"ada-{host.replace('.', '-')}", "admin"))
            other = chromium.context.new_page()
            other.goto(evil)
            found: dict[str, Any] = other.evaluate(ATTACKS, {"server": server.http, "session": session_id})
            assert found.pop("frame") == "nobody's"
            blind = {name: found.pop(name) for name in ("end", "say", "user", "key", "login", "logout")}
            # Sent or not, nobody sees what came of it.
            assert set(blind.values()) <= {"opaque", "refused: TypeError"}
            assert all(str(what).startswith("refused") for what in found.values()), found
            # Nothing came of it.
            detail = api.get(f"/v1/sessions/{session_id}").json()
            assert detail["live"]
            assert "I was here" not in json.dumps(detail)
            assert "evil" not in {agent["name"] for agent in api.get("/v1/agents").json()["items"]}
            assert "eve" not in {user["name"] for user in api.get("/v1/users").json()["items"]}
            assert "eve" not in {one["name"] for one in api.get("/v1/keys").json()["items"]}
            # She is still who she was.
            page.goto(f"{server.http}/admin/users")
            page.wait_for_selector("main h1")
            assert page.locator("h1").first.inner_text() == "Users"


def test_a_page_that_opens_the_panel_has_no_hold_of_it(server: LiveServer) -> None:
    """Another site may open a window with the panel, and then neither reads nor steers it."""
    button = f"<button onclick=\"window.w = window.open('{server.http}/admin')\">Win</button>"
    opener = f"<!doctype html><title>Evil</title>{button}"
    with site({"/": opener}, host="localhost") as evil, browser(taps=False) as chromium:
        page = chromium.page()
        page.goto(evil)
        page.get_by_role("button").click()
        # To its opener it is as if it were gone.
        page.wait_for_function("() => window.w.closed")


def test_the_page_holds_nothing_that_lets_one_in(server: LiveServer) -> None:
    """The cookie cannot be read by scripts, and nothing else that is kept would do."""
    with browser(taps=False) as chromium:
        page = chromium.page()
        log_in(page, server, invite(server, "grace", "admin"))
        assert "token" not in page.url
        (cookie,) = [one for one in chromium.context.cookies() if "rejoinder" in one["name"]]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert cookie["value"] not in page.content()
        kept = page.evaluate("() => JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert cookie["value"] not in kept
        csrf = page.evaluate("async () => (await (await fetch('/admin/api/me')).json()).csrf")
        assert csrf not in kept
        assert csrf != cookie["value"]
