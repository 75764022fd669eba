"""Listens: VAD on every frame, inline, and the user's speech into the STT stream. No task and no queue per frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES
from rejoinder.clock import Clock
from rejoinder.providers import SttStream, Vad, VadAdvice
from rejoinder.turns.signals import Input, SpeechBegan, SpeechPaused

_PRE_ROLL_MS = 300
"""Audio before the detected start that belongs to the speech; without it STT garbles the first word."""


class Listener:
    """One session's ear. `post` gets `SpeechBegan` and `SpeechPaused`; speech and pause are counted in audio, not on
    the clock, so that a network stall in the middle of a word is no pause. The newest `memory_ms` of audio are kept
    for whoever judges them.
    """

    def __init__(
        self,
        vad: Vad,
        advice: VadAdvice,
        stt: SttStream,
        clock: Clock,
        pause_ms: int,
        post: Callable[[Input], None],
        memory_ms: float = 0,
    ) -> None:
        self._vad = vad
        self._advice = advice
        self._stt = stt
        self._clock = clock
        self._post = post
        self._frame_bytes = vad.frame_samples * SAMPLE_BYTES
        frame_ms = vad.frame_samples * 1000 / ENGINE_RATE
        self._start_frames = max(1, round(advice.start_ms / frame_ms))
        window = max(self._start_frames, round(1.5 * advice.start_ms / frame_ms))
        self._window = deque[bool](maxlen=window)
        self._pause_frames = max(1, round(pause_ms / frame_ms))
        self._frame_s = frame_ms / 1000
        self._pre_roll = window + round(_PRE_ROLL_MS / frame_ms)
        self._recent = deque[bytes](maxlen=max(self._pre_roll, round(memory_ms / frame_ms)))
        self._utterance_frames = 0
        self._rest = b""
        self._speaking = False
        self._utterance = False
        self._silent_frames = 0
        self.last_speech_at = 0.0
        self.last_audio_at = 0.0

    def feed(self, pcm: bytes) -> None:
        """User audio: PCM16 at 16 kHz, any whole number of samples."""
        now = self.last_audio_at = self._clock.monotonic()
        if not self._rest and len(pcm) == self._frame_bytes:
            self._frame(pcm, now)
            return
        pcm = self._rest + pcm
        end = len(pcm) - len(pcm) % self._frame_bytes
        for start in range(0, end, self._frame_bytes):
            self._frame(pcm[start : start + self._frame_bytes], now)
        self._rest = pcm[end:]

    def end_utterance(self) -> None:
        """What was heard so far belongs to a turn that is over; if the user speaks all the same, a new one begins."""
        self._stt.reset()
        self._utterance = self._speaking
        if self._speaking:
            self._begin_utterance()
            self._post(SpeechBegan())

    def stall(self, after_s: float) -> bool:
        """Whether the client stopped sending in the middle of speech, `after_s` ago or more; if so, that is a pause."""
        if self._speaking and self._clock.monotonic() - self.last_audio_at >= after_s:
            self._pause()
            return True
        return False

    @property
    def speaking(self) -> bool:
        """Whether the user speaks now."""
        return self._speaking

    def audio(self, ms: float) -> bytes:
        """The newest `ms` of audio, PCM16 at 16 kHz, as far as it is kept."""
        return self._newest(round(ms / 1000 / self._frame_s))

    def utterance(self) -> bytes:
        """The newest audio of this utterance, as far as it is kept, with what came shortly before it."""
        return self._newest(self._utterance_frames)

    def _newest(self, frames: int) -> bytes:
        return b"".join(tuple(self._recent)[-frames:]) if frames > 0 else b""

    def _begin_utterance(self) -> None:
        before = tuple(self._recent)[-self._pre_roll :]
        self._utterance_frames = len(before)
        for frame in before:
            self._stt.feed(frame)

    def _frame(self, frame: bytes, now: float) -> None:
        probability = self._vad.process(frame)
        self._recent.append(frame)
        if self._utterance:
            self._stt.feed(frame)
            self._utterance_frames += 1
        if self._speaking:
            if probability >= self._advice.off:
                self._silent_frames = 0
                self.last_speech_at = now
            else:
                self._silent_frames += 1
                if self._silent_frames >= self._pause_frames:
                    self._pause()
            return
        voiced = probability >= self._advice.on
        self._window.append(voiced)
        # In the middle of an utterance a single frame is enough: each one waited for is one that ends turns later.
        if voiced and (self._utterance or self._window.count(True) >= self._start_frames):
            self._speaking = True
            self._silent_frames = 0
            self.last_speech_at = now
            began = len(self._window) - self._window.index(True)
            self._window.clear()
            if not self._utterance:
                self._utterance = True
                self._begin_utterance()
            self._post(SpeechBegan(now - began * self._frame_s))

    def _pause(self) -> None:
        self._speaking = False
        self._window.clear()
        self._post(SpeechPaused(self.last_speech_at))
