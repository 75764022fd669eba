"""Posts a webhook's message: signed (Standard Webhooks), only to permitted addresses, only for so long."""

from __future__ import annotations

import asyncio
import email.utils
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import httpx
from standardwebhooks import Webhook

from rejoinder import __version__
from rejoinder.errors import ConfigError
from rejoinder.netguard import Resolve, addresses_of, resolve_host
from rejoinder.outgoing import Target, certificates

_MAX_ANSWER = 16_384
"""Of an answer's body no more than this is read, and none of it is kept."""
_ANSWER_S = 1.0
"""Nor for longer than this."""


class Answer(NamedTuple):
    """What the receiver said; `retry_after_s` is how long it asked to be left alone, if it did."""

    status: int
    retry_after_s: float | None


class PostError(Exception):
    """The message did not get there; the text says why."""


async def check_url(url: str, *, private: bool, resolve: Resolve = resolve_host) -> str:
    """`url`, if messages may be posted to it now.

    Raises:
        ConfigError: it is no address of a web server (`bad_url`), there is no such host (`unknown_host`), or it is in a
            network that is not reached (`address_refused`).
    """
    target = Target.of(url)
    await _addresses(target, private, resolve)
    return str(target.url)


def headers_of(message_id: str, secrets: Sequence[str], at_ms: int, body: str) -> dict[str, str]:
    """Which message it is, when it was sent (`at_ms`, Unix ms) and, for each secret, a signature."""
    at = datetime.fromtimestamp(at_ms // 1000, tz=UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, body) for secret in secrets),
        "content-type": "application/json",
        "user-agent": f"rejoinder/{__version__}",
    }


class Poster:
    """Posts messages, each over a connection of its own; `close()` it on the loop it was used on.

    With `private` they may go to this machine and to private networks. `timeout_s` is for all of a message.
    """

    def __init__(self, *, private: bool, resolve: Resolve, timeout_s: float) -> None:
        self._private = private
        self._resolve = resolve
        self._timeout_s = timeout_s
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def post(self, url: str, headers: dict[str, str], body: str) -> Answer:
        """Post `body` to `url`; redirects are not followed.

        The name is resolved once, and the connection is made to an address that was checked.

        Raises:
            PostError: it could not be sent, or nobody answered.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                target = Target.of(url)
                addresses = await _addresses(target, self._private, self._resolve)
                if self._transport is None:
                    # Without the environment: no proxy. No connection is kept: two names may share an address.
                    self._transport = httpx.AsyncHTTPTransport(
                        verify=await asyncio.to_thread(certificates),
                        trust_env=False,
                        limits=httpx.Limits(max_keepalive_connections=0),
                    )
                return await _send(self._transport, target, addresses, headers, body.encode(), self._timeout_s)
        except TimeoutError:
            raise PostError(f"No answer within {self._timeout_s:g} s.") from None
        except ConfigError as error:
            raise PostError(error.message) from None

    async def close(self) -> None:
        """Close what is open. Idempotent."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()


async def _addresses(target: Target, private: bool, resolve: Resolve) -> list[str]:
    try:
        return await addresses_of(target.host, target.port, private=private, resolve=resolve)
    except ConfigError as error:
        if error.code == "address_refused" and not private:
            raise ConfigError(
                f"{target.host!r} is in a private network (or on this machine); messages are not sent there.",
                code="address_refused",
                fix="Set allow_private = true in [webhooks] of the settings.",
            ) from None
        raise


async def _send(
    transport: httpx.AsyncHTTPTransport,
    target: Target,
    addresses: Sequence[str],
    headers: dict[str, str],
    body: bytes,
    timeout_s: float,
) -> Answer:
    failure = ""
    for address in addresses:
        closing = {**headers, "connection": "close"}
        request = target.request("POST", address, closing, timeout_s=timeout_s, body=body)
        try:
            response = await transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = str(error)
            continue
        except httpx.HTTPError as error:
            raise PostError(f"No proper answer ({error or type(error).__name__}).") from None
        try:
            await _drain(response)
            return Answer(response.status_code, _retry_after(response.headers.get("retry-after")))
        finally:
            await response.aclose()
    raise PostError(f"Cannot connect ({failure or 'no connection'}).")


async def _drain(response: httpx.Response) -> None:
    """Read the body, so that the receiver gets rid of it; the status has been told, whatever becomes of this."""
    size = 0
    try:
        async with asyncio.timeout(_ANSWER_S):
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > _MAX_ANSWER:
                    return
    except (TimeoutError, httpx.HTTPError):
        return


def _retry_after(text: str | None) -> float | None:
    """Seconds, of a number of them or of a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
