"""The judge `echo`: knows the agent's own voice when the microphone picks it up."""

from __future__ import annotations

import difflib
import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from rejoinder.audio import ENGINE_RATE, SAMPLE_BYTES
from rejoinder.providers import Judgement, Overlap, ProviderContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "echo"
CAUSE = "echo"

DECIMATION = 4
RATE = ENGINE_RATE // DECIMATION
"""Sounds are compared at 4 kHz: most of a voice lies below 2 kHz, and it is cheap."""
BLOCK = ENGINE_RATE // 50
"""Lengths are multiples of it: an FFT of a prime length is slow."""
DELAY_MS = 600
"""An echo that comes later is not found by its sound; its words may still be."""
LONGEST_MS = 1200
"""The newest of what the microphone gave; more would cost time and change little."""
EARLY_MS = 40
"""So much earlier than the client's report of what it plays lets one think an echo may come."""
BEFORE_MS = 12
AFTER_MS = 28
"""The room's answer to a click, as far as it is estimated: around the strongest reflection."""
NEWEST_MS = 320
NEWEST = 0.4
"""Share of the newest sound's power that the agent's voice has to explain. In a room it explains 0.5 and more of its
echo, and below 0.15 where somebody speaks, also over it."""
OVERALL = 0.45
LEAST = 0.2
"""Less of the newest (the agent was just drawing breath) is enough where it explains so much of all."""
SMOOTH_MS = 60
FLOOR = 0.1
"""Moments that are quieter than this share of the loud ones count less, down to nothing."""
STEPS = 24
LOADING = 1e-3
"""How long, and how closely, the room is estimated."""
QUIETEST = 1e-8
"""Mean power below which nothing is compared (-80 dB)."""

RUN_WORDS = 3
"""A transcript of so many words or more, all of them the agent's, is its echo."""
RECENT_WORDS = 40
"""The agent's words that may still sound in the room."""
FUZZY_WORDS = 5
"""From so many words on, words count that only sound alike: what is heard so softly is misheard in places."""
GAP_WORDS = 2
"""So many words between two runs of the agent's own are most likely its own, misheard."""
_WORD = re.compile(r"[a-z0-9']+")
_COUNT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen twenty"
)
_FIGURES = dict(enumerate(_COUNT.split()))


class Match(NamedTuple):
    """How much of the microphone's power the agent's voice explains: overall and in the newest sound, 0 to 1."""

    overall: float
    newest: float
    delay_ms: float


class Echo:
    """See `rejoinder.providers.InterruptionJudge`. Knows the agent's voice by its sound, else by its words.

    What counts is the newest sound: after a cough over the echo the agent goes on.
    """

    def __init__(self, context: ProviderContext) -> None:
        self._context = context

    async def warm_up(self) -> None:
        """Import numpy, and let it make its tables."""
        compare(bytes(2 * ENGINE_RATE), bytes(4 * ENGINE_RATE))

    def judge(self, overlap: Overlap) -> Judgement | None:
        """Not to stop for the agent's own voice; of anything else no opinion."""
        if repeats(overlap.text or "", overlap.agent_text):
            return Judgement(stop=False, cause=CAUSE)
        match = compare(overlap.audio, overlap.played)
        if match is not None and (match.newest >= NEWEST or (match.newest >= LEAST and match.overall >= OVERALL)):
            return Judgement(stop=False, cause=CAUSE)
        return None

    async def close(self) -> None:
        """Nothing to free."""


def repeats(text: str, agent_text: str) -> bool:
    """Whether `text` is nothing but the agent's own recent words."""
    words, said = _split(text), _split(agent_text)[-RECENT_WORDS:]
    if len(words) < RUN_WORDS:
        return False
    if any(said[at : at + len(words)] == words for at in range(len(said) - len(words) + 1)):
        return True
    return len(words) >= FUZZY_WORDS and foreign(text, agent_text) == Foreign((), ())


class Foreign(NamedTuple):
    """Words among an echo that are not the agent's."""

    between: tuple[str, ...]
    """One or two between the agent's: most likely it was misheard."""
    others: tuple[str, ...]


def foreign(text: str, agent_text: str) -> Foreign | None:
    """The words of `text` that are not the agent's, where `text` begins with an echo of its words; else None.

    Words are compared by how they sound, roughly. A last word alone may be the agent's, cut off in the middle.
    """
    words, said = _split(text), _split(agent_text)[-RECENT_WORDS:]
    matcher = difflib.SequenceMatcher(None, [_key(w) for w in said], [_key(w) for w in words], autojunk=False)
    runs = [(run.b, run.b + run.size) for run in matcher.get_matching_blocks() if run.size > 1]
    own = sum(end - start for start, end in runs)
    if not runs or runs[0][0] > (1 if own >= FUZZY_WORDS else 0):
        return None
    between: list[str] = words[: runs[0][0]]
    others: list[str] = []
    for (_, end), (start, _) in itertools.pairwise([*runs, (len(words), 0)]):
        misheard = start - end <= (GAP_WORDS if start < len(words) else 1)
        (between if misheard else others).extend(words[end:start])
    return Foreign(tuple(between), tuple(others))


def _split(text: str) -> list[str]:
    words = _WORD.findall(text.lower().replace(":00", ""))
    return [_FIGURES.get(int(word), word) if word.isdecimal() and len(word) < 9 else word for word in words]


def _key(word: str) -> str:
    """How `word` sounds, roughly: its first letter and the two consonants after it."""
    consonants = [letter for letter in word[1:] if letter not in "aeiouyhw'"]
    return word[0] + "".join(a for a, b in zip(consonants, ["", *consonants], strict=False) if a != b)[:2]


