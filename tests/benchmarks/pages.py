"""How soon the pages are there: first paint, all of it, and bytes, in a browser that has none of it; on loopback.

    python tests/benchmarks/pages.py [ROUNDS]

Needs Chromium and the built pages (`make web`).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from playwright.sync_api import Playwright, sync_playwright
from tests.adapters.accounts_help import PASSWORD, invite
from tests.adapters.conftest import LiveServer, running
from tests.e2e.browser import chromium

from rejoinder.settings import Auth

PATHS = ("/talk", "/admin/login", "/admin", "/admin/live", "/admin/sessions", "/admin/latency", "/admin/agents")
TIMES = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const files = performance.getEntriesByType("resource").filter(({ name }) => name.includes("/ui/assets/"));
  return {
    paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
    ready: page.domContentLoadedEventEnd,
    bytes: page.encodedBodySize + files.reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0),
  };
}"""


def measure(playwright: Playwright, server: LiveServer, token: str, rounds: int) -> None:
    """Each page in a context of its own, so that nothing of it is cached but what a login brings."""
    browser = playwright.chromium.launch(
        executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    )
    page = browser.new_page()
    page.goto(f"{server.http}/admin/login#token={token}")
    page.get_by_label("Choose a password").fill(PASSWORD)
    page.get_by_label("The password again").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("nav")
    state: Any = page.context.storage_state()
    print(f"{'page':<18}{'first paint, ms: median (min to max)':>40}{'ready, ms':>12}{'kB sent':>10}{'n':>5}")
    for path in PATHS:
        found = []
        for _ in range(rounds):
            context = browser.new_context(storage_state=None if path == "/admin/login" else state)
            page = context.new_page()
            page.goto(server.http + path)
            page.wait_for_selector("h1")
            page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
            found.append(page.evaluate(TIMES))
            context.close()
        paint = [one["paint"] for one in found]
        shown = f"{statistics.median(paint):.0f} ({min(paint):.0f} to {max(paint):.0f})"
        ready = statistics.median(one["ready"] for one in found)
        size = statistics.median(one["bytes"] for one in found) / 1000
        print(f"{path:<18}{shown:>40}{ready:>12.0f}{size:>10.1f}{rounds:>5}")
    browser.close()


def main() -> None:
    """Run it."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        auth = Auth(dev_key_file=Path(folder) / "dev-key")
        with running(Path(folder) / "test.db", {}, auth=auth) as server, sync_playwright() as playwright:
            measure(playwright, server, invite(server, "ada", "admin"), rounds)


if __name__ == "__main__":
    main()
