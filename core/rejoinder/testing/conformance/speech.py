"""Speech for tests: the author's own recordings, else sentences spoken by the installed voice `hibari`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from rejoinder import audio
from rejoinder.errors import RejoinderError
from rejoinder.testing.conformance.rules import NotChecked, run_in_loop
from rejoinder.testing.conformance.subject import installed, warm

SENTENCES = (
    "Please call me back tomorrow morning.",
    "The train to London leaves at half past seven.",
    "Can you tell me where the nearest station is?",
    "I would like to book a table for two.",
)
VOICE = "hibari"


class Speech(NamedTuple):
    """Somebody speaking: PCM16 at 16 kHz, and the words."""

    pcm: bytes
    text: str


_spoken: list[Speech] = []


def speech(samples: Sequence[tuple[str | Path, str]] = (), language: str = "en") -> list[Speech]:
    """Recordings with their words; `samples` are paths of WAV files and what is said in them.

    Raises:
        NotChecked: there are none, and no voice that could speak some.
    """
    if samples:
        return [Speech(audio.read_wav(Path(path), audio.ENGINE_RATE)[0], text) for path, text in samples]
    if language.partition("-")[0].lower() != "en":
        raise NotChecked(f"there is no speech in {language!r}: set `samples`, WAV files and their words")
    if not _spoken:
        try:
            _spoken.extend(_speak())
        except (RejoinderError, NotChecked) as error:
            raise NotChecked(
                f"there is no speech at hand: set `samples`, or pip install 'rejoinder[local]' ({error})"
            ) from None
    return list(_spoken)


def _speak() -> list[Speech]:
    found = installed(f"tts:{VOICE}")

    async def speak() -> list[Speech]:
        made = []
        async with warm(found, found.plugins.provider("tts", VOICE), {}) as voice:
            for text in SENTENCES:
                async with aclosing(voice.stream(text, voice=None, language="en")) as stream:
                    pcm = b"".join([piece async for piece in stream if isinstance(piece, bytes)])
                pcm = audio.resample(pcm, voice.sample_rate, audio.ENGINE_RATE)
                made.append(Speech(pcm, text))
        return made

    # In a thread: whoever asks may be in an event loop already.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run_in_loop, speak()).result()


def words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return re.findall(r"[\w']+", text.lower())


def error_rate(heard: str, said: str) -> float:
    """The share of wrong words (word error rate): words put in, left out or changed, of those that were said."""
    old, new = words(said), words(heard)
    row = list(range(len(new) + 1))
    for i, word in enumerate(old, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(new, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1] / max(1, len(old))
