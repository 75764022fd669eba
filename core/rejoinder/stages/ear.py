"""Understands: the user's audio through VAD and STT, and at pauses what detectors and judges make of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from rejoinder.clock import Clock
from rejoinder.errors import RejoinderError
from rejoinder.providers import Judgement, Overlap, TurnSoFar, VadProvider
from rejoinder.settings import Agent, Limits
from rejoinder.stages.chain import SttChain
from rejoinder.stages.judging import OVERLAP_AUDIO_MS, TURN_AUDIO_MS, EndOfTurn, Judges, doubtful
from rejoinder.stages.listen import Listener
from rejoinder.turns.signals import Input, JudgeOverlap, OverlapJudged, TranscriptReady, TurnJudged

log = logging.getLogger(__name__)
_BEFORE_MS = 300
"""Audio before an interruption that judges hear with it."""


class Spoken(NamedTuple):
    """What the agent is saying: its words up to now, and the audio that the client was playing (PCM16 at 16 kHz)."""

    text: str
    played: bytes


class Ear:
    """One session's ear; what it understands goes to `post`, failures of STT to `failed`.

    `speaking()` is what the agent is saying, None while it says nothing; `last_heard()` what it said before.
    `spawn` and `straggler` own its tasks.
    """

    def __init__(
        self,
        agent: Agent,
        vad: VadProvider,
        stt: SttChain,
        end_of_turn: EndOfTurn,
        judges: Judges,
        *,
        clock: Clock,
        limits: Limits,
        post: Callable[[Input], None],
        on_partial: Callable[[str], None],
        speaking: Callable[[], Spoken | None],
        last_heard: Callable[[], str],
        failed: Callable[[RejoinderError | None], None],
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        straggler: Callable[[asyncio.Task[Any]], None],
    ) -> None:
        self._agent = agent
        self._chain = stt
        self._end_of_turn = end_of_turn
        self._judges = judges
        self._clock = clock
        self._cancel_s = limits.cancel_ms / 1000
        self._post = post
        self._speaking = speaking
        self._last_heard = last_heard
        self._failed = failed
        self._spawn = spawn
        self._straggler = straggler
        opened = vad.open()
        self._stt = stt.open(language=agent.language, on_partial=on_partial)
        memory_ms = TURN_AUDIO_MS if end_of_turn.wants_audio else OVERLAP_AUDIO_MS
        self.listener = Listener(opened, vad.advice, self._stt, clock, agent.turns.pause_ms, post, memory_ms)
        self._work: asyncio.Task[None] | None = None
        self.asked_at = 0.0
        """When the transcript of the turn was asked for."""
        self.understood_at = 0.0
        """When it came."""

    @property
    def provider(self) -> str:
        """The recogniser that answered last."""
        return self._chain.used

    def transcribe(self, attempt: int, overlap: JudgeOverlap | None = None) -> None:
        """Answer `Transcribe` or `JudgeOverlap` of the turn machine; a newer one replaces it."""
        self.cancel()
        if overlap is None or overlap.final:
            self.asked_at = self._clock.monotonic()
        self._work = self._spawn(self._understand(attempt, overlap), f"attempt {attempt} to understand")

    def cancel(self) -> None:
        """Stop what is being understood."""
        if self._work is not None:
            self._work.cancel()

    async def close(self) -> None:
        """End the STT stream."""
        await self._stt.close()

    async def _understand(self, attempt: int, overlap: JudgeOverlap | None) -> None:
        """What the user said so far; at a pause also whether they are done, over the agent whether they mean it."""
        pausing = overlap is None or overlap.final
        hearing = asyncio.create_task(self._end_of_turn.listen(self._turn_so_far(""))) if pausing else None
        try:
            text = await self._flush()
            self.understood_at = self._clock.monotonic()
            if overlap is not None:
                judgement = self.judge(overlap, text)
                stop, cause = (judgement.stop, judgement.cause) if judgement else (None, "")
                self._post(OverlapJudged(attempt, stop, cause, text))
            if hearing is None:
                return
            read = await self._end_of_turn.read(self._turn_so_far(text)) if text else None
            heard = hearing.result() if hearing.done() else None
            self._post(TurnJudged(attempt, doubtful(read, heard)))
            if overlap is None:
                self._post(TranscriptReady(attempt, text))
            if heard is None and self._end_of_turn.wants_audio:
                self._post(TurnJudged(attempt, doubtful(read, await hearing)))
        finally:
            if hearing is not None and not hearing.done():
                hearing.cancel()
                await asyncio.wait({hearing}, timeout=self._cancel_s)

    async def _flush(self) -> str | None:
        flush = asyncio.create_task(self._stt.flush(), name="transcript")
        try:
            await asyncio.wait({flush})
            return flush.result()
        except RejoinderError as error:
            self._failed(error)
        except asyncio.CancelledError:
            # A provider that swallows this must not hold up the session.
            flush.cancel()
            try:
                await asyncio.wait({flush}, timeout=self._cancel_s)
            finally:
                if not flush.done():
                    self._straggler(flush)
            raise
        except Exception:
            log.exception("STT failed")
            self._failed(None)
        return None

    def _turn_so_far(self, text: str | None) -> TurnSoFar:
        silence_ms = (self._clock.monotonic() - self.listener.last_speech_at) * 1000
        audio = self.listener.utterance() if self._end_of_turn.wants_audio else b""
        return TurnSoFar(text or "", audio, silence_ms, self._last_heard(), self._agent.language)

    def judge(self, asked: JudgeOverlap, text: str | None) -> Judgement | None:
        """What the judges say now; None where they cannot tell, or the agent says nothing any more."""
        spoken = self._speaking()
        if spoken is None:
            return None
        overlap = Overlap(
            text=text,
            final=asked.final,
            speech_ms=asked.speech_ms,
            audio=self.listener.audio(min(OVERLAP_AUDIO_MS, asked.speech_ms + _BEFORE_MS)),
            played=spoken.played,
            agent_text=spoken.text,
            min_words=self._agent.turns.min_words,
            language=self._agent.language,
        )
        return self._judges.judge(overlap)
