"""The talk page and <rejoinder-talk> without a voice: in writing, as a listener, after a reload, for all eyes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.e2e.browser import browser, events, spoken
from tests.e2e.conftest import ServerProcess, Start
from tests.web.webbuild import web_build

AXE = web_build.SOURCES / "node_modules" / "axe-core" / "axe.min.js"
SCRIPT = {"transcript": "tell me", "reply": "Certainly, here it is.", "ms_per_word": 120}


@pytest.fixture
def server(start: Start) -> ServerProcess:
    return start(SCRIPT)


def http(server: ServerProcess) -> str:
    return server.url.replace("ws://", "http://")


def room(server: ServerProcess, **wanted: Any) -> dict[str, Any]:
    answer = httpx.post(f"{http(server)}/v1/rooms", json=wanted)
    assert answer.is_success, answer.text
    told: dict[str, Any] = answer.json()
    return told


def write(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def said(page: Page) -> list[str]:
    return [words.strip() for words in page.locator(".said > p").all_inner_texts()]


def test_one_can_write_without_a_microphone_and_go_on_after_a_reload(server: ServerProcess) -> None:
    with browser(allow=False) as chromium:
        page = chromium.page()
        page.goto(f"{http(server)}/talk")
        write(page, "hello there")
        expect(page.locator(".said.agent > p")).to_have_text("Certainly, here it is.")
        expect(page.locator(".said.agent").get_by_role("button")).to_contain_text("ms")
        assert said(page) == ["hello there", "Certainly, here it is."]
        assert "session=ses_" in page.url, "the page is a link to its conversation now"
        page.reload()
        expect(page.locator("#connection")).to_contain_text("Connected")
        assert said(page) == ["hello there", "Certainly, here it is."]
        write(page, "and again")
        expect(page.locator(".said.agent")).to_have_count(2)
        assert chromium.complaints == []


def test_a_link_leads_to_its_conversation_and_a_listener_only_reads(server: ServerProcess) -> None:
    made = room(server)
    token = httpx.post(f"{http(server)}/v1/rooms/{made['id']}/tokens", json={"role": "listener"}).json()
    with browser(allow=False) as chromium:
        speaker, listener = chromium.page(), chromium.page()
        listener.goto(token["page"])
        expect(listener.locator("#connection")).to_have_text("Waiting for somebody to begin")
        expect(listener.get_by_label("Your message")).to_be_hidden()
        speaker.goto(made["join"]["page"])
        write(speaker, "hello there")
        expect(listener.locator(".said.agent > p")).to_have_text("Certainly, here it is.", timeout=10_000)
        expect(listener.locator("#connection")).to_have_text("You are listening")
        expect(listener.get_by_role("button", name="Listen")).to_be_visible()
        assert said(listener) == said(speaker) == ["hello there", "Certainly, here it is."]


def test_a_token_is_renewed_before_it_expires(start: Start) -> None:
    server = start(SCRIPT)
    made = room(server, ttl_s=10)
    with browser(allow=False) as chromium:
        page = chromium.page()
        page.goto(made["join"]["page"])
        write(page, "hello there")
        expect(page.locator(".said.agent")).to_have_count(1)
        with page.expect_response(lambda response: response.url.endswith("/token"), timeout=15_000) as answer:
            pass
        fresh = answer.value.json()["token"]
        assert fresh != made["join"]["token"]
        page.wait_for_url(lambda url: fresh in url)


def test_a_link_that_is_no_good_says_so(server: ServerProcess) -> None:
    with browser(allow=False) as chromium:
        page = chromium.page()
        page.goto(f"{http(server)}/talk#session=ses_00000000000000000000000000")
        expect(page.get_by_role("alert")).to_contain_text("There is no such conversation.")
        expect(page.get_by_role("alert")).to_contain_text("Ask for a new link.")
        expect(page.locator("#orb")).to_be_disabled()


def test_where_nobody_may_just_talk_the_servers_own_words_say_what_to_do(start: Start) -> None:
    server = start(SCRIPT, AUTH__MODE="keys", TALK__ACCESS="login")
    with browser() as chromium:
        page = chromium.page()
        page.goto(f"{http(server)}/talk")
        page.get_by_role("button", name="Start talking").click()
        expect(page.get_by_role("alert").locator(".fix")).not_to_be_empty()
        expect(page.get_by_role("button", name="Start talking")).to_be_enabled()


def test_an_agent_can_be_named_in_the_address(start: Start) -> None:
    other = {"vad": "scripted", "stt": "scripted", "llm": "scripted", "tts": "scripted", "tools": []}
    server = start(SCRIPT, AGENTS=json.dumps({"scripted": other, "second": other}))
    with browser(allow=False) as chromium:
        page = chromium.page()
        page.goto(f"{http(server)}/talk?agent=second")
        expect(page.get_by_role("heading", name="Talk to second")).to_be_visible()
        write(page, "hello")
        expect(page.locator(".said.agent")).to_have_count(1)
        assert [event["agent"] for event in events(page) if event["type"] == "session.started"] == ["second"]


EMBED = """() => {
  const script = document.createElement("script");
  Object.assign(script, { type: "module", src: "/client.js" });
  const talk = document.createElement("rejoinder-talk");
  talk.setAttribute("agent", "scripted");
  talk.setAttribute("label", "Talk to us");
  document.body.replaceChildren(talk, script);
}"""


def test_the_web_component_talks_under_a_strict_policy(server: ServerProcess, tmp_path: Path) -> None:
    microphone = spoken(tmp_path / "microphone.wav", 60.0)
    with browser(microphone=microphone) as chromium:
        page = chromium.page()
        # A page with our policy; what else is on it is taken away.
        page.goto(f"{http(server)}/talk")
        page.evaluate(EMBED)
        page.get_by_role("button", name="Talk to us").click()
        expect(page.get_by_role("status")).to_have_text("Listening")
        page.evaluate("() => document.querySelector('rejoinder-talk').client.text('hello there')")
        expect(page.get_by_role("log")).to_contain_text("Certainly, here it is.")
        page.get_by_role("button", name="End").click()
        expect(page.get_by_role("button", name="Talk to us")).to_be_visible()
        assert page.evaluate("() => window.rejoinderTap.context.state") == "closed"
        assert chromium.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_everybody_can_use_the_page(server: ServerProcess, scheme: Any, width: int) -> None:
    assert AXE.exists()
    with browser(allow=False, color_scheme=scheme, viewport={"width": width, "height": 700}) as chromium:
        page = chromium.page()
        page.goto(f"{http(server)}/talk")
        assert violations(page) == []
        page.get_by_role("button", name="Start talking").click()
        expect(page.get_by_role("alert")).to_contain_text("may not use the microphone")
        write(page, "hello there")
        page.locator(".said.agent").get_by_role("button").click()
        assert violations(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="Settings").click()
        assert violations(page) == []
        if folder := os.environ.get("PANEL_SCREENSHOTS"):
            page.keyboard.press("Escape")
            page.screenshot(path=Path(folder) / f"talk-{scheme}-{width}.png")


AUDIT = """async () => {
  const moving = document.getAnimations().filter(({ effect }) => effect.getTiming().iterations === 1);
  await Promise.all(moving.map(({ finished }) => finished));
  const { violations } = await axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"] });
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}"""


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA, once nothing moves any more."""
    page.evaluate(AXE.read_text("utf-8"))
    found: list[str] = page.evaluate(AUDIT)
    return found
