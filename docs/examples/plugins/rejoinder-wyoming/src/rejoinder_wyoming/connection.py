"""One connection to a Wyoming server: every wait has an end, and whatever goes wrong is a ProviderError."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rejoinder.errors import ConfigError, ProviderError, ProviderTimeout
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_read_event, async_write_event
from wyoming.info import Describe, Info

from rejoinder_wyoming import NAME, Settings

T = TypeVar("T")
LINE_BYTES = 1 << 20
"""An old server sends all that it can do in one line."""


class Address:
    """Where a server is, and how long it is waited for."""

    def __init__(self, uri: str, setting: str, settings: Settings) -> None:
        self._uri = uri
        self._setting = setting
        self._connect_s = settings.connect_timeout_ms / 1000
        self._reply_s = settings.reply_timeout_ms / 1000

    def check(self) -> None:
        """Whether it is one.

        Raises:
            ConfigError: it is not.
        """
        try:
            parts = urlsplit(self._uri)
            good = bool(
                (parts.scheme == "tcp" and parts.hostname and parts.port) or (parts.scheme == "unix" and parts.path)
            )
        except ValueError:
            good = False
        if not good:
            problem = f"{self._uri!r} is no address of a Wyoming server" if self._uri else "the address is not set"
            variable = f"REJOINDER_PLUGINS__WYOMING__{self._setting.upper()}"
            raise ConfigError(f"{NAME}: {problem}.", fix=f"Set {variable} to tcp://HOST:PORT or unix:///PATH.")

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Connection, None]:
        """A connection, closed at the end without waiting for the server.

        Raises:
            ConfigError: the address is none.
            ProviderTimeout: it was not made in time.
            ProviderError: the server is not there.
        """
        self.check()
        parts = urlsplit(self._uri)
        try:
            async with asyncio.timeout(self._connect_s):
                if parts.scheme == "unix":
                    reader, writer = await asyncio.open_unix_connection(parts.path, limit=LINE_BYTES)
                else:
                    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=LINE_BYTES)
        except TimeoutError:
            raise ProviderTimeout(NAME, f"the server did not answer within {self._connect_s:g} s") from None
        except OSError as error:
            raise ProviderError(
                NAME,
                f"the server of {self._setting} cannot be reached: {error.strerror or error}",
                code="unreachable",
                fix="Start it, or correct the address.",
            ) from error
        try:
            yield Connection(reader, writer, self._reply_s)
        finally:
            if writer.transport.get_write_buffer_size():
                # Not wanted any more, and `close` would wait until it is sent.
                writer.transport.abort()
            else:
                writer.close()

    async def in_time(self, work: Awaitable[T]) -> T:
        """The result of `work`, which waits for the server.

        Raises:
            ProviderTimeout: it took too long.
        """
        try:
            async with asyncio.timeout(self._reply_s):
                return await work
        except TimeoutError:
            raise ProviderTimeout(NAME, f"the server has said nothing for {self._reply_s:g} s") from None

    async def info(self) -> Info:
        """What the server can do.

        Raises:
            ProviderError: it does not say.
        """
        async with self.connect() as connection:
            await connection.send(Describe())
            while True:
                event = await connection.receive()
                if Info.is_type(event.type):
                    try:
                        return Info.from_event(event)
                    except Exception as error:
                        raise ProviderError(NAME, f"the server's description is wrong: {error!r}") from error


class Connection:
    """Events out and in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._reply_s = reply_s

    async def send(self, event: Eventable) -> None:
        """Send an event; waits while the server does not take what was sent.

        Raises:
            ProviderTimeout: for too long.
            ProviderError: the connection broke.
        """
        try:
            async with asyncio.timeout(self._reply_s):
                await async_write_event(event.event(), self._writer)
        except TimeoutError:
            raise ProviderTimeout(NAME, f"the server has taken nothing for {self._reply_s:g} s") from None
        except OSError as error:
            raise ProviderError(NAME, f"the connection broke: {error.strerror or error}") from error

    async def receive(self, *, patient: bool = False) -> Event:
        """The next event; `patient`: however long it takes.

        Raises:
            ProviderTimeout: none came in time.
            ProviderError: the connection broke, or the server says that it has failed.
        """
        try:
            async with asyncio.timeout(None if patient else self._reply_s):
                event = await async_read_event(self._reader)
        except TimeoutError:
            raise ProviderTimeout(NAME, f"the server has said nothing for {self._reply_s:g} s") from None
        except (OSError, EOFError) as error:
            raise ProviderError(NAME, f"the connection broke: {error}") from error
        except Exception as error:
            raise ProviderError(NAME, f"the server does not speak Wyoming: {error!r}", retryable=False) from error
        if event is None:
            raise ProviderError(NAME, "the server has closed the connection")
        if Error.is_type(event.type):
            raise ProviderError(NAME, f"the server failed: {event.data.get('text', 'it does not say why')}")
        return event


def checked(kind: type[Any], event: Event) -> Any:
    """The event of that kind.

    Raises:
        ProviderError: something in it is missing or wrong.
    """
    try:
        return kind.from_event(event)
    except Exception as error:
        raise ProviderError(NAME, f"the server sent a broken {event.type!r}: {error!r}") from error


def speaks(languages: Iterable[str], wanted: str) -> bool:
    """Whether one of a server's `languages` (`en`, `en_US`, `en-us`) will do for an agent's."""
    own = [language.lower().replace("_", "-") for language in languages]
    tag = wanted.lower().replace("_", "-")
    primary = tag.partition("-")[0]
    return any(one == tag or one.partition("-")[0] == primary for one in own)
