"""http_get: what is allowed, what is never reached, redirects, limits, and what becomes of a page."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import certificate
from tests.linear import within

from rejoinder import netguard
from rejoinder.errors import ToolError
from rejoinder.netguard import permitted, resolve_host
from rejoinder.providers import ToolCall, ToolContext
from rejoinder.tools import run_tool
from rejoinder_plugins.tools import fetching
from rejoinder_plugins.tools.fetching import fetch
from rejoinder_plugins.tools.http_get import HttpGetSettings, http_get
from rejoinder_plugins.tools.readable import readable


class Site:
    """A web server of canned answers by path; keeps the head of each request."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | list[bytes | float]] = {}
        self.heads: list[str] = []
        self.port = 0

    def page(self, path: str, body: bytes, kind: str = "text/plain", status: str = "200 OK", extra: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        self.answers[path] = head.encode() + body

    def redirect(self, path: str, to: str) -> None:
        self.answers[path] = f"HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n".encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            answer = self.answers.get(head.split(" ")[1], b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            for piece in [answer] if isinstance(answer, bytes) else answer:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    writer.write(piece)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def headers(self, index: int = -1) -> dict[str, str]:
        lines = self.heads[index].split("\r\n")[1:-2]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@asynccontextmanager
async def site(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    served = Site()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    async with server:
        yield served


class Names:
    """A name server: each question is answered with the next of its answers, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def refused(url: str, settings: HttpGetSettings, *names: Sequence[str]) -> str:
    with pytest.raises(ToolError) as caught:
        asyncio.run(fetch(url, settings, Names(*names) if names else resolve_host))
    return caught.value.message


def test_nothing_is_allowed_until_the_settings_allow_it() -> None:
    async def main() -> None:
        call = ToolCall("c", "http_get", '{"url": "https://example.com/"}')
        result = await run_tool({"http_get": http_get}, call, ToolContext("ses_1"), 5.0)
        assert result.status == "failed"
        assert '[plugins.http_get] allow = ["api.example.com"]' in result.text

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://evil.com/", "evil.com is not allowed. Allowed: api.example.com, *.example.org, box:8080, müller.de."),
        ("https://example.com/", "not allowed"),
        ("https://example.org/", "not allowed"),
        ("https://api.example.com.evil.com/", "not allowed"),
        ("https://evilexample.org/", "not allowed"),
        ("https://api.example.com:8443/", "api.example.com:8443 is not allowed"),
        ("http://box/", "not allowed"),
        ("https://user:pass@api.example.com/", "user name or password"),
        ("https://api.example.com@evil.com/", "user name or password"),
        ("https://evil.com#@api.example.com/", "not allowed"),
        ("https://evil.com\\@api.example.com/", ""),
        ("ftp://api.example.com/", "must begin with https://"),
        ("file:///etc/passwd", "must begin with https://"),
        ("api.example.com/x", "must begin with https://"),
        ("https://", "must begin with https://"),
        ("https://api.example.com:99999/", "not allowed"),
        ("https://api.example.com:port/", "no address"),
        ("https://[::1/", "no address"),
        ("https://api.example.com/" + "x" * 3000, "longer than"),
        ("", "must begin with"),
    ],
)
def test_what_is_not_allowed_is_not_even_looked_up(url: str, told: str) -> None:
    names = Names(["127.0.0.1"])
    allow = ("api.example.com", "*.example.org", "box:8080", "müller.de")
    with pytest.raises(ToolError) as caught:
        asyncio.run(fetch(url, HttpGetSettings(allow), names))
    assert told in caught.value.message
    assert names.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/x",
        "http://API.example.com.:80/",
        "https://a.b.example.org",
        "http://box:8080/x",
        "https://MÜLLER.de/",
        "https://xn--mller-kva.de/",
    ],
)
def test_what_is_allowed_is_looked_up_once(url: str) -> None:
    names = Names([])
    allow = ("API.example.com", "*.example.org", "box:8080", "müller.de")
    with pytest.raises(ToolError, match="There is no host"):
        asyncio.run(fetch(url, HttpGetSettings(allow), names))
    assert len(names.asked) == 1


PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fd00::1",
    "fc00::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
]
NEVER = [
    "0.0.0.0",
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::a00:1",
    "192.0.0.8",
    "192.0.0.192",
    "::ffff:192.0.0.192",
    "64:ff9b::a83f:8110",
    "168.63.129.16",
    "100.100.100.200",
    "169.254.170.2",
    "fd00:ec2::254",
    "fec0::1",
    "feff::1",
    "64:ff9b:1::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:0:7f00:1::1",
    "not an address",
    "",
]


def test_which_addresses_may_be_connected_to() -> None:
    for address in ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"):
        assert permitted(address)
    for address in PRIVATE:
        assert not permitted(address), address
        assert permitted(address, private=True), address
    for address in NEVER:
        assert not permitted(address), address
        assert not permitted(address, private=True), address


@given(st.ip_addresses())
def test_nothing_that_is_not_global_is_permitted(address: Any) -> None:
    assert not permitted(str(address)) or (address.is_global and not address.is_multicast)


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER[:-2]])
def test_a_public_name_of_an_inner_address_is_refused(address: str) -> None:
    assert "no public address" in refused("http://api.example.com/", HttpGetSettings(("*.example.com",)), [address])


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("http://127.0.0.1:{port}/", ("127.0.0.1:{port}",)),
        ("http://2130706433/", ("*",)),
        ("http://localhost:{port}/", ("localhost:{port}",)),
    ],
)
def test_a_machine_s_own_services_are_not_reached_by_any_spelling(url: str, allow: tuple[str, ...]) -> None:
    async def main() -> None:
        async with site() as served:
            settings = HttpGetSettings(tuple(entry.format(port=served.port) for entry in allow))
            with pytest.raises(ToolError, match="no public address"):
                await fetch(url.format(port=served.port), settings)
            assert served.heads == []

    asyncio.run(main())


def test_private_services_are_reached_by_the_names_given_in_full() -> None:
    async def main() -> None:
        async with site() as served:
            served.page("/x?y=1", b"hello")
            names = Names(["127.0.0.1"])
            named = HttpGetSettings((f"box.internal:{served.port}",), allow_private=True)
            assert await fetch(f"http://box.internal:{served.port}/x?y=1#part", named, names) == "hello"
            assert names.asked == ["box.internal"]
            assert served.headers()["host"] == f"box.internal:{served.port}"
            assert served.headers()["user-agent"].startswith("rejoinder/")
            for entry in (f"*.internal:{served.port}", f"*:{served.port}"):
                with pytest.raises(ToolError, match="no public address"):
                    await fetch(
                        f"http://box.internal:{served.port}/", HttpGetSettings((entry,), allow_private=True), names
                    )
            assert len(served.heads) == 1

    asyncio.run(main())


def test_a_name_is_asked_for_once_so_a_second_answer_cannot_lead_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with site() as served:
            served.page("/", b"public")
            monkeypatch.setattr(netguard, "permitted", lambda address, private: address == "127.0.0.1")
            names = Names(["127.0.0.1"], ["169.254.169.254"])
            settings = HttpGetSettings((f"api.example.com:{served.port}",))
            assert await fetch(f"http://api.example.com:{served.port}/", settings, names) == "public"
            assert names.asked == ["api.example.com"]

    asyncio.run(main())


def test_of_mixed_addresses_only_the_public_ones_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def get(target: object, addresses: Sequence[str], *others: object) -> str:
        tried.extend(addresses)
        return "ok"

    monkeypatch.setattr(fetching, "_get", get)
    names = Names(["10.0.0.1", "93.184.216.34", "93.184.216.34", "::1", "2606:2800:220:1:248:1893:25c8:1946"])
    assert asyncio.run(fetch("https://api.example.com/", HttpGetSettings(("api.example.com",)), names)) == "ok"
    assert tried == ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]


def here(served: Site, *more: str, **fields: Any) -> HttpGetSettings:
    return HttpGetSettings((f"localhost:{served.port}", *more), allow_private=True, **fields)


def local(check: Callable[[Site, str], Any]) -> None:
    """Runs `check(site, its URL)`."""

    async def main() -> None:
        async with site() as served:
            await check(served, f"http://localhost:{served.port}")

    asyncio.run(main())


def test_the_next_address_is_tried_where_one_is_dead() -> None:
    async def check(served: Site, base: str) -> None:
        served.page("/", b"hello")
        names = Names(["::1", "127.0.0.1"])
        assert await fetch(base, here(served), names) == "hello"

    local(check)


def test_redirects_are_followed_and_each_is_checked() -> None:
    async def check(served: Site, base: str) -> None:
        served.page("/end", b"arrived")
        served.redirect("/3", "end")
        served.redirect("/2", f"{base}/3")
        served.redirect("/1", "/2")
        served.redirect("/0", "/1")
        assert await fetch(f"{base}/1", here(served)) == "arrived"
        with pytest.raises(ToolError, match="more than 3 redirects"):
            await fetch(f"{base}/0", here(served))
        for to, told in (
            ("https://evil.com/", "evil.com is not allowed"),
            (f"http://127.0.0.1:{served.port}/end", "is not allowed"),
            ("http://169.254.169.254/latest/meta-data", "is not allowed"),
            ("file:///etc/passwd", "must begin with"),
            ("http://u:p@localhost/", "user name or password"),
        ):
            served.redirect("/away", to)
            with pytest.raises(ToolError, match=told):
                await fetch(f"{base}/away", here(served))
        served.redirect("/away", "http://meta.example.com/")
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        with pytest.raises(ToolError, match="no public address"):
            await fetch(f"{base}/away", here(served, "meta.example.com"), names)
        assert names.asked == ["localhost", "meta.example.com"]

    local(check)


def test_answers_that_are_no_text_are_told_as_what_they_are() -> None:
    async def check(served: Site, base: str) -> None:
        served.page("/png", b"\x89PNG", "image/png")
        served.page("/zip", gzip.compress(b"0" * 1000), "text/plain", extra="content-encoding: gzip\r\n")
        served.page("/gone", b"", status="410 Gone")
        served.answers["/odd"] = b"HELLO\r\n\r\n"
        served.answers["/short"] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 50\r\n\r\nhel"
        for path, told in (
            ("/png", "This is image/png; only text can be read"),
            ("/zip", "compressed"),
            ("/gone", "localhost answered 410 Gone."),
            ("/none", "localhost answered 404 Not Found."),
            ("/odd", "did not answer properly"),
            ("/short", "broke off"),
        ):
            with pytest.raises(ToolError, match=told):
                await fetch(f"{base}{path}", here(served))
        with pytest.raises(ToolError, match="cannot be reached"):
            await fetch("http://localhost:1/", HttpGetSettings(("localhost:1",), allow_private=True))

    local(check)


def test_what_is_too_long_is_cut() -> None:
    async def check(served: Site, base: str) -> None:
        served.page("/long", b"x" * 5000)
        assert await fetch(f"{base}/long", here(served, max_chars=10)) == "x" * 10 + " [cut]"
        served.answers["/endless"] = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"y" * 65_536] * 4, 3600.0]
        assert await fetch(f"{base}/endless", here(served, max_bytes=1000)) == "y" * 1000 + " [cut]"

    local(check)


def test_what_is_too_slow_is_given_up() -> None:
    async def check(served: Site, base: str) -> None:
        drip: list[bytes | float] = [b"HTTP/1.1 200 OK\r\n\r\n"]
        served.answers["/drip"] = drip + [piece for _ in range(1000) for piece in (b"z", 0.05)]
        with pytest.raises(ToolError, match=r"longer than 0\.3 seconds"):
            await fetch(f"{base}/drip", here(served, timeout_s=0.3))

    local(check)


def test_the_environment_sends_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(served: Site, base: str) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        served.page("/", b"direct")
        assert await fetch(base, here(served)) == "direct"
        assert not {"authorization", "cookie"} & set(served.headers())

    local(check)


def test_text_json_and_pages_come_as_what_one_reads() -> None:
    async def check(served: Site, base: str) -> None:
        served.page("/json", b'{"a": [1]}', "application/problem+json")
        served.page("/latin", "Grüße".encode("latin-1"), "text/plain; charset=iso-8859-1")
        served.page("/odd", b"plain", "text/plain; charset=hex")
        served.page("/page", b"<title>T</title><p>Hello&amp;bye<script>no()</script>", "text/html")
        served.page("/empty", b" ")
        texts = [await fetch(f"{base}{path}", here(served)) for path in ("/json", "/latin", "/odd", "/page", "/empty")]
        assert texts == ['{"a": [1]}', "Grüße", "plain", "T\nHello&bye", "There is nothing to read at this address."]

    local(check)


def test_tls_asks_for_the_name_and_checks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_tls, trusting = certificate("box.internal", tmp_path)
    monkeypatch.setattr(fetching, "certificates", lambda: trusting)
    seen: list[str | None] = []
    server_tls.sni_callback = lambda sock, name, context: seen.append(name)

    async def main() -> None:
        async with site(server_tls) as served:
            served.page("/", b"over tls")
            allow = tuple(f"{host}:{served.port}" for host in ("box.internal", "other.internal"))
            settings = HttpGetSettings(allow, allow_private=True)
            names = Names(["127.0.0.1"])
            assert await fetch(f"https://box.internal:{served.port}/", settings, names) == "over tls"
            assert seen == ["box.internal"]
            with pytest.raises(ToolError, match="cannot be reached"):
                await fetch(f"https://other.internal:{served.port}/", settings, names)

    asyncio.run(main())


@pytest.mark.parametrize("entry", ["https://example.com", "example.com/x", "a@b.com", " ", "example.com:port"])
def test_an_entry_that_is_no_host_is_an_error_of_the_settings(entry: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"allow": [entry]}, HttpGetSettings)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two <b>bold</b></p>", "One\nTwo bold"),
        ("<ul><li>a<li>b</ul><ol><li></li></ol>", "- a\n- b"),
        ("<table><tr><th>x<th>y</tr><tr><td>1</td><td>2</td></tr></table>", "x | y\n1 | 2"),
        ("<head><title>T</title><style>p{}</style><meta></head><body>B", "T\nB"),
        ("<head><title>T</title><p>unclosed head", "T\nunclosed head"),
        ("<script>if (a < b) {'<p>'}</script>after", "after"),
        ("<div>a<br>b<br/>c<!-- no --></div>", "a\nb\nc"),
        ("a &lt;tag&gt; &eacute;&#33;", "a <tag> é!"),
        ("  many \n\n spaces\t here ", "many spaces here"),
        ("<svg><title>no</title><path/></svg>x", "x"),
        ("<p title='a>b' id=x>y</p><p don't>z</p>", "y\nz"),
        ("<script>'<!--'</SCRIPT >x<script src=a/>no", "x"),
        ("<![CDATA[no]]>a<?php no ?>b</ no>c<!--<p>-->d<a href=x>e", "abcde"),
        ("1 < 2 <3 <- &#" + "9" * 5000 + ";", "1 < 2 <3 <- &#" + "9" * 5000 + ";"),
        ("seen <b not finished", "seen"),
        ("<noscript><p>on</p></noscript>x</b></i></div>", "x"),
        ("", ""),
    ],
)
def test_a_page_is_reduced_to_what_one_reads(html: str, text: str) -> None:
    assert readable(html) == text


@given(st.text(alphabet="<>/!-abphead tile\"'=&;#", max_size=60))
def test_any_markup_gives_some_text(html: str) -> None:
    assert json.dumps(readable(html))


HOSTILE = (
    "<a ", "<", "</", "<!", "<!--", "<?", "<![", "<![<![", "<a b='", "<a b=\"", "<a/", "<a =", "<svg>", "</math>", "&",
    "&#", "&#1", "&amp", "</a ", "<script>", "</s", " \n", "\u00a0", "\n \u00a0", "<li>", "<td>", "<title>", "'", "='",
    "<p a='>'",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_page_keeps_a_thread_busy_for_long(piece: str) -> None:
    with within():
        for before in ("", "<script>", "<a b='", "<svg>" * 20_000):
            for after in ("", ">"):
                readable(before + piece * (200_000 // len(piece)) + after)


@given(st.lists(st.sampled_from([*HOSTILE, ">", "x", "/>", "-->", "]]>", "=1"]), max_size=20).map("".join))
def test_hostile_markup_gives_some_text(html: str) -> None:
    assert json.dumps(readable(html))


def test_a_page_and_a_name_wait_for_no_other_s_threads() -> None:
    going_on = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as busy:
            loop.set_default_executor(busy)
            loop.run_in_executor(None, going_on.wait)
            try:
                async with site() as served:
                    served.page("/", b"<p>One<p>Two", "text/html")
                    allow = HttpGetSettings((f"localhost:{served.port}",), allow_private=True)
                    async with asyncio.timeout(20):
                        assert await fetch(f"http://localhost:{served.port}/", allow) == "One\nTwo"
            finally:
                going_on.set()

    asyncio.run(main())
