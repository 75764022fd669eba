"""The processes that decode, and who has which."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from pathlib import Path

from rejoinder.errors import ProviderError

from rejoinder_pocketsphinx import NAME
from rejoinder_pocketsphinx.worker import HEADER, READY, RESET

START_S = 60.0
_WORKER = Path(__file__).with_name("worker.py")


class Decoder:
    """One process; whoever has it is the only one that asks it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._number = 0
        self._ended = False
        """Its output has ended; that it has, too, may come to be known a little later."""

    @classmethod
    async def start(cls) -> Decoder:
        """A decoder that is ready (about 0.5 s).

        Raises:
            ProviderError: it does not start.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                os.fspath(_WORKER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise ProviderError(NAME, f"its process cannot be started: {error}", code="bad_model") from error
        decoder = cls(process)
        try:
            async with asyncio.timeout(START_S):
                if await decoder._line() == READY:
                    return decoder
        except TimeoutError:
            pass
        except BaseException:
            await decoder.stop()
            raise
        await decoder.stop()
        raise ProviderError(NAME, "its process does not get ready", code="bad_model", retryable=False)

    @property
    def works(self) -> bool:
        """Whether it can be asked."""
        return self._process.returncode is None and not self._ended

    def reset(self, mean: str) -> None:
        """Begin a new utterance of a session with that mean. What was asked before is answered to nobody."""
        self._send(RESET, mean.encode())

    async def ask(self, what: bytes, pcm: bytes = b"") -> tuple[str, str]:
        """The text after `pcm`, and the mean of the session. May be cancelled: the answer is then passed over.

        Raises:
            ProviderError: the process has ended.
        """
        self._send(what, pcm)
        wanted = self._number
        while True:
            number, mean, text = (await self._line()).decode().rstrip("\n").split("\t")
            if int(number) == wanted:
                return text, mean

    def _send(self, what: bytes, pcm: bytes) -> None:
        self._number = (self._number + 1) % (1 << 32)
        assert self._process.stdin is not None
        self._process.stdin.write(HEADER.pack(what, self._number, len(pcm)) + pcm)

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            self._ended = True
            raise ProviderError(NAME, "its process has ended", code="stt_failed")
        return line

    async def stop(self) -> None:
        """End the process at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()


class Pool:
    """So many decoders, for one utterance each."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[Decoder] = []
        self._count = 0
        """Those that are there or being started."""
        self._all: set[Decoder] = set()
        self._waiting: deque[asyncio.Future[Decoder | None]] = deque()
        self.open = False

    async def start(self) -> None:
        """Start all decoders.

        Raises:
            ProviderError: one of them does not start.
        """
        self.open = True
        started = await asyncio.gather(*(self._start_one() for _ in range(self._size)), return_exceptions=True)
        for one in started:
            if isinstance(one, BaseException):
                await self.close()
                raise one
            self.give_back(one)

    async def take(self) -> Decoder:
        """A decoder for a new utterance, as soon as it is one's turn; to be given back.

        Raises:
            ProviderError: the pool is closed, or a decoder that has died cannot be started again.
        """
        decoder: Decoder | None = None
        while decoder is None:
            if not self.open:
                raise ProviderError(NAME, "is not ready.", code="not_ready", fix="Call warm_up() first.")
            if self._free:
                decoder = self._alive(self._free.pop())
            elif self._count < self._size:
                decoder = await self._start_one()
            else:
                turn: asyncio.Future[Decoder | None] = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                try:
                    decoder = await turn
                except asyncio.CancelledError:
                    if turn.done() and not turn.cancelled():
                        self._pass_on(turn.result())
                    raise
        return decoder

    def give_back(self, decoder: Decoder) -> None:
        """It is free again, or, if it has died, to be replaced."""
        self._pass_on(self._alive(decoder))

    def _alive(self, decoder: Decoder) -> Decoder | None:
        if decoder.works:
            return decoder
        if decoder in self._all:
            self._all.discard(decoder)
            self._count -= 1
        return None

    def _pass_on(self, decoder: Decoder | None) -> None:
        """To whoever has waited longest; None: there is room for one that he may start."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(decoder)
                return
        if decoder is not None:
            self._free.append(decoder)

    async def _start_one(self) -> Decoder:
        self._count += 1
        try:
            decoder = await Decoder.start()
        except BaseException:
            self._count -= 1
            self._pass_on(None)
            raise
        self._all.add(decoder)
        if not self.open:
            await self.close()
            raise ProviderError(NAME, "is closed.", code="not_ready")
        return decoder

    async def close(self) -> None:
        """End all processes; whoever waits is told."""
        self.open = False
        decoders, self._all, self._free, self._count = self._all, set(), [], 0
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
        self._waiting.clear()
        await asyncio.gather(*(decoder.stop() for decoder in decoders))
