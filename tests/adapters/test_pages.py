"""The pages of the server: strict headers, everything from here, and something to read where an extra is missing."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from rejoinder.settings import Auth
from rejoinder_adapters import explorer
from rejoinder_adapters.problem_types import TYPES

if TYPE_CHECKING:
    from tests.adapters.conftest import LiveServer, Serve

PAGES = ("/talk", "/docs", "/docs/problems")
WEB = Path(__file__).parents[2] / "admin" / "web"
LINK = re.compile(r'(?:src|href)="([^"]+)"')


def policy_of(answer: httpx.Response) -> dict[str, str]:
    directives = answer.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (directive.partition(" ") for directive in directives)}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_do_little_and_loads_all_from_here(server: LiveServer, path: str) -> None:
    answer = httpx.get(server.http + path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = policy_of(answer)
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "<style" not in answer.text
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son[a-z]+=|\sstyle=", answer.text)
    links = LINK.findall(answer.text)
    assert links
    for link in links:
        if link == "data:,":
            continue
        assert link.startswith("/"), link
        assert not link.startswith("//"), link
        assert httpx.get(server.http + link).status_code == 200, link


def test_the_conversation_page_has_nothing_inline_at_all(server: LiveServer) -> None:
    policy = policy_of(httpx.get(f"{server.http}/talk"))
    assert "unsafe" not in str(policy)
    assert {value for name, value in policy.items() if name not in ("img-src", "media-src")} == {"'none'", "'self'"}


@pytest.mark.parametrize("path", ["/client.js", "/docs/assets/explorer.js", "/docs/assets/swagger-ui.css"])
def test_an_asset_that_a_browser_has_is_not_sent_again(server: LiveServer, path: str) -> None:
    first = httpx.get(server.http + path)
    assert first.headers["cache-control"]
    again = httpx.get(server.http + path, headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(server.http + path, headers={"if-none-match": '"other"'}).content == first.content


def test_only_assets_are_served(server: LiveServer) -> None:
    for path in (
        "/ui/assets/__init__.py",
        "/docs/assets/index.css",
        "/docs/assets/..%2f__init__.py",
        "/ui/assets/x",
    ):
        assert httpx.get(server.http + path).status_code == 404, path


def test_our_scripts_name_no_other_host_and_make_no_markup() -> None:
    explorer_files = resources.files("rejoinder_adapters.explorer")
    sources = {name: (explorer_files / name).read_text("utf-8") for name in ("explorer.html", "explorer.js")}
    for folder in ("talk", "client"):
        sources |= {
            str(path): path.read_text("utf-8") for path in (WEB / folder / "src").iterdir() if path.suffix != ".svg"
        }
    sources["talk.html"] = (WEB / "talk.html").read_text("utf-8")
    for name, source in sources.items():
        # Comments, references to types, and the beginning of a pattern.
        code = re.sub(r"(?m)^\s*//.*$|\s// .*$|/\*\*?(?s:.*?)\*/", "", source)
        assert not re.search(r"[\"'`(]\w*:?//\w", code), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", source), (
            name
        )


def test_the_conversation_can_be_followed_with_a_screen_reader(server: LiveServer) -> None:
    page = httpx.get(f"{server.http}/talk").text
    for part in ('lang="en"', 'role="log"', 'role="status"', 'role="alert"', '<label class="unseen" for="text">'):
        assert part in page


def test_every_kind_of_problem_is_explained(server: LiveServer) -> None:
    page = httpx.get(f"{server.http}/docs/problems").text
    for code in TYPES:
        assert f'<tr id="{code}">' in page


def test_nobody_needs_a_key_to_read_what_there_is(serve: Serve) -> None:
    server = serve(auth=Auth(mode="keys"))
    for path in (*PAGES, "/openapi.json"):
        assert httpx.get(server.http + path).status_code == 200


def test_without_the_extra_the_docs_say_how_to_get_it(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "_swagger_ui", lambda: None)
    page = httpx.get(f"{server.http}/docs").text
    assert "pip install 'rejoinder[docs]'" in page
    assert 'href="/openapi.json"' in page
    assert httpx.get(f"{server.http}/docs/assets/swagger-ui.css").status_code == 404


def test_swagger_ui_is_found_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explorer._swagger_ui() is not None

    def files(package: str) -> None:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr("rejoinder_adapters.explorer.resources.files", files)
    assert explorer._swagger_ui() is None