def compare(audio: bytes, played: bytes) -> Match | None:
    """How much of `audio` (the microphone) `played` (the loudspeaker) explains; both PCM16 at 16 kHz, ending now.

    Where the two are most alike, the filter of the room is estimated by least squares; what it makes of the agent's
    voice is taken off the microphone's, and the rest compared. None where either is silent or too short. About 1 ms.
    """
    import numpy as np

    early, span, taps = _samples(EARLY_MS), _samples(DELAY_MS + EARLY_MS), _samples(BEFORE_MS + AFTER_MS)
    mic = _low(audio, LONGEST_MS)[:-early]
    count = len(mic)
    if count < _samples(NEWEST_MS) or np.square(mic).mean() < QUIETEST:
        return None
    # `far[span - delay :][:count]` is what the microphone would hear after `delay`, counted from `EARLY_MS` before now.
    far = np.zeros(span + count, np.float32)
    known = _low(played, LONGEST_MS + DELAY_MS)[-len(far) :]
    far[len(far) - len(known) :] = known
    if np.square(far).mean() < QUIETEST:
        return None

    # What is loud, such as a cough over the echo, must not drown the rest: each moment counts about the same.
    loud = _smooth(np.square(mic))
    weight = 1 / (loud + np.float32(FLOOR * np.partition(loud, count * 9 // 10)[count * 9 // 10] + 1e-12))

    size = _power_of_two(len(far) + count)
    alike = np.fft.irfft(np.fft.rfft(far, size) * np.fft.rfft(mic * weight, size).conj(), size)[: span + 1]
    power = np.concatenate((np.zeros(1), np.cumsum(np.square(far, dtype=np.float64))))
    energy = power[count:] - power[:-count]
    at = int((np.abs(alike) / np.sqrt(energy + power[-1] * 1e-2)).argmax())

    # From a little before the strongest reflection on.
    at = min(span, at + _samples(BEFORE_MS))
    near = far[at : at + count]
    size = _power_of_two(count + taps)
    even = np.sqrt(weight)
    spectrum, heard = np.fft.rfft(near * even, size), np.fft.rfft(mic * even, size)
    auto = np.fft.irfft(spectrum * spectrum.conj(), size)[:taps].astype(np.float64)
    cross = np.fft.irfft(heard * spectrum.conj(), size)[:taps].astype(np.float64)
    room = _solve(auto, cross)
    rest = mic - np.fft.irfft(np.fft.rfft(near, size) * np.fft.rfft(room, size), size)[:count].astype(np.float32)
    newest = _samples(NEWEST_MS)
    delay_ms = (span - at) * 1000 / RATE - EARLY_MS + BEFORE_MS
    return Match(_explained(mic, rest), _explained(mic[-newest:], rest[-newest:]), delay_ms)


def _smooth(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean over `SMOOTH_MS` around each sample."""
    import numpy as np

    half = _samples(SMOOTH_MS) // 2
    sums = np.cumsum(np.pad(power, (half + 1, half), mode="edge"), dtype=np.float64)
    mean: NDArray[np.float32] = ((sums[2 * half + 1 :] - sums[: -2 * half - 1]) / (2 * half + 1)).astype(np.float32)
    return mean


def _explained(heard: NDArray[np.float32], rest: NDArray[np.float32]) -> float:
    import numpy as np

    power = float(np.square(heard).sum())
    return 1.0 - float(np.square(rest).sum()) / power if power > QUIETEST * len(heard) else 1.0


def _solve(auto: NDArray[np.float64], cross: NDArray[np.float64]) -> NDArray[np.float64]:
    """The filter that turns a sound of this autocorrelation into one of this cross-correlation with it.

    The equations form a Toeplitz matrix, so conjugate gradients need only FFTs. A call into BLAS would hand the work
    to a pool of threads, and on a busy machine wait 100 ms for them: too long for an event loop.
    """
    import numpy as np

    taps = len(auto)
    # The matrix times a vector is a circular convolution with this, of which the first part counts.
    circle = np.fft.rfft(np.concatenate((auto, np.zeros(1), auto[:0:-1])))
    room = np.zeros(taps)
    rest = cross.copy()
    step = rest.copy()
    left = float(np.square(rest).sum())
    least = left * 1e-6 + 1e-18
    for _ in range(STEPS):
        if left <= least:
            break
        turned = np.fft.irfft(circle * np.fft.rfft(step, 2 * taps), 2 * taps)[:taps] + step * (auto[0] * LOADING)
        length = left / max(float((step * turned).sum()), 1e-18)
        room += length * step
        rest -= length * turned
        before, left = left, float(np.square(rest).sum())
        step = rest + (left / before) * step
    return room


def _samples(ms: int) -> int:
    return ms * RATE // 1000


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _low(pcm: bytes, ms: int) -> NDArray[np.float32]:
    """The newest `ms` of PCM16 at 16 kHz as float samples (-1 to 1) at 4 kHz, the last one the newest."""
    import numpy as np

    count = min(len(pcm) // SAMPLE_BYTES, ms * ENGINE_RATE // 1000) // BLOCK * BLOCK
    if not count:
        return np.zeros(0, np.float32)
    spectrum = np.fft.rfft(np.frombuffer(pcm[-count * SAMPLE_BYTES :], "<i2").astype(np.float32))
    low = spectrum[: count // DECIMATION // 2 + 1]
    low[-1] = 0
    return np.fft.irfft(low, count // DECIMATION).astype(np.float32) / np.float32(32768 * DECIMATION)
