"""One answer: brain, voice and playout in one task group, with an epoch; the unit of cancellation.

Nothing of a reply is seen or heard before it is committed: its events wait here, its audio behind the playout's gate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rejoinder.audio import FRAME_MS
from rejoinder.channel import Channel
from rejoinder.clock import Clock
from rejoinder.errors import RejoinderError
from rejoinder.events import (
    ClearAudio,
    Error,
    ReplyDucked,
    ReplyFinished,
    ReplyResumed,
    ReplyStarted,
    ReplyText,
    ServerEvent,
    TurnCommitted,
    TurnMetrics,
    encodable,
)
from rejoinder.hooks import SessionHooks
from rejoinder.journal import Entry, Journal
from rejoinder.metrics import TurnTimer
from rejoinder.settings import Limits
from rejoinder.stages.brain import Brain
from rejoinder.stages.chunker import Chunker
from rejoinder.stages.playout import Playout
from rejoinder.stages.voice import Voice
from rejoinder.turns.signals import Input, ReplyHeard, ReplyOver

log = logging.getLogger(__name__)
EndReason = Literal["completed", "interrupted", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What every reply of a session works with."""

    clock: Clock
    limits: Limits
    journal: Journal
    brain: Brain
    hooks: SessionHooks
    playout: Playout
    publish: Callable[[ServerEvent], None]
    post: Callable[[Input], None]
    straggler: Callable[[asyncio.Task[None]], None]
    """Takes over a task that did not end in time."""
    providers: Callable[[], dict[str, str]]
    """Which ones answered last, by kind."""
    speculation_tokens: int
    """Pieces of text that a reply may be ahead while it is only proposed."""
    sent: Callable[[Entry], None] = lambda entry: None
    """Told of a reply that is over and that the LLM was asked for: what it was sent is let go of next."""


class _Played(NamedTuple):
    """What was played when the playout was cleared, in ms as the client counts it."""

    ms: float
    sent_ms: float
    repeated_ms: float
    told: bool
    """The client has been told already to drop the rest."""
    estimated: bool
    jitter: float

    def position_ms(self, ms: float | None = None) -> float:
        """How far into the reply that is; `ms`: as the client reported it later."""
        return max(0.0, min(self.ms if ms is None else ms, self.sent_ms) - self.repeated_ms)


