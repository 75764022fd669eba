"""A Wyoming server of its own process: espeak-ng as its voice, PocketSphinx as its ear.

    python wyoming_server.py [--port N] [--plain]

Prints `ready PORT`. `--plain`: neither text nor transcripts piece by piece, as of an old server. The voice `studio` is
stereo, 24 bits, 48 kHz; the texts "be silent", "break off" and "fail" make it do so.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from functools import partial

import numpy as np
from pocketsphinx import Decoder
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped

ABOUT = {"attribution": Attribution("tests", ""), "installed": True, "description": None, "version": None}
VOICES = {"english": ("en-us", ["en_US", "en"]), "german": ("de", ["de"]), "studio": ("en-gb", ["en-GB"])}
CHUNK = 1_024
LONGEST = 2 * 16_000 * 10
"""Bytes of an utterance that are listened to, the newest."""


def described(plain: bool) -> Info:
    """What it can do."""
    voices = [TtsVoice(name=name, languages=tags, **ABOUT) for name, (_, tags) in VOICES.items()]
    return Info(
        asr=[
            AsrProgram(
                name="pocketsphinx",
                models=[AsrModel(name="en-us", languages=["en"], **ABOUT)],
                supports_transcript_streaming=not plain,
                **ABOUT,
            )
        ],
        tts=[TtsProgram(name="espeak", voices=voices, supports_synthesize_streaming=not plain, **ABOUT)],
    )


async def synthesized(text: str, voice: str) -> tuple[bytes, int]:
    """PCM16 and its rate."""
    process = await asyncio.create_subprocess_exec(
        "espeak-ng", "--stdin", "--stdout", "-v", VOICES[voice][0],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    sound, _ = await process.communicate(text.encode())
    # The length in the header of what goes into a pipe is not known.
    return sound[44:], int.from_bytes(sound[24:28], "little")


class Handler(AsyncEventHandler):
    """One connection."""

    def __init__(self, plain: bool, ears: asyncio.Queue[Decoder], *streams: asyncio.StreamReader) -> None:
        super().__init__(*streams)  # type: ignore[arg-type]
        self.plain = plain
        self.ears = ears
        self.audio = bytearray()
        self.text: list[str] | None = None
        self.voice = ""

    async def handle_event(self, event: Event) -> bool:
        """Answer it; False ends the connection."""
        if Describe.is_type(event.type):
            await self.write_event(described(self.plain).event())
        elif Synthesize.is_type(event.type) and self.text is None:
            request = Synthesize.from_event(event)
            return await self.speak(request.text, (request.voice and request.voice.name) or "english")
        elif SynthesizeStart.is_type(event.type) and not self.plain:
            start = SynthesizeStart.from_event(event)
            self.text, self.voice = [], (start.voice and start.voice.name) or "english"
        elif SynthesizeChunk.is_type(event.type) and self.text is not None:
            self.text.append(SynthesizeChunk.from_event(event).text)
        elif SynthesizeStop.is_type(event.type) and self.text is not None:
            text, self.text = "".join(self.text), None
            for sentence in text.replace("! ", "!\n").replace("? ", "?\n").replace(". ", ".\n").splitlines():
                if not await self.speak(sentence, self.voice):
                    return False
            await self.write_event(SynthesizeStopped().event())
        elif Transcribe.is_type(event.type):
            self.audio.clear()
        elif AudioChunk.is_type(event.type):
            chunk = AudioChunk.from_event(event)
            assert (chunk.rate, chunk.width, chunk.channels) == (16_000, 2, 1)
            self.audio += chunk.audio
            del self.audio[:-LONGEST]
        elif AudioStop.is_type(event.type):
            await self.answer(bytes(self.audio))
        return True

    async def speak(self, text: str, voice: str) -> bool:
        """Send the speech; False breaks the connection."""
        if text == "be silent":
            await asyncio.sleep(3600)
        if text == "fail":
            await self.write_event(Error(text="I was asked to").event())
            return True
        pcm, rate = await synthesized(text, voice)
        width, channels = 2, 1
        if voice == "studio":
            loud = np.repeat(np.frombuffer(pcm, "<i2").astype("<i4"), 2)  # two channels
            pcm = (loud << 8).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
            width, channels = 3, 2
        form = {"rate": rate, "width": width, "channels": channels}
        await self.write_event(AudioStart(**form).event())
        for at in range(0, len(pcm), CHUNK):
            if text == "break off" and at:
                return False
            await self.write_event(AudioChunk(audio=pcm[at : at + CHUNK], **form).event())
        await self.write_event(AudioStop().event())
        return True

    async def answer(self, pcm: bytes) -> None:
        """Send what is said in `pcm`."""
        ear = await self.ears.get()
        try:
            text = await asyncio.to_thread(heard, ear, pcm)
        finally:
            self.ears.put_nowait(ear)
        if not self.plain:
            await self.write_event(TranscriptStart().event())
            for word in text.split():
                await self.write_event(TranscriptChunk(text=f"{word} ").event())
        await self.write_event(Transcript(text=text).event())
        if not self.plain:
            await self.write_event(TranscriptStop().event())


def heard(ear: Decoder, pcm: bytes) -> str:
    """The words in it."""
    if np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)).max(initial=0) < 250:
        return ""
    ear.start_utt()
    ear.process_raw(pcm, full_utt=True)
    ear.end_utt()
    hypothesis = ear.hyp()
    return hypothesis.hypstr if hypothesis else ""


async def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    port = options.port
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    ears: asyncio.Queue[Decoder] = asyncio.Queue()
    ears.put_nowait(Decoder(samprate=16_000, fwdflat=False, loglevel="FATAL"))
    server = AsyncServer.from_uri(f"tcp://127.0.0.1:{port}")
    await server.start(partial(Handler, options.plain, ears))
    print(f"ready {port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
