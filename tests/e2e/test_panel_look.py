"""Every page of the panel in a real browser: light and dark, wide and narrow, with axe and under the strict policy.

With `PANEL_SCREENSHOTS` set to a folder, a picture of each is left there.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.adapters.accounts_help import PASSWORD, invite
from tests.adapters.conftest import AGENT, running
from tests.e2e.browser import browser

from rejoinder.settings import Agent, Auth, Limits, WebhookOptions

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "admin" / "web" / "node_modules" / "axe-core" / "axe.min.js"
WEB = ROOT / "admin" / "rejoinder_admin" / "web"
WIDE, NARROW, NARROWEST = (1280, 800), (390, 844), (320, 640)
PAGES = (
    "/",
    "/live",
    "/sessions",
    "/sessions?q=tell",
    "/sessions/SESSION",
    "/sessions/SESSION?tab=turns",
    "/sessions/SESSION?tab=events",
    "/sessions/SESSION?tab=llm",
    "/sessions/SESSION?tab=raw",
    "/latency",
    "/agents",
    "/agents/helper",
    "/rooms",
    "/plugins",
    "/keys",
    "/webhooks",
    "/nodes",
    "/users",
    "/audit",
    "/settings",
    "/account",
)
MOST_GZIPPED = 150_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server where something has happened: an agent in two versions, conversations, a key, a webhook, accounts."""
    folder = tmp_path_factory.mktemp("panel")
    agent = Agent.model_validate({**AGENT.model_dump(), "tools": ("clock",), "recording": {"enabled": True}})
    with running(
        folder / "panel.db",
        {"transcript": "tell me about it"},
        auth=Auth(dev_key_file=folder / "dev-key"),
        limits=Limits(idle_s=60, chat_idle_s=60),
        agents={"scripted": agent},
        recordings_dir=folder / "recordings",
        webhooks=WebhookOptions(allow_private=True),
    ) as live:
        yield live


@pytest.fixture(scope="module")
def admin(server: LiveServer) -> Iterator[httpx.Client]:
    """The first account, which has made things."""
    token = invite(server, "ada", "admin")
    with httpx.Client(
        base_url=server.http, headers={"origin": server.http, "sec-fetch-site": "same-origin"}, timeout=20
    ) as client:
        answer = client.post("/admin/api/link", json={"token": token, "password": PASSWORD})
        client.headers["x-csrf-token"] = answer.json()["csrf"]
        for text in ("You are a helper.", "You are a kind helper.\nAnswer in one sentence."):
            definition = {**AGENT.model_dump(mode="json"), "instructions": text, "greeting": "Welcome!"}
            client.put("/v1/agents/helper", json=definition).raise_for_status()
        client.post("/v1/keys", json={"name": "shop", "scopes": ["talk", "read"]}).raise_for_status()
        client.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/hook"}).raise_for_status()
        client.post("/v1/rooms", json={"agent": "helper"}).raise_for_status()
        client.post("/v1/users", json={"name": "otto", "role": "operator"}).raise_for_status()
        yield client


@pytest.fixture(scope="module")
def session_id(admin: httpx.Client) -> str:
    """A conversation of three turns, which goes on."""
    found = ""
    for text in ("Tell me what you can do.", "And how long does that take?", "Thank you."):
        body: dict[str, Any] = {"text": text, **({"session_id": found} if found else {"agent": "scripted"})}
        answer = admin.post("/v1/chat", json=body, headers={"accept": "application/json"})
        answer.raise_for_status()
        found = answer.json()["session_id"]
    over = admin.post("/v1/chat", json={"text": "Goodbye.", "agent": "helper"}, headers={"accept": "application/json"})
    admin.post(f"/v1/sessions/{over.json()['session_id']}/end", json={"reason": "client_ended"}).raise_for_status()
    return found


def log_in(page: Page, server: LiveServer) -> None:
    page.goto(f"{server.http}/admin/login")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("main h1")
    page.wait_for_url(re.compile("/admin/?$"))


def axe(page: Page) -> list[str]:
    """What axe finds, one line each."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def settle(page: Page) -> None:
    """Until the page has what it asked for."""
    page.wait_for_selector("main h1")
    expect(page.locator("main [aria-busy=true]")).to_have_count(0)


def overflow(page: Page) -> int:
    """By how many CSS pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("PANEL_SCREENSHOTS"):
        safe = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        page.screenshot(path=Path(folder) / f"{safe}.png", full_page=True)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_is_accessible_and_keeps_the_policy(
    server: LiveServer, admin: httpx.Client, session_id: str, theme: str, size: tuple[int, int]
) -> None:
    problems: dict[str, list[str]] = {}
    with browser(taps=False, viewport={"width": size[0], "height": size[1]}, color_scheme=theme) as chromium:
        page = chromium.page()
        page.goto(f"{server.http}/admin/login")
        page.wait_for_selector("h1")
        problems["/login"] = axe(page)
        keep(page, f"login {theme} {size[0]}")
        log_in(page, server)
        # Nobody was logged in before: the one answer that says so is meant.
        chromium.complaints.clear()
        for path in PAGES:
            page.goto(f"{server.http}/admin{path.replace('SESSION', session_id)}")
            settle(page)
            found = axe(page)
            if (wider := overflow(page)) > 0:
                found.append(f"the page is {wider} px wider than its window")
            problems[path] = found
            keep(page, f"{path.strip('/') or 'overview'} {theme} {size[0]}")
        assert {path: found for path, found in problems.items() if found} == {}
        assert chromium.complaints == []


def test_the_narrowest_window_is_wide_enough(server: LiveServer, admin: httpx.Client, session_id: str) -> None:
    wider: dict[str, int] = {}
    with browser(taps=False, viewport={"width": NARROWEST[0], "height": NARROWEST[1]}) as chromium:
        page = chromium.page()
        log_in(page, server)
        for path in PAGES:
            page.goto(f"{server.http}/admin{path.replace('SESSION', session_id)}")
            settle(page)
            wider[path] = overflow(page)
    assert {path: px for path, px in wider.items() if px > 0} == {}


def test_the_whole_panel_is_small() -> None:
    """All of it together, though each page loads only its own part."""
    talk = set(re.findall(r"/ui/assets/([^\"]+)", (WEB / "talk.html").read_text(encoding="utf-8")))
    panel = [WEB / "panel.html", *(WEB / "assets").iterdir()]
    sizes = {file.name: len(gzip.compress(file.read_bytes(), 9)) for file in panel if file.name not in talk}
    assert sum(sizes.values()) < MOST_GZIPPED, json.dumps(sizes, indent=1)


def test_keyboard_alone_gets_everywhere(server: LiveServer, admin: httpx.Client, session_id: str) -> None:
    with browser(taps=False, viewport={"width": WIDE[0], "height": WIDE[1]}) as chromium:
        page = chromium.page()
        log_in(page, server)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.closest('main') !== null")
        page.keyboard.press("Control+k")
        page.keyboard.type(session_id)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/admin/sessions/{session_id}*")
        settle(page)
        for title in ("Latency", "Agents", "Settings"):
            page.keyboard.press("Control+k")
            page.keyboard.type(title)
            page.keyboard.press("Enter")
            expect(page.locator("main h1")).to_have_text(title)
