"""Chains of providers: the next one is asked when the one before it fails or is late, and that is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from rejoinder.providers import LlmDelta, LlmProvider, LlmRequest, Prefilling, SttProvider, SttStream
from rejoinder.settings import Deadlines
from rejoinder.stages.punctual import punctual

Switched = Callable[[str, str, str, str], None]
"""`switched(kind, provider, to, cause)`: `provider` failed or was late (`cause` is the error's code), so `to` is asked;
`to` is "" where there is no other."""


class LlmChain:
    """One session's language models, by name, in the order in which they are asked."""

    def __init__(self, providers: Mapping[str, LlmProvider], deadlines: Deadlines, switched: Switched) -> None:
        self._providers = providers
        self._deadlines = deadlines
        self._switched = switched
        self.used = next(iter(providers))
        """The one that answered last."""

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """See `LlmProvider.stream`."""
        name, provider = next(iter(self._providers.items()))
        async with aclosing(punctual(provider.stream(request), self._deadlines.first_token_ms / 1000, name)) as deltas:
            async for delta in deltas:
                yield delta

    async def prefill(self, request: LlmRequest) -> None:
        """See `Prefilling`."""
        provider = next(iter(self._providers.values()))
        if isinstance(provider, Prefilling):
            await provider.prefill(request)


class SttChain:
    """One session's recognisers, by name, in the order in which they are asked."""

    def __init__(self, providers: Mapping[str, SttProvider], deadlines: Deadlines, switched: Switched) -> None:
        self._providers = providers
        self.used = next(iter(providers))

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> SttStream:
        """See `SttProvider.open`."""
        return self._providers[self.used].open(language=language, on_partial=on_partial)
