"""A decoder in a process of its own: audio in by the standard input, lines of text out.

PocketSphinx holds Python's lock while it decodes, 10 ms and more at a time, so in a thread of the server it would make
everybody's sound stutter. Imports nothing of the plugin: it is run by its path.

A request is `HEADER` (what is wanted, a number, how many bytes follow) and those bytes. Every request but `RESET` is
answered with a line: the number, the mean of the session (see `Recogniser`; with `FINAL` only), the text so far.
"""

from __future__ import annotations

import array
import struct
import sys
from typing import Any, BinaryIO

HEADER = struct.Struct(">cII")
RESET, AUDIO, FINAL = b"R", b"A", b"F"
READY = b"ready\n"
RATE = 16_000
QUIET = 250
"""An utterance without a sample above this (-42 dB) has no words; the decoder would make some."""
AGAIN_BYTES = 2 * RATE * 6
"""What was ended for its final transcript must be decoded anew if it goes on. Of more than 6 s that would take too
long; then the final transcript is the one so far."""


class Recogniser:
    """One utterance after the other.

    What is understood depends a lot on the mean of the cepstra: of the voice, the microphone, the line. PocketSphinx
    learns it as it goes along, but here each utterance may be of another caller. So a session keeps its own `mean`. As
    long as it has none, its utterances are decoded once more as a whole in the end, when their mean is known.
    """

    def __init__(self) -> None:
        import pocketsphinx

        # The second pass (fwdflat) takes a quarter of a second at the end and makes little better.
        self._decoder: Any = pocketsphinx.Decoder(samprate=RATE, fwdflat=False, loglevel="FATAL")
        self._usual: str = self._decoder.get_cmn()
        self._running = False
        self.reset("")

    def reset(self, mean: str) -> None:
        """Begin a new utterance of a session with that mean; "" if it is not known."""
        self._end()
        self.mean = mean
        self._audio = bytearray()
        self._decoded = 0
        self._loudest = 0
        self._final: str | None = None

    def feed(self, pcm: bytes) -> str:
        """Decode more of the utterance; the text so far."""
        self._audio += pcm
        if self._final is not None:
            if not self._speaks(pcm):
                # The silence after the end: it is the same transcript, without decoding all of it again.
                return self._final
            self._final = None
        if not self._running:
            self._decoder.set_cmn(self.mean or self._usual)
            self._decoder.start_utt()
            self._running = True
            self._decoded = 0
        # A piece may end in the middle of a sample.
        end = len(self._audio) // 2 * 2
        new = bytes(self._audio[self._decoded : end])
        self._loudest = max(self._loudest, loudest(new))
        self._decoder.process_raw(new)
        self._decoded = end
        return self._text()

    def final(self) -> str:
        """The transcript of the utterance, which may go on afterwards."""
        if self._final is None:
            if self._running and self._loudest >= QUIET and len(self._audio) <= AGAIN_BYTES:
                self._end()
                if not self.mean:
                    self._decoder.start_utt()
                    self._decoder.process_raw(bytes(self._audio[: self._decoded]), full_utt=True)
                    self._decoder.end_utt()
            self._final = self._text()
        return self._final

    def learned(self) -> str:
        """The mean of the session as far as it is known; of less than 1 s of speech it is not."""
        if self._running or self._loudest < QUIET or self._decoded < 2 * RATE:
            return self.mean
        mean: str = self._decoder.get_cmn(True)
        return mean

    def _speaks(self, pcm: bytes) -> bool:
        """Whether more speech may have come: something within 20 dB of the loudest."""
        # Where the last piece ended in the middle of a sample, this one begins there.
        start = len(self._audio) - len(pcm)
        start -= start % 2
        return loudest(self._audio[start : len(self._audio) // 2 * 2]) >= max(QUIET, self._loudest // 10)

    def _text(self) -> str:
        if self._loudest < QUIET:
            return ""
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    def _end(self) -> None:
        if self._running:
            self._decoder.end_utt()
            self._running = False


def loudest(pcm: bytes | bytearray) -> int:
    """The largest sample of PCM16, its sign aside."""
    samples = array.array("h", bytes(pcm))
    return max(max(samples, default=0), -min(samples, default=0))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are none."""
    recogniser = Recogniser()
    answers.write(READY)
    answers.flush()
    while len(header := requests.read(HEADER.size)) == HEADER.size:
        what, number, size = HEADER.unpack(header)
        body = requests.read(size)
        if what == RESET:
            recogniser.reset(body.decode())
            continue
        text = recogniser.feed(body) if what == AUDIO else recogniser.final()
        mean = recogniser.learned() if what == FINAL else ""
        answers.write(f"{number}\t{mean}\t{text}\n".encode())
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
