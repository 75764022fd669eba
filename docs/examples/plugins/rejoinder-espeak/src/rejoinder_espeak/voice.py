"""The TTS provider: one short-lived process of espeak-ng per chunk of text, read as it speaks."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rejoinder.errors import ProviderError, ProviderRejected
from rejoinder.providers import ProviderContext

from rejoinder_espeak import NAME, RATE, Settings
from rejoinder_espeak.sound import Trimmer, without_header
from rejoinder_espeak.text import speakable
from rejoinder_espeak.voices import Voices

LISTING_S = 2.0
"""The list of voices must be there by then; it takes about 7 ms."""
PIECE_BYTES = 16_384
"""At most 370 ms at a time; the first piece comes as soon as there is any."""


class EspeakTts:
    """Speaks; nothing of a call is kept here, each chunk has a process of its own."""

    sample_rate = RATE

    def __init__(self, context: ProviderContext) -> None:
        self._settings: Settings = context.settings
        self._voices: Voices | None = None

    @property
    def voices(self) -> Voices | None:
        """The voices of the installed espeak-ng; None where there is none.

        They are wanted before `warm_up`, and only by some: so the program is asked here, once, when they are.
        """
        if self._voices is None:
            with contextlib.suppress(ProviderError):
                self._voices = self._list()
        return self._voices

    async def warm_up(self) -> None:
        """See whether the program is there, and ask for its voices.

        Raises:
            ProviderError: it is not, or does not work (`missing_program`, `bad_program`).
        """
        if self._voices is None:
            self._voices = await asyncio.to_thread(self._list)

    async def stream(self, text: str, *, voice: str | None, language: str) -> AsyncGenerator[bytes, None]:
        """The speech of `text` as it is made, without silence at the ends.

        Raises:
            ProviderRejected: it has no such voice, or does not speak the language.
            ProviderError: the program is not there, or failed.
        """
        chosen = self._choose(voice, language)
        if not (text := speakable(text)):
            return
        trimmer = Trimmer(RATE)
        async with aclosing(self._speak(text, chosen)) as pieces:
            async for piece in without_header(pieces, RATE):
                if sound := trimmer.process(piece):
                    yield sound
        if end := trimmer.end():
            yield end

    async def close(self) -> None:
        """Nothing to do: processes end with their streams."""

    def _choose(self, voice: str | None, language: str) -> str:
        voices = self._voices
        if voices is None:
            raise ProviderError(NAME, "is not ready.", code="not_ready", fix="Call warm_up() first.")
        if voice is not None:
            if voice not in voices:
                raise ProviderRejected(
                    NAME,
                    f"has no voice {voice[:50]!r}.",
                    code="unknown_voice",
                    fix="See `espeak-ng --voices` (column Language); +VARIANT may follow, as in en-us+f3.",
                )
            return voices.argument(voice)
        chosen = voices.speaking(language)
        if chosen is None:
            raise ProviderRejected(
                NAME,
                f"does not speak {language[:50]!r}.",
                code="unsupported_language",
                fix="Set another `tts`, or a `voice`.",
            )
        variant = self._settings.variant
        return voices.argument(f"{chosen}+{variant}" if variant else chosen)

    async def _speak(self, text: str, voice: str) -> AsyncGenerator[bytes, None]:
        """What the program writes: a WAV file. It is killed when this is closed."""
        settings = self._settings
        # The text goes in by the standard input: no options in it, and not seen in lists of processes.
        arguments = ["--stdin", "--stdout", "-b1", "-v", voice, "-s", str(settings.rate)]
        arguments += ["-p", str(settings.pitch), "-a", str(settings.volume), "-g", str(settings.word_gap_ms // 10)]
        try:
            process = await asyncio.create_subprocess_exec(
                settings.program,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise _missing(settings.program, error) from None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(text.encode("utf-8", "ignore"))
                await process.stdin.drain()
            process.stdin.close()
            while piece := await process.stdout.read(PIECE_BYTES):
                yield piece
            if status := await process.wait():
                raise ProviderError(NAME, f"{settings.program} ended with status {status}", code="tts_failed")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                # Unread output keeps the pipe open, and as long as it is, `wait` does not return.
                while await process.stdout.read(1 << 20):
                    pass
                await process.wait()

    def _list(self) -> Voices:
        """Ask the program for its voices; in a thread, or for some milliseconds."""
        program = self._settings.program
        try:
            run = subprocess.run(
                [program, "--voices"], stdin=subprocess.DEVNULL, capture_output=True, timeout=LISTING_S, check=True
            )
        except OSError as error:
            raise _missing(program, error) from None
        except subprocess.SubprocessError as error:
            raise ProviderError(NAME, f"{program} does not work: {error}", code="bad_program") from error
        voices = Voices(run.stdout.decode("utf-8", "replace"))
        if not len(voices):
            raise ProviderError(NAME, f"{program} has no voices", code="bad_program", fix="Install espeak-ng-data.")
        return voices


def _missing(program: str, error: OSError) -> ProviderError:
    return ProviderError(
        NAME,
        f"the program {program!r} cannot be started: {error.strerror or error}",
        code="missing_program",
        retryable=False,
        fix="Install eSpeak NG: `apt install espeak-ng`, `dnf install espeak-ng`, `brew install espeak-ng`; "
        "or set REJOINDER_PLUGINS__ESPEAK__PROGRAM to where it is.",
    )
