"""The panel's static files: strict headers, only what was built, compressed and kept by browsers; `/` leads there."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.adapters.conftest import running

from rejoinder.settings import Auth
from rejoinder_admin import pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adapters.conftest import LiveServer

PAGE = b"<!doctype html><title>Panel</title>" + b"<p>the same again</p>" * 50
SCRIPT = b"console.log('hello');" * 100
PICTURE = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    (folder / "assets").mkdir()
    (folder / "panel.html").write_bytes(PAGE)
    (folder / "client.js").write_bytes(SCRIPT)
    (folder / "secret.txt").write_text("not for anybody")
    for name in ("panel-x1.js", "tokens-x1.css", "icon-x1.svg", "panel-x1.js.map", ".hidden.js", "noend"):
        (folder / "assets" / name).write_bytes(PICTURE if name.endswith("svg") else SCRIPT)
    (folder / "assets" / "inter-x1.woff2").write_bytes(b"font")
    return folder


@pytest.fixture(scope="module")
def built(web: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "WEB", web)
        with running(tmp_path_factory.mktemp("db") / "x.db", {}, auth=Auth(mode="keys")) as live:
            yield live


def raw(server: LiveServer, path: str, **headers: str) -> httpx.Response:
    """Without `..` being resolved by the client."""
    request = httpx.Request("GET", server.http, headers={"accept-encoding": "identity", **headers})
    request.url = request.url.copy_with(raw_path=path.encode())
    with httpx.Client() as client:
        return client.send(request)


@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/login", "/admin/sessions/ses_x"])
def test_the_panel_is_the_same_page_everywhere_and_may_do_little(built: LiveServer, path: str) -> None:
    answer = raw(built, path)
    assert (answer.status_code, answer.content) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["permissions-policy"].startswith("microphone=(self)")
    directives = dict(one.split(" ", 1) for one in answer.headers["content-security-policy"].split("; "))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "font-src": "'self'",
        "connect-src": "'self'",
        "media-src": "'self' blob:",
        "worker-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    assert "set-cookie" not in answer.headers


def test_a_file_is_sent_compressed_and_kept(built: LiveServer) -> None:
    plain, packed = raw(built, "/client.js"), httpx.get(f"{built.http}/client.js", headers={"accept-encoding": "gzip"})
    assert plain.content == packed.content == SCRIPT
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) == len(gzip.compress(SCRIPT, 9, mtime=0)) < len(SCRIPT)
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
    assert plain.headers["etag"] != packed.headers["etag"]
    again = raw(built, "/client.js", **{"if-none-match": f'"x", W/{plain.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert raw(built, "/client.js", **{"accept-encoding": "gzip;q=0, br"}).content == SCRIPT
    assert "content-encoding" not in raw(built, "/client.js", **{"accept-encoding": "gzip;q=0"}).headers


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("panel-x1.js", "text/javascript; charset=utf-8"),
        ("tokens-x1.css", "text/css; charset=utf-8"),
        ("icon-x1.svg", "image/svg+xml"),
        ("inter-x1.woff2", "font/woff2"),
    ],
)
def test_an_asset_never_changes(built: LiveServer, name: str, kind: str) -> None:
    answer = raw(built, f"/ui/assets/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["etag"]


@pytest.mark.parametrize(
    "name",
    [
        "missing.js",
        "panel-x1.js.map",
        ".hidden.js",
        "noend",
        "..",
        "../client.js",
        "..%2fclient.js",
        "..%2f..%2fpages.py",
        "%2e%2e/client.js",
        "..%5cclient.js",
        "panel-x1.js%00",
        "",
    ],
)
def test_only_what_was_built_is_sent(built: LiveServer, name: str) -> None:
    assert raw(built, f"/ui/assets/{name}").status_code in (400, 404)
    assert raw(built, "/secret.txt").status_code == 404


def test_without_the_build_the_page_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "WEB", tmp_path / "none")
    with running(tmp_path / "x.db", {}, auth=Auth(mode="keys")) as server:
        answer = raw(server, "/admin")
        assert answer.status_code == 503
        assert b"make web" in answer.content
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert raw(server, "/client.js").status_code == 404
        assert raw(server, "/ui/assets/panel-x1.js").status_code == 404


def test_a_browser_at_the_root_is_led_to_the_panel(built: LiveServer) -> None:
    led = raw(built, "/", accept="text/html,application/xhtml+xml")
    assert (led.status_code, led.headers["location"]) == (307, "/admin")
    program = raw(built, "/", accept="*/*")
    assert (program.status_code, program.headers["location"]) == (307, "/docs")
