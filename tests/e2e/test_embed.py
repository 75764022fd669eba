"""A voice button in somebody else's page: another origin, its own backend, the server's `client.js`; it talks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.adapters.conftest import AGENT, running
from tests.e2e.browser import browser

from rejoinder.settings import Auth

PAGE_OF_DOCS = (Path(__file__).parents[2] / "docs" / "how-to" / "embed.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return str(re.findall(rf"```{language}\n(.*?)```", PAGE_OF_DOCS, re.DOTALL)[0])


class Backend:
    """The site: a page with the element, and the endpoint that makes a room."""

    def __init__(self) -> None:
        self.server = ""
        self.key = ""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                html = block("html").replace("https://agents.example.com", site.server)
                self._answer(f"<!doctype html><html lang=en><title>Shop</title>{html}".encode(), "text/html")

            def do_POST(self) -> None:
                names: dict[str, Any] = {}
                exec(block("python"), names)
                self._answer(names["make_room"](site.server, site.key, "visitor-7"), "application/json")

            def _answer(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("content-type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.http.server_port}"


@contextmanager
def site() -> Iterator[Backend]:
    backend = Backend()
    thread = threading.Thread(target=backend.http.serve_forever)
    thread.start()
    try:
        yield backend
    finally:
        backend.http.shutdown()
        thread.join()
        backend.http.server_close()


@pytest.mark.parametrize("allowed", [True, False])
def test_the_button_works_in_a_page_of_another_origin_that_is_allowed(tmp_path: Path, allowed: bool) -> None:
    with site() as shop:
        origins = (shop.origin,) if allowed else ()
        auth = Auth(dev_key_file=tmp_path / "dev-key")
        with running(tmp_path / "test.db", {}, auth=auth, allowed_origins=origins, agents={"guide": AGENT}) as live:
            shop.server = live.http
            shop.key = str(live.call(live.runtime.gate.prepare()))
            with browser(taps=False) as chromium:
                page = chromium.page()
                page.goto(shop.origin)
                button = page.locator("rejoinder-talk").get_by_role("button")
                if not allowed:
                    expect(page.locator("rejoinder-talk button")).to_have_count(0)
                    assert any("CORS" in complaint for complaint in chromium.complaints), chromium.complaints
                    return
                button.click()
                expect(page.locator("rejoinder-talk")).to_have_attribute("state", "connected", timeout=15_000)
                live.call(_say(live.runtime))
                expect(page.locator("rejoinder-talk")).to_contain_text("Hello from the server", timeout=15_000)
                button.click()
                expect(page.locator("rejoinder-talk")).not_to_have_attribute("state", "connected")
                assert chromium.complaints == []


async def _say(runtime: Any) -> None:
    (session,) = runtime.sessions.values()
    session.say("Hello from the server")