class TurnScope:
    """The life of one reply. `voice` is None where nobody listens; `fixed_text` is said without asking the LLM.

    `since` is when its preparation began (the transcript was asked for), in s on the session's clock; `discarded` how
    many replies to this turn were prepared before it.
    """

    def __init__(
        self,
        stage: Stage,
        epoch: int,
        entry: Entry,
        timer: TurnTimer,
        voice: Voice | None,
        fixed_text: str | None = None,
        since: float | None = None,
        discarded: int = 0,
    ) -> None:
        self.epoch = epoch
        self.entry = entry
        self.timer = timer
        self._stage = stage
        self._voice = voice
        self._fixed_text = fixed_text
        self._committed = asyncio.Event()
        self._held: list[ServerEvent] | None = []
        self._over = False
        self._speculated = False
        self._since = stage.clock.monotonic() if since is None else since
        self._discarded = discarded
        self._committed_at = 0.0
        self.begun_seq = 0
        """The number of its `reply.started`."""
        self._reason: EndReason = "completed"
        self._unsettled: tuple[EndReason, _Played] | None = None
        self._reported_ms: float | None = None
        self._error: RejoinderError | None = None
        self._begins = entry.state == "proposed"
        """The user's turn is committed with it; else it is an answer to one that was committed before."""
        self._by_user = True
        self._left_out = False
        """A plugin did not want some of it to be spoken."""
        stage.playout.begin(epoch)
        self._host = asyncio.create_task(self._run(), name=f"reply {epoch} of {entry.turn_id}")

    # -- what the session's control loop does with it

    @property
    def committed(self) -> bool:
        """Whether it may be heard."""
        return self._held is None

    @property
    def broke_off(self) -> bool:
        """Whether it failed after some of it had been made."""
        return self._reason == "failed"

    def commit(self, speculated: bool) -> None:
        """The user's turn is over: tell, open the gate, let side effects happen."""
        stage = self._stage
        self._speculated = speculated
        self._committed_at = stage.clock.monotonic()
        stage.journal.commit(self.entry)
        if self._begins and self.entry.user_text is not None:
            stage.publish(TurnCommitted(turn_id=self.entry.turn_id, text=self.entry.user_text))
        started = ReplyStarted(reply_id=self.entry.reply_id, turn_id=self.entry.turn_id)
        stage.publish(started)
        self.begun_seq = started.seq
        held, self._held = self._held or [], None
        for event in held:
            stage.publish(event)
        self._committed.set()
        if self._voice is not None:
            stage.playout.open_gate(self.epoch)

    def sent(self) -> None:
        """Its first audio has left."""
        self.timer.mark("sent", self._stage.clock.monotonic())
        self._stage.post(ReplyHeard(self.epoch))

    def duck(self) -> None:
        """Ask the client to play it quieter."""
        if self._voice is not None:
            self._stage.publish(ReplyDucked(reply_id=self.entry.reply_id))

    def hold(self) -> None:
        """Play nothing more for now; the client drops what it has not played."""
        playout = self._stage.playout
        if self._voice is None:
            return
        playout.hold()
        if playout.sent_ms:
            self._silence(playout.sent_ms)

    def resume(self) -> None:
        """Go on as loud as before; if it was held, from the beginning of the word that was cut."""
        playout = self._stage.playout
        if self._voice is None:
            return
        position = playout.position_ms(playout.played_ms())
        if playout.held:
            position = self.entry.word_at(position)
        if playout.sent_ms:
            self._stage.publish(ReplyResumed(reply_id=self.entry.reply_id, from_ms=round(position)))
        playout.resume(position)

    async def cancel(self, reason: EndReason | None, *, by_user: bool = True) -> None:
        """Stop at once; with `reason` None (never committed) there is no trace. `by_user`: they interrupted it.

        The playout is cleared and the client told before the producers are waited for: their output is mute already,
        so a slow one must not delay the silence. Where the client reports what it plays, the reply is `unsettled`
        until `settle` is called.
        """
        self._host.cancel()
        if self._over:
            return
        self._by_user = by_user
        played = self._stop_playing()
        if reason is not None and played.sent_ms and not played.told:
            self._silence(played.ms)
        await self._gone()
        self._over = True
        if reason is None:
            return
        if reason == "interrupted" and played.sent_ms and not played.estimated:
            self._unsettled = (reason, played)
        else:
            self._finish(reason, played, played.position_ms())

    @property
    def unsettled(self) -> bool:
        """Whether it is still to be known where exactly the client stopped."""
        return self._unsettled is not None

    def report(self, played_ms: float) -> None:
        """What the client says it has played of this reply after it was cancelled."""
        if self._unsettled is None:
            return
        self._reported_ms = max(played_ms, self._reported_ms or 0.0)
        # An older report may still have been under way: the last one says at least what was known before.
        if played_ms >= self._unsettled[1].ms - FRAME_MS:
            self.settle()

    def settle(self) -> None:
        """Write down what was heard, with the best that is known now. Idempotent."""
        if self._unsettled is not None:
            (reason, played), self._unsettled = self._unsettled, None
            self._finish(reason, played, played.position_ms(self._reported_ms))

    async def finish(self) -> None:
        """It is over, because all of it has been heard (without audio: sent) or because it failed: write that down."""
        if not self._over:
            played = self._stop_playing()
            self._over = True
            self._finish(self._reason, played, played.position_ms())
        await self._gone()

    def _silence(self, played_ms: float) -> None:
        self._stage.publish(ClearAudio(reply_id=self.entry.reply_id, played_ms=round(played_ms)))

    async def _gone(self) -> None:
        """Wait for the host task, but not for ever: a producer that swallows its cancellation is mute by its epoch."""
        if self._host.done():
            return
        await asyncio.wait({self._host}, timeout=self._stage.limits.cancel_ms / 1000)
        if not self._host.done():
            log.warning("%s ignores its cancellation and is let go", self._host.get_name())
            self._stage.straggler(self._host)

    def _stop_playing(self) -> _Played:
        """Empty the playout, and what is to be known of it first."""
        playout = self._stage.playout
        if playout.first_play_at is not None:
            self.timer.mark("played", playout.first_play_at)
        sent_ms, held, estimated = playout.sent_ms, playout.held, playout.estimated
        repeated_ms, jitter = playout.repeated_ms, playout.jitter.value
        return _Played(playout.clear(), sent_ms, repeated_ms, held, estimated, jitter)

    def _finish(self, reason: EndReason, played: _Played, position_ms: float) -> None:
        entry, stage = self.entry, self._stage
        if self._voice is None:
            heard = entry.text
        elif reason == "completed":
            heard = " ".join(segment.text for segment in entry.segments)
        else:
            heard = entry.heard(position_ms)
        by_user = reason == "interrupted" and self._by_user
        stage.journal.finish(entry, heard.strip(), cut=reason != "completed", by_user=by_user)
        stage.publish(
            ReplyFinished(
                reply_id=entry.reply_id,
                turn_id=entry.turn_id,
                reason=reason,
                text=entry.text.strip(),
                heard_text=heard.strip(),
                played_ms=round(position_ms),
                estimated=played.estimated,
            )
        )
        if entry.sent:
            stage.sent(entry)
            entry.sent.clear()
        # A turn that was never answered has no response time; counting its wait would flatter the figures.
        if self._begins and entry.user_text is not None and "sent" in self.timer:
            spans = self.timer.spans()
            stage.publish(
                TurnMetrics(
                    turn_id=entry.turn_id,
                    reply_id=entry.reply_id,
                    response_us=sum(span.us for span in spans),
                    spans=spans,
                    jitter_us=round(played.jitter * 1_000_000),
                    speculated=self._speculated,
                    saved_us=self._saved_us(),
                    discarded=self._discarded,
                    providers=stage.providers(),
                    hooks=stage.hooks.spent(),
                )
            )
        else:
            # Of a turn that is not measured; it must not be added to the next one.
            stage.hooks.spent()

    def _saved_us(self) -> int:
        """What the answer would have taken longer, had its preparation begun with the commit."""
        if not self._speculated:
            return 0
        ready = self.timer.at("first_audio" if self._voice is not None else "first_token")
        until = self._committed_at if ready is None else min(self._committed_at, ready)
        return max(0, round((until - self._since) * 1_000_000))

    # -- the host task and its stages

    async def _run(self) -> None:
        stage = self._stage
        try:
            if self._voice is None:
                await self._write()
                if self.entry.text.strip() or self.entry.rounds:
                    stage.post(ReplyOver(self.epoch))
                else:
                    self._failed(_nothing_said())
                return
            chunks: Channel[str] = Channel(stage.limits.text_chunks)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._think(chunks))
                group.create_task(self._speak(chunks, self._voice))
            if self._error is not None:
                self._failed(self._error)
            elif stage.playout.pushed_ms > 0:
                stage.playout.finish(self.epoch)
            elif self.entry.rounds or self._left_out:
                await self._committed.wait()
                stage.post(ReplyOver(self.epoch))
            else:
                self._failed(_nothing_said())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled this reply: the exception leaked out of a provider.
            self._failed(RejoinderError("A provider cancelled itself.", code="provider_failed", retryable=True))
        except Exception as error:  # noqa: BLE001 - told to the client and logged by `_explained`
            self._failed(self._explained(error))

    def _explained(self, error: Exception) -> RejoinderError:
        first = _first(error)
        if isinstance(first, RejoinderError):
            log.warning("reply %s of %s failed: %s", self.epoch, self.entry.turn_id, first.explain())
            return first
        log.error("reply %s of %s failed", self.epoch, self.entry.turn_id, exc_info=error)
        text = f"The reply failed: {type(first).__name__}: {first}."
        return RejoinderError(text, fix="The server's log has the traceback.")

    def _failed(self, error: RejoinderError) -> None:
        """Say so; what was already made is still played, then the reply ends as failed."""
        self._reason = "failed"
        self._tell(Error.of(error))
        if self._voice is not None and self._stage.playout.pushed_ms > 0:
            self._stage.playout.finish(self.epoch)
        else:
            self._stage.post(ReplyOver(self.epoch, failed=True))

    def _tell(self, event: ServerEvent) -> None:
        if self._over:
            return
        if self._held is None:
            self._stage.publish(event)
        else:
            self._held.append(event)

    async def _text(self) -> AsyncGenerator[str, None]:
        """The reply's text as it comes, told and written into the journal."""
        source = (
            _once(self._fixed_text)
            if self._fixed_text is not None
            else self._stage.brain.think(self.entry, self._committed.wait, self._tell)
        )
        ahead = self._stage.speculation_tokens
        async with aclosing(source) as deltas:
            async for delta in deltas:
                ahead -= 1
                if ahead < 0:
                    await self._committed.wait()
                if not self.entry.text:
                    self.timer.mark("first_token", self._stage.clock.monotonic())
                delta = encodable(delta)
                self.entry.text += delta
                self._tell(ReplyText(reply_id=self.entry.reply_id, delta=delta))
                yield delta

    async def _write(self) -> None:
        """Text only: every piece leaves as it comes."""
        await self._committed.wait()
        async with aclosing(self._text()) as deltas:
            async for _ in deltas:
                if "sent" not in self.timer:
                    self.sent()

    async def _think(self, chunks: Channel[str]) -> None:
        chunker = Chunker()
        try:
            try:
                async with aclosing(self._text()) as deltas:
                    async for delta in deltas:
                        for chunk in chunker.feed(delta):
                            await self._chunk(chunk, chunks)
            except Exception as error:  # noqa: BLE001 - reported once what came before it has been spoken
                self._error = self._explained(error)
            for chunk in chunker.finish():
                await self._chunk(chunk, chunks)
        finally:
            chunks.close()

    async def _chunk(self, chunk: str, chunks: Channel[str]) -> None:
        self.timer.mark("first_chunk", self._stage.clock.monotonic())
        await chunks.send(chunk)

    async def _speak(self, chunks: Channel[str], voice: Voice) -> None:
        playout = self._stage.playout
        try:
            await self._utter(chunks, voice)
        except Exception:
            if self._fixed_text is not None and not playout.pushed_ms:
                # Not even an apology can be spoken: a tone says at least that something is wrong.
                self.entry.segments.clear()
                await playout.push(self.epoch, voice.earcon())
            raise

    async def _utter(self, chunks: Channel[str], voice: Voice) -> None:
        playout = self._stage.playout
        async for text in chunks:
            spoken = self._stage.hooks.before_tts(text)
            if not spoken.strip():
                self._left_out = True
                continue
            segment = self.entry.speak(text, playout.pushed_ms)
            async with aclosing(voice.speak(spoken)) as pieces:
                async for piece in pieces:
                    if not isinstance(piece, bytes):
                        segment.words.append(piece)
                        continue
                    self.timer.mark("first_audio", self._stage.clock.monotonic())
                    await playout.push(self.epoch, piece)
            segment.end_ms = playout.pushed_ms


def _nothing_said() -> RejoinderError:
    return RejoinderError("The language model answered nothing to say.", code="empty_reply")


async def _once(text: str) -> AsyncGenerator[str, None]:
    yield text


def _first(error: BaseException) -> BaseException:
    """The first plain error in what may be groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
