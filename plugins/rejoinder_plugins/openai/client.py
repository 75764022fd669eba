"""What the three providers share: settings, the SDK's client, deadlines, and its errors as ours."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from rejoinder.errors import ConfigError, MissingDependency, ProviderError, ProviderRejected, ProviderTimeout
from rejoinder.providers import Secret

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

NAME = "openai"
OFFICIAL_URL = "https://api.openai.com/v1"
T = TypeVar("T")

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class OpenAISettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the server is and what to ask of it; one for all three kinds. Times in seconds."""

    base_url: str = OFFICIAL_URL
    """With the version, e.g. `http://127.0.0.1:11434/v1`."""
    api_key: Secret | None = None
    """None takes `OPENAI_API_KEY`; a server of your own usually needs none."""
    llm_model: str = "gpt-4.1-mini"
    stt_model: str = "gpt-transcribe"
    tts_model: str = "gpt-4o-mini-tts"
    voice: str = "alloy"
    """For agents that name none."""
    tts_rate: int = 24_000
    """Hz of the PCM the server sends."""
    send_temperature: bool = True
    """Reasoning models reject it: switch it off for them."""
    connect_timeout_s: Seconds = 5.0
    first_token_timeout_s: Seconds = 15.0
    """From the request to the first text, tool call or audio."""
    total_timeout_s: Seconds = 60.0
    """Of waiting for the server, per request; time the reader takes does not count."""
    max_retries: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    """Of requests to the LLM that failed before their first token."""
    stt_max_s: Seconds = 300.0
    """Of audio per utterance; what is older is forgotten."""


def place(settings: OpenAISettings) -> str:
    """The server's name for people: clients see it in errors, and a base_url may hold a password or a key."""
    url = urlsplit(settings.base_url)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


class Connection:
    """One SDK client, made on first use and closed once."""

    def __init__(self, settings: OpenAISettings) -> None:
        self.settings = settings
        self._client: AsyncOpenAI | None = None
        self._closed = False

    async def warm_up(self) -> None:
        """Import the SDK (about a second) off the event loop and make the client; nothing is sent yet.

        Raises:
            MissingDependency: the SDK is not installed.
            ConfigError: OpenAI's own server is meant and there is no key (`missing_api_key`).
        """
        await asyncio.to_thread(_import_sdk)
        self.client()

    def client(self) -> AsyncOpenAI:
        """The client.

        Raises:
            MissingDependency, ConfigError: as `warm_up`.
            ProviderError: the provider is closed.
        """
        if self._closed:
            raise ProviderError(NAME, "the provider is closed", retryable=False)
        if self._client is None:
            _import_sdk()
            import openai

            settings = self.settings
            key = settings.api_key or os.environ.get("OPENAI_API_KEY")
            if not key and settings.base_url.rstrip("/") == OFFICIAL_URL:
                raise ConfigError(
                    "The openai provider has no API key.",
                    code="missing_api_key",
                    fix="Set OPENAI_API_KEY, or base_url in [plugins.openai] to a server that needs no key.",
                )
            self._client = openai.AsyncOpenAI(
                base_url=settings.base_url,
                api_key=key or "none",
                max_retries=0,
                timeout=openai.Timeout(settings.total_timeout_s, connect=settings.connect_timeout_s),
                http_client=_http_client(),
            )
        return self._client

    async def close(self) -> None:
        """Close the client and its connections."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def deadline(self) -> Deadline:
        """The time one request has."""
        return Deadline(self.settings.first_token_timeout_s, self.settings.total_timeout_s)

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Raise what the SDK raises inside as a `ProviderError`; `what` names the setting of the model in use."""
        import httpx2  # what the SDK sends with; it lets its errors through while a body is read
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            raise _of_status(error, what, self.settings) from error
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            raise ProviderTimeout(NAME, f"{place(self.settings)} did not answer in time") from error
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            cause = error.__cause__ or error
            raise ProviderError(
                NAME,
                f"the connection to {place(self.settings)} failed ({type(cause).__name__}: {cause})",
                code="provider_unreachable",
                fix="Check that the server runs, and base_url in [plugins.openai].",
            ) from error
        except openai.APIError as error:
            raise ProviderError(NAME, f"the server reported an error: {_short(error.message)}") from error
        except UnicodeError as error:
            raise ProviderError(NAME, f"the server sent broken text ({error})") from error
        except ValueError as error:  # the SDK lets the errors of its JSON parser through
            raise ProviderError(NAME, f"the server sent something that is no JSON ({error})") from error


class Deadline:
    """Limits the waiting for a server: until its first output, and in all. Time between waits does not count."""

    def __init__(self, first_s: float, total_s: float) -> None:
        self._first_s = first_s
        self._total_s = total_s
        self._waited_s = 0.0
        self.started = False
        """Set by the user of the deadline at the first output."""

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """The result of `awaitable`.

        Raises:
            ProviderTimeout: the time is up.
        """
        limit = self._total_s if self.started else min(self._first_s, self._total_s)
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit - self._waited_s) as scope:
                return await awaitable
        except TimeoutError as error:
            if not scope.expired():
                raise
            stage = "finish" if self.started else "begin"
            raise ProviderTimeout(NAME, f"the server did not {stage} its answer within {limit:g} s") from error
        finally:
            self._waited_s += time.monotonic() - began


def _import_sdk() -> None:
    try:
        import openai  # noqa: F401
    except ImportError:
        raise MissingDependency(NAME, "openai", "openai") from None


def _http_client() -> Any:
    """The SDK's own HTTP client, but a connection that was kept and turns out to be closed is not an error.

    Some servers close it after each streamed answer although they said they would not (llama.cpp's does); the request
    after a tool's result comes so soon that it meets that. Nothing of it was answered, so it is sent once more.
    """
    import httpx2
    import openai

    class Client(openai.DefaultAsyncHttpxClient):
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            connected = False

            async def trace(event: str, info: Any) -> None:
                nonlocal connected
                connected = connected or event.startswith("connection.connect_")

            request.extensions = {**request.extensions, "trace": trace}
            try:
                return await super().send(request, **options)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                if connected:
                    raise
            return await super().send(request, **options)

    return Client()


def _of_status(error: APIStatusError, what: str, settings: OpenAISettings) -> ProviderError:
    status, message = error.status_code, _short(error.message)
    after = _retry_after_s(error.response.headers.get("retry-after"))
    if status in (401, 403):
        return ProviderRejected(
            NAME,
            f"{place(settings)} refused the API key ({status}): {message}",
            code="provider_unauthorized",
            fix="Set api_key in [plugins.openai], or OPENAI_API_KEY.",
        )
    if status == 429:
        again = "" if after is None else f"; it asks to retry after {after:g} s"
        text = f"the server limits the rate{again}: {message}"
        return ProviderError(NAME, text, code="provider_rate_limited", retry_after_s=after)
    if status == 404:
        return ProviderRejected(
            NAME,
            f"{place(settings)} knows no such model or path ({getattr(settings, what)!r}): {message}",
            fix=f"Check {what} and base_url in [plugins.openai].",
        )
    if status >= 500 or status in (408, 409):
        return ProviderError(NAME, f"the server failed ({status}): {message}", retry_after_s=after)
    return ProviderRejected(NAME, f"the server refused the request ({status}): {message}")


def _retry_after_s(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header (RFC 9110, 10.2.3: seconds or a date) asks for, if any."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        # A date without a zone is in UTC: HTTP knows no other.
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = math.ceil((at - datetime.now(UTC)).total_seconds())
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"
