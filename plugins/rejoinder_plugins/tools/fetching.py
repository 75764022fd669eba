"""Reads a URL for http_get: only hosts that are allowed, only addresses that were checked, only so much, only text."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from rejoinder import __version__
from rejoinder.errors import ConfigError, ToolError
from rejoinder.netguard import Resolve, Resolver, addresses_of
from rejoinder.outgoing import PORTS, Target, certificates
from rejoinder_plugins.tools.http_get import HttpGetSettings
from rejoinder_plugins.tools.readable import readable

MAX_REDIRECTS = 3
_HEADERS = {
    "user-agent": f"rejoinder/{__version__}",
    "accept": "text/html, application/json, text/*;q=0.9, */*;q=0.1",
    # So that what is read is bounded by what is sent.
    "accept-encoding": "identity",
}
_TEXTS = ("application/json", "application/xml", "application/javascript", "application/x-ndjson", "application/yaml")


async def fetch(url: str, settings: HttpGetSettings, resolve: Resolve | None = None) -> str:
    """The text at `url`, at most `settings.max_chars` of it.

    Each address on the way is checked against the settings. A name is resolved once and the connection is made to an
    address that was checked, so that a name server cannot give another one in between.

    Raises:
        ToolError: it is not allowed, not there, no text, or too slow; the message says which.
    """
    if not settings.allow:
        raise ToolError(
            "No address may be read: no hosts are allowed. Who runs this agent can allow some in the settings: "
            '[plugins.http_get] allow = ["api.example.com"].'
        )
    resolve = _names() if resolve is None else resolve
    tls = await asyncio.get_running_loop().run_in_executor(_threads(), certificates)
    try:
        async with asyncio.timeout(settings.timeout_s):
            allowed = _Allowed.of(url, settings)
            for _ in range(MAX_REDIRECTS + 1):
                target = allowed.target
                answer = await _get(target, await _addresses(allowed, resolve), settings, tls)
                if isinstance(answer, str):
                    break
                if target.url.scheme == "https" and answer.scheme == "http":
                    raise ToolError(f"{target.host} redirects from https to http; that is not followed.")
                allowed = _Allowed.of(str(answer), settings)
            else:
                raise ToolError(f"There were more than {MAX_REDIRECTS} redirects.")
    except TimeoutError:
        raise ToolError(f"It took longer than {settings.timeout_s:g} seconds.") from None
    answer = answer.strip() or "There is nothing to read at this address."
    return answer if len(answer) <= settings.max_chars else answer[: settings.max_chars] + " [cut]"


class _Allowed(NamedTuple):
    """What may be read; `private`: it may have a private address."""

    target: Target
    private: bool

    @classmethod
    def of(cls, text: str, settings: HttpGetSettings) -> _Allowed:
        """Raises ToolError where `text` may not be read."""
        try:
            target = Target.of(text)
        except ConfigError as error:
            raise ToolError(error.message) from None
        url, host, port = target
        matching = [entry for entry in settings.allow if _matches(entry, host, port, url.scheme)]
        if not matching:
            shown = host if url.port is None else f"{host}:{url.port}"
            raise ToolError(f"{shown} is not allowed. Allowed: {', '.join(settings.allow)}.")
        named = any("*" not in entry for entry in matching)
        return cls(target, settings.allow_private and named)


def _matches(entry: str, host: str, port: int, scheme: str) -> bool:
    parts = urlsplit(f"//{entry.strip().lower()}")
    if port != (parts.port or PORTS[scheme]):
        return False
    pattern = (parts.hostname or "").rstrip(".")
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return host.endswith("." + _ascii(pattern[2:]))
    return host == _ascii(pattern)


def _ascii(host: str) -> str:
    """As it is sent: `xn--...` for names in other letters."""
    return host if host.isascii() else httpx.URL(f"http://{host}").raw_host.decode("ascii")


async def _addresses(allowed: _Allowed, resolve: Resolve) -> list[str]:
    target = allowed.target
    try:
        return await addresses_of(target.host, target.port, private=allowed.private, resolve=resolve)
    except ConfigError as error:
        if error.code == "unknown_host":
            raise ToolError(f"There is no host {target.host}.") from None
        raise ToolError(f"{target.host} has no public address; private ones are not read.") from None


async def _get(
    target: Target, addresses: Sequence[str], settings: HttpGetSettings, tls: ssl.SSLContext
) -> str | httpx.URL:
    """The text of the answer, or where it redirects to."""
    failure = ""
    # Without the environment: no proxy, no .netrc.
    async with httpx.AsyncClient(verify=tls, trust_env=False, timeout=settings.timeout_s) as client:
        for address in addresses:
            request = target.request("GET", address, _HEADERS, timeout_s=settings.timeout_s)
            try:
                response = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = str(error)
                continue
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
                raise ToolError(f"{target.host} did not answer properly ({why}).") from None
            try:
                return await _read(target, response, settings)
            except httpx.HTTPError as error:
                raise ToolError(f"{target.host} broke off ({str(error) or type(error).__name__}).") from None
            finally:
                await response.aclose()
    raise ToolError(f"{target.host} cannot be reached ({failure or 'no connection'}).")


async def _read(target: Target, response: httpx.Response, settings: HttpGetSettings) -> str | httpx.URL:
    if response.is_redirect:
        try:
            return target.url.join(response.headers["location"])
        except (httpx.InvalidURL, ValueError):
            raise ToolError(f"{target.host} redirects to something that is no address.") from None
    if not response.is_success:
        raise ToolError(f"{target.host} answered {response.status_code} {response.reason_phrase}".rstrip() + ".")
    kind = response.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    html = kind in ("text/html", "application/xhtml+xml")
    if not (html or kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml"))):
        raise ToolError(f"This is {kind[:80]}; only text can be read.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ToolError(f"{target.host} sends it compressed, although it was asked not to.")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > settings.max_bytes:
            break
    cut = len(body) > settings.max_bytes
    try:
        text = bytes(body[: settings.max_bytes]).decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:
        text = bytes(body[: settings.max_bytes]).decode("utf-8", "replace")
    if html:
        text = await asyncio.get_running_loop().run_in_executor(_threads(), readable, text)
    return f"{text} [cut]" if cut else text


# Threads of their own: slow pages and names keep nobody else waiting, nor does anybody else them.
@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="http-get")


@functools.cache
def _names() -> Resolver:
    return Resolver()
