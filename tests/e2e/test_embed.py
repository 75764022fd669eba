"""A voice button in somebody else's page, as the docs have it: another origin, its own backend; it talks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.adapters.conftest import AGENT, running
from tests.e2e.browser import browser
from tests.e2e.sites import site

from rejoinder.settings import Auth

HOW_TO = (Path(__file__).parents[2] / "docs" / "how-to" / "embed.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return str(re.findall(rf"```{language}\n(.*?)```", HOW_TO, re.DOTALL)[0])


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "unknown"])
def test_the_button_works_in_the_page_of_an_origin_that_is_allowed(tmp_path: Path, allowed: bool) -> None:
    backend: dict[str, Any] = {}
    exec(block("python"), backend)
    pages: dict[str, str] = {}
    auth = Auth(dev_key_file=tmp_path / "dev-key")
    with site(pages, lambda: backend["make_room"](live.http, key, "visitor-7")) as shop:
        origins = (shop,) if allowed else ()
        with running(tmp_path / "test.db", {}, auth=auth, allowed_origins=origins, agents={"guide": AGENT}) as live:
            key = str(live.call(live.runtime.gate.prepare()))
            element = block("html").replace("https://agents.example.com", live.http)
            pages["/"] = f"<!doctype html><html lang=en><title>Shop</title>{element}"
            with browser() as chromium:
                page = chromium.page()
                page.goto(shop)
                talk = page.locator("rejoinder-talk")
                if not allowed:
                    expect(talk.get_by_role("button")).to_have_count(0)
                    assert any("CORS" in complaint for complaint in chromium.complaints), chromium.complaints
                    return
                talk.get_by_role("button").click()
                expect(talk).to_have_attribute("state", "connected")
                live.call(_say(live.runtime))
                expect(talk).to_contain_text("Hello from the server")
                page.wait_for_function(
                    "() => window.rejoinderTap.speaker.some(({ pcm }) => pcm.some((sample) => sample !== 0))"
                )
                talk.get_by_role("button").click()
                expect(talk).not_to_have_attribute("state", "connected")
                assert chromium.complaints == []


async def _say(runtime: Any) -> None:
    (session,) = runtime.sessions.values()
    session.say("Hello from the server")
