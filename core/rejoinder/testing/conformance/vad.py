"""The rules for VAD providers: quick, sure of silence, and each stream on its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rejoinder import audio
from rejoinder.errors import RejoinderError
from rejoinder.testing.conformance.measure import timed_ms
from rejoinder.testing.conformance.provider import TRIES, Bad, ProviderConformance, pieces
from rejoinder.testing.conformance.rules import NotChecked, Seen, Violation, rule
from rejoinder.testing.conformance.speech import speech
from rejoinder.testing.scripted import noise, silence

FRAME_MS = 1.0
SAMPLES = (80, 1600)
SECOND = audio.byte_count(1000, audio.ENGINE_RATE)


class VadConformance(ProviderConformance):
    """What a VAD provider must do; see `rejoinder.providers.VadProvider`."""

    kind = "vad"
    samples: Sequence[tuple[Any, str]] = ()
    """WAV files with speech (and their words, which do not matter here); none: what an installed TTS speaks."""

    def sound(self) -> bytes:
        """Speech, else noise."""
        try:
            return b"".join(one.pcm for one in speech(self.samples, self.language))[: 6 * SECOND]
        except NotChecked:
            return noise(3000)

    async def use(self, provider: Any, number: int = 0) -> list[float]:
        """Hear some of the sound, each number another part of it."""
        sound = self.sound()
        start = number * len(sound) // 20 // 2 * 2
        return probabilities(provider.open(), sound[start : start + SECOND])

    def differs(self, alone: Any, together: Any) -> str:
        """The very same probabilities."""
        return "" if _near(alone, together) else "a stream gives other probabilities beside others than alone"

    def bad_inputs(self) -> Sequence[Bad]:
        """Frames that are none."""

        def give(size: Callable[[int], int]) -> Callable[[Any], Awaitable[object]]:
            async def run(provider: Any) -> object:
                vad = provider.open()
                try:
                    return vad.process(noise(1000)[: size(vad.frame_samples * 2)])
                except (ValueError, RejoinderError):
                    return None  # the engine never gives such frames; what is told clearly is right
                except Exception as error:
                    if isinstance(error, MemoryError | RecursionError):
                        raise
                    return None
                finally:
                    vad.reset()

            return run

        return [("an empty frame", give(lambda n: 0)), ("half a frame", give(lambda n: n // 4 * 2))]

    @rule
    async def test_frame_size(self) -> Seen:
        """`frame_samples` is 80 to 1600 (5 to 100 ms at 16 kHz), and `advice` fits the outputs."""
        async with self.ready() as provider:
            samples: Any = provider.open().frame_samples
            advice = provider.advice
        if not isinstance(samples, int) or isinstance(samples, bool) or not SAMPLES[0] <= samples <= SAMPLES[1]:
            raise Violation(
                f"`frame_samples` is {samples!r}",
                "set it to the samples per frame at 16 kHz that `process` wants, an int",
            )
        if not (0 < advice.off <= advice.on <= 1 and advice.start_ms > 0 and advice.end_silence_ms > 0):
            raise Violation(f"`advice` is {advice}", "set 0 < off <= on <= 1, and times above 0 ms")
        return Seen(f"{samples} samples, {samples / 16:g} ms")

    @rule
    async def test_probabilities(self) -> Seen:
        """Each frame gives a float from 0 to 1."""
        async with self.ready() as provider:
            found = probabilities(provider.open(), self.sound() + silence(300) + noise(300, level=32_767))
        for value in found:
            # Not True, which is 1, nor a number of numpy that cannot be sent as JSON.
            if type(value) is not float or not 0 <= value <= 1:
                raise Violation(f"`process` gives {value!r}", "return a `float` from 0 to 1: `float(probability)`")
        return Seen(f"{min(found):.2f} to {max(found):.2f}")

    @rule
    async def test_frame_is_quick(self) -> Seen:
        """A frame takes at most 1 ms, since it is called on the event loop."""
        sound = self.sound()
        async with self.ready() as provider:
            best = float("inf")
            for _ in range(TRIES):
                vad, took = provider.open(), []
                size = vad.frame_samples * audio.SAMPLE_BYTES
                for frame in pieces(sound[: len(sound) // size * size], size):
                    began = time.perf_counter()
                    vad.process(frame)
                    took.append(timed_ms(began))
                best = min(best, sorted(took)[int(0.95 * (len(took) - 1))])
        if best > FRAME_MS:
            raise Violation(
                f"a frame takes {best:.1f} ms (95 of 100 take less)",
                "use a smaller model on one thread: a session has 50 frames a second, and there are many",
                frame_ms=best,
            )
        return Seen(f"{best:.3f} ms", frame_ms=best)

    @rule
    async def test_silence(self) -> Seen:
        """Silence is below `advice.off`."""
        async with self.ready() as provider:
            found = probabilities(provider.open(), silence(2000))[5:]
            off = provider.advice.off
        if max(found) >= off:
            raise Violation(
                f"digital silence gives up to {max(found):.2f}, `advice.off` is {off:.2f}",
                "set `advice` to what suits the outputs, and check how samples are scaled (floats from -1 to 1)",
            )
        return Seen(f"at most {max(found):.2f}")

    @rule
    async def test_speech(self) -> Seen:
        """Speech reaches `advice.on`."""
        known = speech(self.samples, self.language)
        async with self.ready() as provider:
            found = probabilities(provider.open(), b"".join(one.pcm for one in known))
            on = provider.advice.on
        share = sum(value >= on for value in found) / len(found)
        if share < 0.2:
            raise Violation(
                f"of speech only {share:.0%} of the frames reach `advice.on` ({on:.2f})",
                "set `advice` to what suits the outputs, and check how samples are scaled (floats from -1 to 1)",
                speech_share=share,
            )
        return Seen(f"{share:.0%} of the frames", speech_share=share)

    @rule
    async def test_reset(self) -> Seen:
        """`reset` forgets the past of the stream."""
        sound = self.sound()
        async with self.ready() as provider:
            fresh = probabilities(provider.open(), sound[:SECOND])
            vad = provider.open()
            probabilities(vad, sound[SECOND:] + noise(700, level=20_000, seed=1))
            vad.reset()
            again = probabilities(vad, sound[:SECOND])
        if not _near(fresh, again):
            raise Violation(
                "after `reset` the same sound gives other probabilities than in a new stream",
                "set all state back in `reset`: the model's, and what is left of frames",
            )
        return Seen("forgotten")

    @rule
    async def test_streams_are_apart(self) -> Seen:
        """Two streams do not hear each other."""
        sound = self.sound()
        async with self.ready() as provider:
            alone = probabilities(provider.open(), sound[: 2 * SECOND])
            vad, other = provider.open(), provider.open()
            size = vad.frame_samples * audio.SAMPLE_BYTES
            found = []
            for frame in pieces(sound[: 2 * SECOND // size * size], size):
                found.append(vad.process(frame))
                other.process(noise(200, level=20_000)[:size])
        if not _near(alone, found):
            raise Violation(
                "what one stream hears changes the probabilities of another",
                "give each `open()` an object of its own with the state of its stream",
            )
        return Seen("apart")


def probabilities(vad: Any, pcm: bytes) -> list[float]:
    """What `vad` gives for the whole frames of `pcm`."""
    size = vad.frame_samples * audio.SAMPLE_BYTES
    return [vad.process(frame) for frame in pieces(pcm[: len(pcm) // size * size], size)]


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < 1e-3 for a, b in zip(one, other, strict=True))
