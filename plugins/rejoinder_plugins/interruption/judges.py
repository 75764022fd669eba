"""The judges `echo` and `words`: the agent's own voice, and what people say without meaning to stop."""

from __future__ import annotations

from collections.abc import Iterable

from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Judgement, Overlap, Provider, ProviderContext


class Words:
    """See `rejoinder.providers.InterruptionJudge`."""

    def __init__(self, context: ProviderContext) -> None:
        pass

    async def warm_up(self) -> None:
        """Nothing to load."""

    def judge(self, overlap: Overlap) -> Judgement | None:
        """Stop for any words."""
        if overlap.text and len(overlap.text.split()) >= overlap.min_words:
            return Judgement(stop=True, cause="words")
        return None

    async def close(self) -> None:
        """Nothing to free."""


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `echo` and `words`."""
    return [
        Provider("interruption", "echo", "Knows the agent's own voice", Words),
        Provider("interruption", "words", "Backchannels do not stop the agent, stop words always do", Words),
    ]
