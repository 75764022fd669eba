"""Figures over many sessions: latency, the overview, and words in transcripts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import get
from litestar.params import FromQuery, QueryParameter

from rejoinder.app import Runtime
from rejoinder.errors import ProtocolError
from rejoinder.store.figures import Latency, Scope, latency
from rejoinder.store.history import FoundMessage, search
from rejoinder.store.overview import Overview, overview
from rejoinder_adapters.security import needs

DAY_MS = 86_400_000
_KINDS = ("vad", "stt", "llm", "tts")
"""Of providers that turns name."""
_LONGEST_MS = 90 * DAY_MS
_GRAIN_MS = 2000
"""Ranges up to now move on in steps of this, so that all who look at one get the same answer."""

Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Time = Annotated[int | None, QueryParameter(ge=0, le=2**53)]
Sought = Annotated[str, QueryParameter(name="q", min_length=2, max_length=200)]


class FoundList(msgspec.Struct):
    """Messages, newest first; `next_cursor` is the `before` of the next page, which there may be behind a short one."""

    items: list[FoundMessage]
    next_cursor: str | None


def range_of(now_ms: int, since: int | None, until: int | None) -> tuple[int, int]:
    """The range that is asked for, by default the 24 hours up to now; what is open moves on every 2 s.

    Raises:
        ProtocolError: it is empty, or longer than 90 days (`bad_range`).
    """
    if until is None:
        until = -(-now_ms // _GRAIN_MS) * _GRAIN_MS
        since = None if since is None else since // _GRAIN_MS * _GRAIN_MS
    if since is None:
        since = max(0, until - DAY_MS)
    if not 0 < until - since <= _LONGEST_MS:
        raise ProtocolError(
            "The range is empty." if since >= until else "The range is longer than 90 days.",
            code="bad_range",
            fix="Send since and until in Unix ms, at most 90 days apart.",
        )
    return since, until


def provider_of(text: str | None) -> tuple[str, str] | None:
    """The provider in `text`, as kind and name.

    Raises:
        ProtocolError: that is not how one is named (`bad_provider`).
    """
    if text is None:
        return None
    kind, _, name = text.partition(":")
    if kind not in _KINDS or not name:
        raise ProtocolError(
            f"{text[:80]!r} does not name a provider.",
            code="bad_provider",
            fix=f"Send KIND:NAME, for one llm:guide; kinds are {', '.join(_KINDS)}.",
        )
    return kind, name


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/latency`, `/v1/overview` and `/v1/transcripts`."""
    asking, reading = runtime.asking, [needs("read")]

    @get("/v1/latency", guards=reading)
    async def get_latency(
        since: Time = None,
        until: Time = None,
        agent: FromQuery[str | None] = None,
        provider: FromQuery[str | None] = None,
        group: FromQuery[Literal["agent", "stt", "llm", "tts", "version"] | None] = None,
    ) -> Latency:
        """How long users waited for answers: percentiles, over time, by stage and by group, and the slowest turns."""
        start, end = range_of(asking.now_ms, since, until)
        return await latency(asking, Scope(start, end, agent, provider_of(provider)), group)

    @get("/v1/overview", guards=reading)
    async def get_overview(since: Time = None, until: Time = None) -> Overview:
        """A range of time beside the one before it, and the last sessions that went badly."""
        return await overview(asking, *range_of(asking.now_ms, since, until))

    @get("/v1/transcripts", guards=reading)
    async def search_transcripts(
        sought: Sought,
        limit: Limit = 50,
        before: FromQuery[str | None] = None,
        agent: FromQuery[str | None] = None,
        since: Time = None,
        until: Time = None,
    ) -> FoundList:
        """What was said that holds the words `q`, in any case, newest first."""
        items, following = await search(asking, sought, limit, before=before, agent=agent, since=since, until=until)
        return FoundList(items, following)

    return [get_latency, get_overview, search_transcripts]
