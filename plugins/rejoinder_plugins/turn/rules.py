"""The turn detector `rules`: reads in the transcript whether a sentence is finished."""

from __future__ import annotations

from collections.abc import Iterable

from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Provider, ProviderContext, TurnSoFar

NAME = "rules"


class Rules:
    """See `rejoinder.providers.TurnDetector`."""

    wants_text = True

    def __init__(self, context: ProviderContext) -> None:
        pass

    async def warm_up(self) -> None:
        """Nothing to load."""

    async def judge(self, turn: TurnSoFar) -> float | None:
        """No opinion."""
        return None

    async def close(self) -> None:
        """Nothing to free."""


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `rules`."""
    return [Provider("turn", NAME, "Rules on the transcript: unfinished phrases, dictated digits", Rules)]
