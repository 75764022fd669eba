"""Chains of providers: the next one is asked when the one before it fails or is late, and that is told."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from rejoinder.audio import ENGINE_RATE, byte_count
from rejoinder.breaker import Breaker
from rejoinder.channel import Channel
from rejoinder.errors import ProviderError, ProviderTimeout, RejoinderError
from rejoinder.guard import FAULTS, failure_of, let_go, wrong_type
from rejoinder.providers import LlmDelta, LlmProvider, LlmRequest, Prefilling, SttProvider, SttStream, ToolCall
from rejoinder.settings import Deadlines
from rejoinder.stages.punctual import CLOSE_S, Closing, within

log = logging.getLogger(__name__)

Switched = Callable[[str, str, str, str], None]
"""`switched(kind, provider, to, cause)`: `provider` failed or was late (`cause` is the error's code), so `to` is asked;
`to` is "" where there is no other."""

KEPT_AUDIO = byte_count(60_000, ENGINE_RATE)
"""Bytes of an utterance, the newest, that are kept for the next recogniser."""


def cause_of(error: BaseException) -> str:
    """The code by which metrics name `error`."""
    return error.code if isinstance(error, RejoinderError) else ProviderError.code


def log_failure(kind: str, name: str, to: str, error: BaseException) -> None:
    """Write down why `name` was left: a line for what providers are expected to raise, a traceback for the rest."""
    then = f"{to} is asked" if to else "there is no other"
    known = isinstance(error, RejoinderError)
    text = error.explain() if isinstance(error, RejoinderError) else repr(error)
    log.warning("%s %s failed, %s: %s", kind, name, then, text, exc_info=None if known else error)


# --- language models ------------------------------------------------------------------------------------------


class LlmChain:
    """One session's language models, by name, in the order in which they are asked.

    Each has `deadlines.first_token_ms` for its first piece of text (other than white space) or tool call. Who answers
    goes on to the end: what was said cannot be taken back, so there is no switching after the first piece.
    """

    def __init__(
        self,
        providers: Mapping[str, LlmProvider],
        deadlines: Deadlines,
        switched: Switched,
        breaker: Breaker | None = None,
    ) -> None:
        self._providers = providers
        self._limit_s = deadlines.first_token_ms / 1000
        self._hedge = deadlines.hedge and len(providers) > 1
        self._switched = switched
        self._breaker = breaker or Breaker()
        self.used = next(iter(providers))
        """The one that answered last."""

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """The answer of the first that gives one. Closing the generator closes the providers' at once.

        Silence is a failure (`empty_reply`), except after tool results where something was said before the calls or
        there is nobody else to ask.

        Raises (while iterating):
            ProviderTimeout: the last one did not begin in time, or the one that answers did not go on.
            ProviderError: the last one failed, or the one that answers did.
        """
        order = self._breaker.order("llm", self._providers)
        async with aclosing(self._race(order, request) if self._hedge else self._in_turn(order, request)) as deltas:
            async for delta in deltas:
                yield delta

    async def prefill(self, request: LlmRequest) -> None:
        """See `Prefilling`; for the one that will be asked first, if it can."""
        name = self._breaker.order("llm", self._providers)[0]
        provider = self._providers[name]
        if isinstance(provider, Prefilling):
            try:
                await provider.prefill(request)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it only saves time, the request itself will tell
                log.warning("%s could not prefill: %r", name, error)

    async def _in_turn(self, order: list[str], request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        for name, to in zip(order, [*order[1:], ""], strict=True):
            self._breaker.asked("llm", name)
            async with Closing(_stream(self._providers[name], request, name), name) as stream:
                try:
                    first = await within(_first(stream), self._limit_s, name)
                    if first is None:
                        if _may_be_silent(request, to):
                            return
                        raise _nothing(name)
                except Exception as error:
                    self._failed(name, to, error)
                    if not to:
                        raise
                    continue
                async with aclosing(self._answer(name, first, stream)) as deltas:
                    async for delta in deltas:
                        yield delta
                return

    async def _race(self, order: list[str], request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        """Each is asked when the one before it fails or is late, but a late one stays in the race."""
        loop = asyncio.get_running_loop()
        waiting = deque(order)
        pumps: list[_Pump] = []
        running: list[_Pump] = []
        failure: Exception | None = None
        # `due`: the newest has failed or is late (and that was told), or nobody was asked yet.
        due, ends = True, 0.0
        try:
            while True:
                if due and waiting:
                    name = waiting.popleft()
                    self._breaker.asked("llm", name)
                    newest = _Pump(name, _stream(self._providers[name], request, name))
                    pumps.append(newest)
                    running.append(newest)
                    due, ends = False, loop.time() + self._limit_s
                elif failure is not None and (not running or loop.time() >= ends):
                    raise failure
                await asyncio.wait(
                    [pump.first for pump in running],
                    timeout=max(0.0, ends - loop.time()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for pump in [pump for pump in running if pump.first.done()]:
                    others = [*waiting, *(other.name for other in running if other is not pump)]
                    to = others[0] if others else ""
                    outcome = pump.first.result()
                    if outcome is None:
                        if _may_be_silent(request, to):
                            return
                        outcome = _nothing(pump.name)
                    if not isinstance(outcome, Exception):
                        for other in running:
                            if other is not pump:
                                other.cancel()
                        async with (
                            aclosing(pump.rest()) as rest,
                            aclosing(self._answer(pump.name, outcome, rest)) as deltas,
                        ):
                            async for delta in deltas:
                                yield delta
                        return
                    running.remove(pump)
                    if pump is newest and not due:
                        failure, due = outcome, True
                        self._failed(pump.name, to, outcome)
                if not due and loop.time() >= ends:
                    failure, due = ProviderTimeout(newest.name, f"nothing came for {self._limit_s:g} seconds"), True
                    self._failed(newest.name, waiting[0] if waiting else "", failure)
        finally:
            await let_go((pump.task for pump in pumps), 2 * CLOSE_S)

    async def _answer(
        self, name: str, first: LlmDelta, rest: AsyncGenerator[LlmDelta, None]
    ) -> AsyncGenerator[LlmDelta, None]:
        self.used = name
        try:
            yield first
            while True:
                try:
                    delta = await within(anext(rest), self._limit_s, name)
                except StopAsyncIteration:
                    break
                yield delta
        except Exception as error:
            self._failed(name, "", error)
            raise
        except BaseException:
            # The reader has enough; that is no fault of the provider.
            self._breaker.worked("llm", name)
            raise
        self._breaker.worked("llm", name)

    def _failed(self, name: str, to: str, error: Exception) -> None:
        self._breaker.failed("llm", name, error)
        log_failure("llm", name, to, error)
        self._switched("llm", name, to, cause_of(error))


class _Pump:
    """Runs one provider's stream in a task of its own, so that it can race with others."""

    def __init__(self, name: str, stream: AsyncGenerator[LlmDelta, None]) -> None:
        self.name = name
        self.first: asyncio.Future[LlmDelta | Exception | None] = asyncio.get_running_loop().create_future()
        """The first piece, None for an answer without any, or what went wrong before it."""
        self._rest: Channel[LlmDelta] = Channel(1)
        self._error: Exception | None = None
        self.task = asyncio.create_task(self._run(stream), name=f"llm {name}")

    async def _run(self, stream: AsyncGenerator[LlmDelta, None]) -> None:
        try:
            async with Closing(stream, self.name):
                first = await within(_first(stream), None, self.name)
                self.first.set_result(first)
                while first is not None:
                    try:
                        delta = await within(anext(stream), None, self.name)
                    except StopAsyncIteration:
                        break
                    await self._rest.send(delta)
        except Exception as error:  # noqa: BLE001 - handed to the reader
            if self.first.done():
                self._error = error
            else:
                self.first.set_result(error)
        finally:
            self._rest.close()

    async def rest(self) -> AsyncGenerator[LlmDelta, None]:
        """What follows the first piece."""
        async for delta in self._rest:
            yield delta
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Stop the provider; its stream is closed in its task."""
        self.task.cancel()


async def _stream(provider: LlmProvider, request: LlmRequest, name: str) -> AsyncGenerator[LlmDelta, None]:
    # Makes the stream on first use: one that fails to be made fails like one that breaks.
    async with aclosing(provider.stream(request)) as deltas:
        async for delta in deltas:
            if not isinstance(delta, str | ToolCall):
                raise wrong_type(name, "stream", "text or a ToolCall", delta)
            yield delta


async def _first(stream: AsyncGenerator[LlmDelta, None]) -> LlmDelta | None:
    """The first piece that is of use; leading white space goes with it. None: there is none."""
    space = ""
    async for delta in stream:
        if not isinstance(delta, str):
            return delta
        space += delta
        if delta.strip():
            return space
    return None


def _nothing(name: str) -> ProviderError:
    return ProviderError(name, "the language model answered nothing", code="empty_reply")


def _may_be_silent(request: LlmRequest, to: str) -> bool:
    """Whether no answer is an answer: after tool results there may be nothing to add to what was said."""
    after_tools = False
    for message in reversed(request.messages):
        if message.role != "tool":
            return after_tools and (bool(message.content.strip()) or not to)
        after_tools = True
    return False


# --- speech to text -------------------------------------------------------------------------------------------


class SttChain:
    """One session's recognisers, by name, in the order in which they are asked.

    Each has `deadlines.transcript_ms` for a transcript. An empty one is an answer: a cough has no words.
    """

    def __init__(
        self,
        providers: Mapping[str, SttProvider],
        deadlines: Deadlines,
        switched: Switched,
        breaker: Breaker | None = None,
    ) -> None:
        self.providers = providers
        self.limit_s = deadlines.transcript_ms / 1000
        self._switched = switched
        self._breaker = breaker or Breaker()
        self.used = next(iter(providers))
        """The one that transcribed last."""

    def open(self, *, language: str, on_partial: Callable[[str], None]) -> ChainedStt:
        """A stream that falls over from one recogniser to the next; see `SttProvider.open`. Never raises."""
        return ChainedStt(self, language, on_partial)

    def order(self) -> list[str]:
        """The names in the order in which they are to be asked now."""
        return self._breaker.order("stt", self.providers)

    def asked(self, name: str) -> None:
        """`name` is asked for a transcript."""
        self._breaker.asked("stt", name)

    def worked(self, name: str) -> None:
        """`name` gave a transcript."""
        self.used = name
        self._breaker.worked("stt", name)

    def failed(self, name: str, to: str, error: Exception) -> None:
        """`name` failed or was late, so `to` is asked."""
        self._breaker.failed("stt", name, error)
        log_failure("stt", name, to, error)
        self._switched("stt", name, to, cause_of(error))


@dataclass(slots=True, eq=False)
class _Ear:
    """One recogniser's stream in a session, opened when it is first needed."""

    name: str
    stream: SttStream | None = None
    end: int = 0
    """How far into the utterance it was fed, in bytes."""
    error: Exception | None = None
    """What went wrong with it in this utterance."""


class ChainedStt:
    """One session's speech, transcribed by whichever recogniser works; an `SttStream`.

    One of them leads: it gets the audio as it comes, and its partial transcripts are passed on. The others get what
    was kept of the utterance (the newest 60 s) when they are asked. With one recogniser nothing is kept.
    """

    def __init__(self, chain: SttChain, language: str, on_partial: Callable[[str], None]) -> None:
        self._chain = chain
        self._language = language
        self._on_partial = on_partial
        self._ears = {name: _Ear(name) for name in chain.providers}
        self._kept = bytearray() if len(self._ears) > 1 else None
        self._total = 0
        self._utterance = 0
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()
        self._lead = self._ears[chain.order()[0]]
        try:
            self._open(self._lead)
        except FAULTS as error:
            # Tried again with the first audio, and told then.
            log.warning("stt %s could not be opened: %r", self._lead.name, error)

    def feed(self, pcm: bytes) -> None:
        """See `SttStream.feed`; a recogniser that raises is left."""
        before = self._total
        self._total += len(pcm)
        kept = self._kept
        if kept is not None:
            kept += pcm
            if len(kept) > KEPT_AUDIO:
                del kept[: len(kept) - KEPT_AUDIO]
        lead = self._lead
        if self._closed or (lead.stream is None and lead.error is not None):
            return
        try:
            if lead.stream is not None and lead.end == before:
                lead.stream.feed(pcm)
                lead.end = self._total
            elif before == 0:
                self._open(lead).feed(pcm)
                lead.end = self._total
            else:
                self._catch_up(lead)
        except FAULTS as error:
            self._broke(lead, failure_of(error, lead.name))

    async def flush(self) -> str:
        """See `SttStream.flush`.

        Raises:
            ProviderTimeout: the last one that was asked was late.
            ProviderError: it failed.
        """
        utterance = self._utterance
        ears = [self._ears[name] for name in self._chain.order()]
        ears.sort(key=lambda ear: ear is not self._lead)
        ears = [ear for ear in ears if ear.error is None] or ears
        for ear, following in zip(ears, [*ears[1:], None], strict=True):
            self._chain.asked(ear.name)
            try:
                stream = self._caught_up(ear)
                text = await within(stream.flush(), self._chain.limit_s, ear.name)
                if not isinstance(text, str):
                    raise wrong_type(ear.name, "flush", "text", text)
            except Exception as error:
                if utterance != self._utterance:
                    following = None  # that utterance's audio is gone, and nobody wants its text any more
                else:
                    ear.error = error
                self._chain.failed(ear.name, following.name if following else "", error)
                if following is None:
                    raise
                continue
            self._chain.worked(ear.name)
            if utterance == self._utterance:
                ear.error = None
                self._lead = ear
            return text
        raise AssertionError  # a chain is never empty

    def reset(self) -> None:
        """See `SttStream.reset`; a recogniser that failed begins anew."""
        self._utterance += 1
        self._total = 0
        if self._kept is not None:
            self._kept.clear()
        for ear in self._ears.values():
            ear.end = 0
            if ear.error is not None:
                ear.error = None
                self._discard(ear)
            elif ear.stream is not None:
                try:
                    ear.stream.reset()
                except FAULTS as error:
                    # A new stream has nothing to forget.
                    log.warning("the stream of %s could not be reset: %r", ear.name, error)
                    self._discard(ear)
        self._lead = self._ears[self._chain.order()[0]]

    async def close(self) -> None:
        """See `SttStream.close`. Idempotent."""
        self._closed = True
        for ear in self._ears.values():
            stream, ear.stream = ear.stream, None
            if stream is not None:
                await _close_stream(stream, ear.name)
        if self._closing:
            await asyncio.wait(self._closing, timeout=2 * CLOSE_S)

    def _open(self, ear: _Ear) -> SttStream:
        if ear.stream is None:
            if self._closed:
                raise ProviderError(ear.name, "the stream is closed", retryable=False)

            def on_partial(text: str) -> None:
                if self._lead is ear and not self._closed:
                    self._on_partial(text)

            ear.stream = self._chain.providers[ear.name].open(language=self._language, on_partial=on_partial)
        return ear.stream

    def _caught_up(self, ear: _Ear) -> SttStream:
        """As `_catch_up`; what the recogniser raises is an exception in any case."""
        try:
            return self._catch_up(ear)
        except FAULTS as error:
            raise failure_of(error, ear.name) from error

    def _catch_up(self, ear: _Ear) -> SttStream:
        """Its stream, fed with all of the utterance."""
        if ear.end != self._total and self._kept is None:
            # It broke and took the audio with it; what it would say of the rest is not what the user said.
            raise ear.error or ProviderError(ear.name, "it lost a part of the speech")
        stream = self._open(ear)
        if ear.end != self._total and self._kept is not None:
            missing = self._total - ear.end
            if missing > len(self._kept):
                stream.reset()
            stream.feed(bytes(self._kept[-missing:]))
            ear.end = self._total
        return stream

    def _broke(self, ear: _Ear, error: Exception) -> None:
        """It cannot even be fed: the next one leads from here on. If there is no other, `flush` tells."""
        self._discard(ear)
        ear.error = error
        ear.end = 0
        following = next((name for name in self._chain.order() if self._ears[name].error is None), "")
        if following:
            self._chain.failed(ear.name, following, error)
            self._lead = self._ears[following]

    def _discard(self, ear: _Ear) -> None:
        """Close its stream without waiting for that; `close` does."""
        stream, ear.stream = ear.stream, None
        if stream is not None:
            task = asyncio.create_task(_close_stream(stream, ear.name), name=f"closing stt {ear.name}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _close_stream(stream: SttStream, name: str) -> None:
    try:
        await within(stream.close(), CLOSE_S, name)
    except Exception as error:  # noqa: BLE001 - logged; it is of no use any more
        log.warning("a stream of %s did not close cleanly: %r", name, error)
