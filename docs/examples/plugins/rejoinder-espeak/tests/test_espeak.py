"""What is special about espeak-ng: processes, its text that is half a language, voices and languages."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest
from rejoinder.errors import ProviderError, ProviderRejected

from rejoinder_espeak import LANGUAGES, Settings
from rejoinder_espeak.sound import Trimmer
from rejoinder_espeak.text import speakable
from rejoinder_espeak.voice import EspeakTts

T = TypeVar("T")


def made(**settings: Any) -> EspeakTts:
    return EspeakTts(SimpleNamespace(settings=Settings(**settings)))  # type: ignore[arg-type]


def run(use: Callable[[EspeakTts], Awaitable[T]], **settings: Any) -> T:
    async def main() -> T:
        tts = made(**settings)
        await tts.warm_up()
        try:
            return await use(tts)
        finally:
            await tts.close()

    return asyncio.run(main())


async def speak(tts: EspeakTts, text: str, voice: str | None = None, language: str = "en") -> bytes:
    return b"".join([piece async for piece in tts.stream(text, voice=voice, language=language)])


def children() -> list[psutil.Process]:
    """Processes we have started and not waited for, zombies included."""
    return psutil.Process().children()


def test_a_stream_that_is_closed_leaves_no_process() -> None:
    async def use(tts: EspeakTts) -> float:
        worst = []
        for _ in range(5):
            # More than pipe and reader hold: the process stands in the middle, and the reader is paused.
            stream = tts.stream("Hello there. " * 5000, voice=None, language="en")
            assert await anext(stream)
            await asyncio.sleep(0.05)
            assert children()
            began = time.perf_counter()
            await stream.aclose()
            worst.append(time.perf_counter() - began)
            assert not children()
        return min(worst)

    assert run(use) < 0.05


def test_a_cancelled_one_neither() -> None:
    async def use(tts: EspeakTts) -> None:
        for after in (0, 0.0005, 0.002, 0.005, 0.01):
            task = asyncio.create_task(speak(tts, "Hello there. " * 5000))
            await asyncio.sleep(after)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        for _ in range(500):
            if not children():
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"still there: {children()}")

    run(use)


def test_the_first_sound_of_a_long_text_is_there_long_before_the_last() -> None:
    async def use(tts: EspeakTts) -> tuple[float, float]:
        began = time.perf_counter()
        first, seconds = 0.0, 0.0
        async for piece in tts.stream("Hello there, how are you? " * 400, voice=None, language="en"):
            first = first or time.perf_counter() - began
            seconds += len(piece) / 44_100
        assert seconds > 300
        return first, time.perf_counter() - began

    first, whole = run(use)
    assert first < whole / 3


def test_text_is_never_an_argument(tmp_path: Path) -> None:
    seen = tmp_path / "arguments"
    program = tmp_path / "espeak"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {seen}\nexec espeak-ng "$@"\n')
    program.chmod(0o755)
    injected = f"-w {tmp_path}/stolen.wav; touch {tmp_path}/run $(touch {tmp_path}/run)"
    assert run(lambda tts: speak(tts, injected), program=str(program))
    assert "stolen" not in seen.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arguments", "espeak"]


def test_phonemes_and_markup_in_a_text_are_not_taken_for_orders() -> None:
    assert speakable("[[h@l'oU]] is **bold**, `code` and [a link](https://example.com/x?y=1)") == (
        "h@l'oU is bold , code and a link"
    )
    assert speakable("# Title\n- one\n- two") == "Title one two"
    assert speakable("See https://www.example.com/a/b?c#d") == "See example.com"
    assert speakable("snake_case is 3*4, 20°") == "snake_case is 3*4, 20°"
    assert speakable("Well done 👍🏽!") == "Well done !"
    assert speakable("नमस्ते, עברית, 你好") == "नमस्ते, עברית, 你好"
    for nothing in ("👍", "...", "**", "\x00\u200b", ""):
        assert speakable(nothing) == ""


def test_halves_of_characters_do_not_break_it() -> None:
    assert run(lambda tts: speak(tts, "Hello \ud800 there"))


def test_every_language_that_is_claimed_is_spoken() -> None:
    async def use(tts: EspeakTts) -> None:
        assert tts.voices is not None
        assert [tag for tag in LANGUAGES if tts.voices.speaking(tag) is None] == []
        for tag, text in {"zh": "你好", "ru": "Привет", "hi": "नमस्ते", "pt-BR": "Olá", "en-AU": "Hello"}.items():
            assert len(await speak(tts, text, language=tag)) > 4_000, tag
        with pytest.raises(ProviderRejected, match="does not speak"):
            await speak(tts, "Hello", language="xx")

    run(use)


def test_voices_are_known_before_warm_up_and_have_variants() -> None:
    voices = made().voices
    assert voices is not None
    assert "en-us" in voices
    assert "en-us+f3" in voices
    assert "en-us+../x" not in voices
    assert "klingon-opera" not in voices
    assert voices.speaking("en-GB") == "en-gb"
    assert voices.speaking("fr-CA") == "fr-fr"
    assert voices.speaking("no") == "nb"


def test_settings_are_heard() -> None:
    text = "One, two, three, four, five."
    usual = run(lambda tts: speak(tts, text))
    slow = run(lambda tts: speak(tts, text), rate=90)
    quiet = run(lambda tts: speak(tts, text), volume=20)
    gaps = run(lambda tts: speak(tts, text), word_gap_ms=300)
    other = run(lambda tts: speak(tts, text), variant="f3")
    named = run(lambda tts: speak(tts, text, voice="en-gb+f3"))
    assert len(slow) > 1.4 * len(usual)
    assert len(gaps) > len(usual) + 4 * 44_100 * 0.2
    assert np.abs(np.frombuffer(quiet, "<i2")).max() < np.abs(np.frombuffer(usual, "<i2")).max() / 2
    assert other == named != usual
    assert run(lambda tts: speak(tts, text)) == usual, "the same text is spoken the same"


def test_a_missing_program_is_named_with_what_to_install() -> None:
    tts = made(program="/nowhere/espeak-ng")
    assert tts.voices is None
    with pytest.raises(ProviderError, match="cannot be started") as caught:
        asyncio.run(tts.warm_up())
    assert caught.value.code == "missing_program"
    assert "apt install espeak-ng" in str(caught.value.fix)


def test_a_program_that_fails_or_speaks_at_another_rate_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "espeak"

    def says(script: str) -> str:
        program.write_text(f'#!/bin/sh\n[ "$1" = --voices ] && exec espeak-ng --voices\n{script}\n')
        program.chmod(0o755)
        return os.fspath(program)

    with pytest.raises(ProviderError, match="status 3"):
        run(lambda tts: speak(tts, "Hello"), program=says("cat >/dev/null; exit 3"))
    with pytest.raises(ProviderError, match="16000 Hz"):
        script = (
            r"cat >/dev/null; printf 'RIFF0000WAVEfmt \020\0\0\0\001\0\001\0\200\076\0\0\0\175\0\0\002\0\020\0data0000'"
        )
        run(lambda tts: speak(tts, "Hello"), program=says(script))


def test_silence_is_cut_off_at_the_ends_and_kept_in_the_middle() -> None:
    quiet, loud = bytes(2 * 22_050), b"\x00\x20" * 2_205
    for size in (10, 1_000, 44_100, 1_000_000):
        trimmer = Trimmer(22_050)
        whole = quiet + loud + quiet + loud + quiet
        pieces = [trimmer.process(whole[at : at + size]) for at in range(0, len(whole), size)]
        sound = b"".join(pieces) + trimmer.end()
        assert sound.strip(b"\0").count(b"\x20") == 2 * 2_205
        assert abs(len(sound) / 44_100 - (0.02 + 0.1 + 1 + 0.1 + 0.1)) < 0.001, size
    trimmer = Trimmer(22_050)
    assert not trimmer.process(quiet) + trimmer.end()
