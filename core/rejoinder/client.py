"""A client of the native protocol: sends speech or text in real time, plays the reply and measures how long it took."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from rejoinder.audio import FRAME_MS, byte_count, read_wav, speech_end
from rejoinder.channel import Channel
from rejoinder.dial import DEFAULT_URL, credential_for, joins, open_socket, page_token, resume_url, send
from rejoinder.dial import SUBPROTOCOL as SUBPROTOCOL
from rejoinder.dial import Unreachable as Unreachable
from rejoinder.dial import session_url as session_url
from rejoinder.errors import RejoinderError
from rejoinder.events import (
    ClearAudio,
    ClientCommand,
    Configure,
    End,
    Error,
    OperatorHandedBack,
    OperatorTookOver,
    Playback,
    ReplyDucked,
    ReplyFinished,
    ReplyResumed,
    ReplyStarted,
    ServerEvent,
    SessionEnded,
    SessionStarted,
    Text,
    decode_event,
    encode,
)
from rejoinder.playhead import Player, Playhead
from rejoinder.turn_result import TurnInProgress
from rejoinder.turn_result import TurnResult as TurnResult

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

REPORT_S = 0.2
GOODBYE_S = 2.0
SETTLE_S = 5.0
METRICS_S = 0.5
TURN_LIMIT_S = 300.0
EVENTS_WAITING = 4096
RESUME_S = 10.0
"""A connection that broke is tried again for so long; the server keeps its place for `limits.idle_s`."""
RESUME_PAUSES_S = (0.1, 1.0)
"""Between attempts; the first is made at once, and each pause is twice the one before, up to the longest."""
DUCKED = 0.25
"""Gain while the server finds out whether the user interrupts (-12 dB)."""


class NoReply(RejoinderError):
    """The server did not answer in time."""

    code = "no_reply"
    retryable = True


class VoiceClient:
    """One session with a server: `async with VoiceClient.connect(url) as client: result = await client.say_wav(path)`.

    Leaving ends a session that was made for this client. One that it joined (a `url` with `/v1/sessions/`, or the link
    to a room's page) goes on for the others; `send(End())` ends it for everybody.

    Audio both ways is PCM16 mono. The reply's audio goes to a `Player` (by default one without sound), whose progress
    is reported to the server. One turn at a time may be said with the `say_...` methods; `send_audio` and `events()`
    are there for everything else. `on_event` is called for each server event as it arrives; what it raises ends the
    session and is raised by the call that waits or sends, at the latest when the client is left.

    With `resume` a connection that breaks is made anew, which is tried for 10 s: missed events come late, the answer
    goes on at the word that was cut, and calls that wait go on waiting. What a microphone hears meanwhile is lost;
    commands and recordings are sent afterwards. `on_lost` is called with the reason when a connection breaks; the
    event `session.started` with `resumed` says that it is back.
    """

    def __init__(
        self,
        url: str,
        configure: Configure,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        player: Player | None = None,
        on_event: Callable[[ServerEvent], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        resume: bool = True,
    ) -> None:
        self.url = session_url(url)
        self._credential = api_key or page_token(url) or credential_for(self.url)
        self._joins = joins(self.url)
        self.input_rate = configure.input_rate
        self.output_rate = configure.output_rate
        self.player: Player = player or Playhead(configure.output_rate)
        self.session: SessionStarted | None = None
        self.ended: SessionEnded | None = None
        self.operator: str | None = None
        """The name of who speaks instead of the agent."""
        self.stale_frames = 0
        """Audio frames of a reply that came after its `clear_audio`; a correct server sends none."""
        self._configure = configure
        self._timeout = timeout
        self.resumes = 0
        """How often the connection was lost and made anew."""
        self._on_event = on_event
        self._on_lost = on_lost
        self._resume = resume
        self._last_seq = 0
        self._away = False
        self._give_up_at = self._pause_s = 0.0
        self._gap = False
        self._socket: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._microphone: asyncio.Task[None] | None = None
        self._outgoing: deque[tuple[bytes, bool]] = deque()
        self._readers: set[Channel[ServerEvent]] = set()
        self._pulse: asyncio.Future[None] | None = None
        self._audio_came = asyncio.Event()
        self._report_now = asyncio.Event()
        self._over: Exception | None = None
        self._broken = False
        self._told = False
        self._last_error: Error | None = None
        self._turn: TurnInProgress | None = None
        self._open_reply = ""
        self._playing = ""
        self._cleared = False
        self._progress_at = 0.0

    @classmethod
    def connect(
        cls,
        url: str = DEFAULT_URL,
        *,
        agent: str | None = None,
        input_rate: int = 16_000,
        output_rate: int = 24_000,
        text_only: bool = False,
        api_key: str | None = None,
        timeout: float = 10.0,
        player: Player | None = None,
        on_event: Callable[[ServerEvent], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        resume: bool = True,
    ) -> VoiceClient:
        """A client that connects when it is entered; rates in Hz, `timeout` (s) for the connection and its session.

        `url` may also be the WebSocket of a room's session, or the link to its page with the token in it.
        `api_key` may also be a room token; without it the link's is shown, else that of `REJOINDER_API_KEY`, else (to
        a server on this machine) the developer's key.

        Entering raises:
            Unreachable: nobody listens there.
            RejoinderError: the server refused, with its reason.
        """
        configure = Configure(
            agent=agent, input_rate=input_rate, output_rate=output_rate, output="text" if text_only else "audio"
        )
        return cls(
            url,
            configure,
            api_key=api_key,
            timeout=timeout,
            player=player,
            on_event=on_event,
            on_lost=on_lost,
            resume=resume,
        )

    async def __aenter__(self) -> VoiceClient:
        self._socket = await open_socket(self.url, self._timeout, self._credential)
        self._tasks = [asyncio.create_task(self._receive(self._socket)), asyncio.create_task(self._report())]
        try:
            await self.send(self._configure)
            await self._wait(lambda: self.session is not None, self._timeout, "The server did not start a session")
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if self._broken and not self._told and error is None:
            self._check()

    async def close(self) -> None:
        """Close the connection; a session that was made for this client is ended before. Idempotent.

        Takes at most 2 s in all: a server that has not said goodbye by then is cut off.
        """
        socket, self._socket = self._socket, None
        if socket is None:
            return
        deadline = asyncio.get_running_loop().time() + GOODBYE_S
        try:
            if self._microphone:
                self._microphone.cancel()
                self._tasks.append(self._microphone)
            with contextlib.suppress(TimeoutError, RejoinderError):
                async with asyncio.timeout_at(deadline):
                    await self._say_goodbye(socket)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for reader in self._readers:
                reader.close()
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout_at(deadline):
                    await socket.close()
        finally:
            # Of a server that does not answer the close; the socket and its keepalive task would stay.
            socket.transport.abort()
        await socket.wait_closed()

    async def _say_goodbye(self, socket: ClientConnection) -> None:
        if not self.session or self.ended or self._joins or (self._over and not self._broken):
            return
        await send(socket, encode(End()), text=True)
        while not self.ended and not self._over:
            await self._changed(GOODBYE_S)

    async def send(self, command: ClientCommand) -> None:
        """Send a command.

        Raises:
            Unreachable: the connection is gone.
        """
        if self._broken:
            self._check()
        await self._transmit(encode(command), text=True)

    async def send_audio(self, pcm: bytes) -> None:
        """Send PCM16 at the input rate, any whole number of samples; the caller keeps the pace of real time.

        Raises:
            Unreachable: the connection is gone.
        """
        if self._broken:
            self._check()
        await self._transmit(pcm, or_drop=True)

    async def events(self) -> AsyncIterator[ServerEvent]:
        """All events from now on, until the session ends. A reader that falls 4096 events behind is dropped."""
        if self._socket is None or self._over:
            return
        channel: Channel[ServerEvent] = Channel(EVENTS_WAITING)
        self._readers.add(channel)
        try:
            async for event in channel:
                yield event
        finally:
            self._readers.discard(channel)

    async def say_wav(self, path: Path, *, timeout: float = 30.0) -> TurnResult:
        """Speak a WAV file in real time and wait until the answer was played.

        Raises:
            ConfigError: it is no WAV file.
            NoReply: nothing came for `timeout` s after the speech.
            RejoinderError: the session ended or the connection was lost.
        """
        pcm, _ = read_wav(path, self.input_rate)
        return await self.say_audio(pcm, timeout=timeout)

    async def say_audio(self, pcm: bytes, *, timeout: float = 30.0) -> TurnResult:
        """As `say_wav`, for PCM16 at the input rate; afterwards silence goes on being sent, as from a microphone."""
        size = byte_count(FRAME_MS, self.input_rate)
        last = (speech_end(pcm, self.input_rate) - 1) // size
        frames = [(pcm[at : at + size].ljust(size, b"\0"), at // size == last) for at in range(0, len(pcm), size)]
        with self._taking_turn() as turn:
            self._outgoing.extend(frames or [(bytes(size), True)])
            if self._microphone is None:
                self._microphone = asyncio.create_task(self._speak())
            return await self._finish(turn, timeout)

    async def say_text(self, text: str, *, timeout: float = 30.0) -> TurnResult:
        """Send `text` and wait until the answer was played (or, for a session without audio, given).

        Raises:
            NoReply: nothing came for `timeout` s.
            RejoinderError: the session ended or the connection was lost.
        """
        with self._taking_turn() as turn:
            turn.said()
            await self.send(Text(text=text))
            return await self._finish(turn, timeout)

    async def wait_greeting(self, grace: float = 0.3, timeout: float = 30.0) -> None:
        """Wait until the greeting has been played, if one begins within `grace` s.

        Raises:
            NoReply: it did not end within `timeout` s.
        """
        with contextlib.suppress(NoReply):
            await self._wait(lambda: bool(self._open_reply), grace, "There is no greeting")
        await self._wait(lambda: not self._open_reply, timeout, "The greeting did not end")

    @contextlib.contextmanager
    def _taking_turn(self) -> Iterator[TurnInProgress]:
        if self._turn is not None:
            raise RejoinderError("This client is in the middle of a turn.", code="busy", fix="Await it first.")
        self._check()
        self._turn = TurnInProgress(taken_over=self.operator is not None)
        try:
            yield self._turn
        finally:
            self._turn = None
            self._outgoing.clear()

    async def _finish(self, turn: TurnInProgress, timeout: float) -> TurnResult:
        self._progress_at = time.monotonic()
        while not turn.over():
            if self._over and turn.finished:
                break
            self._check()
            now = time.monotonic()
            if turn.said_at is None:
                wait = 1.0
            else:
                # An interrupted answer may be followed by another one, or by nothing.
                patience = SETTLE_S if turn.finished else timeout
                wait = max(self._progress_at, turn.said_at) + self.player.remaining_s() + patience - now
                wait = min(wait, turn.said_at + TURN_LIMIT_S - now)
            if wait <= 0:
                if turn.finished:
                    break
                raise self._no_reply(f"The server gave no answer for {timeout:g} s")
            await self._changed(wait)
        if not turn.measured() and not turn.taken_over and not self._over:
            with contextlib.suppress(RejoinderError):
                await self._wait(turn.measured, METRICS_S, "The server sent no metrics")
        if self._broken:
            self._check()
        await asyncio.sleep(self.player.remaining_s())
        return turn.result()

    async def _wait(self, ready: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            self._check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._no_reply(f"{what} within {timeout:g} s")
            await self._changed(left)

    def _check(self) -> None:
        """Raise why nothing more will come, if that is so."""
        if self._over:
            self._told = True
            raise self._over

    async def _changed(self, timeout: float) -> None:
        """Wait until something arrives, at most `timeout` s."""
        if self._pulse is None:
            self._pulse = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._pulse,), timeout=timeout)

    def _notify(self) -> None:
        self._progress_at = time.monotonic()
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse.set_result(None)

    def _no_reply(self, what: str) -> NoReply:
        last = f" (its last error: {self._last_error.message})" if self._last_error else ""
        return NoReply(f"{what}{last}.", fix="Look at the server's log; `rejoinder doctor` checks the machine.")

    async def _transmit(self, data: bytes, *, text: bool = False, or_drop: bool = False) -> None:
        """Send a frame; one that cannot be sent now waits for the connection to be made anew, or is dropped."""
        broken: ClientConnection | None = None
        while True:
            socket = self._socket
            if socket is None or (socket is not broken and not self._away):
                try:
                    await send(socket, data, text=text)
                    return
                except Unreachable:
                    if not self._may_resume():
                        raise
                broken = socket
            if or_drop:
                return
            if self._over:
                raise self._over
            await self._changed(self._timeout)

    def _may_resume(self) -> bool:
        known = self.session is not None and bool(self.session.resume_token) and not self.ended
        return self._resume and known and not self._over and self._socket is not None

    async def _receive(self, socket: ClientConnection) -> None:
        bug: Exception | None = None
        lost = ""
        try:
            while True:
                lost, broken = await self._read(socket)
                if not broken or not self._may_resume():
                    break
                if (again := await self._reconnect(lost)) is None:
                    break
                socket = again
        except Exception as error:  # noqa: BLE001 - of `on_event` or the player: for the caller, whatever it is
            bug = error
        finally:
            error_event = self._last_error
            if bug:
                self._over, self._broken = bug, True
            elif self.ended:
                self._over = RejoinderError(f"The session is over: {self.ended.reason}.", code="session_ended")
            elif error_event:
                self._over = RejoinderError(
                    error_event.message,
                    code=error_event.code,
                    fix=error_event.fix or None,
                    retryable=error_event.retryable,
                )
            else:
                self._over = Unreachable(f"{lost}.", fix="rejoinder serve")
            for reader in self._readers:
                reader.close()
            self._notify()

    async def _read(self, socket: ClientConnection) -> tuple[str, bool]:
        """Take what comes until there is no more; why that is, and whether the connection merely broke."""
        from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

        try:
            async for message in socket:
                if isinstance(message, bytes):
                    self._take_audio(message)
                else:
                    self._take_event(message)
                self._notify()
        except ConnectionClosedOK:
            pass
        except ConnectionClosed as error:
            return f"The connection was lost ({error})", error.rcvd is None
        return "The server closed the connection", False

    async def _reconnect(self, lost: str) -> ClientConnection | None:
        """Ask on a new connection for our place in the session; None if there is none to be had in time."""
        assert self.session is not None
        if not self._away:
            self._away = self._gap = True
            self._give_up_at, self._pause_s = time.monotonic() + RESUME_S, 0.0
            # What went wrong before is not why the line is dead.
            self._last_error = None
            self.player.clear()
            self._trim()
            if self._on_lost:
                self._on_lost(lost)
        url = resume_url(self.url, self.session.session_id)
        while True:
            await asyncio.sleep(self._pause_s)
            shortest, longest = RESUME_PAUSES_S
            self._pause_s = min(max(shortest, 2 * self._pause_s), longest)
            left = self._give_up_at - time.monotonic()
            if left <= 0 or not self._may_resume():
                return None
            with contextlib.suppress(RejoinderError):
                return await self._come_back(url, min(left, self._timeout))

    async def _come_back(self, url: str, timeout: float) -> ClientConnection | None:
        assert self.session is not None
        socket = await open_socket(url, timeout, self._credential)
        try:
            configure = msgspec.structs.replace(
                self._configure,
                agent=None,
                resume_token=self.session.resume_token,
                last_seq=self._last_seq,
                # Of a reply that began meanwhile nothing was played.
                played_ms=self.player.played_ms() if self._open_reply else 0.0,
            )
            await send(socket, encode(configure), text=True)
        except BaseException:
            socket.transport.abort()
            raise
        if self._socket is None:
            # Closed meanwhile.
            socket.transport.abort()
            return None
        self._socket = socket
        return socket

    def _trim(self) -> None:
        """What was buffered will not be played."""
        if self._turn:
            del self._turn.audio[byte_count(self.player.played_ms(), self.output_rate) :]

    def _take_audio(self, pcm: bytes) -> None:
        if self._cleared:
            self.stale_frames += 1
            return
        if self._gap:
            # It went on for others meanwhile, so what was played here is not where it is.
            self._playing = ""
        turn = self._turn
        if turn and turn.reply:
            if turn.first_audio_at is None:
                turn.first_audio_at = time.monotonic()
            turn.audio += pcm
        self.player.feed(pcm)
        self._audio_came.set()

    def _take_event(self, message: str) -> None:
        try:
            event = decode_event(message)
        except msgspec.MsgspecError:
            return  # A newer server may say more than this client knows.
        if not (isinstance(event, SessionStarted) and event.resumed):
            # That one has the newest number, and what was missed follows.
            self._last_seq = max(self._last_seq, event.seq)
        if isinstance(event, SessionStarted):
            self.session = event
            self.operator = event.operator or None
            self._away = False
            self.resumes += event.resumed
        elif isinstance(event, SessionEnded):
            self.ended = event
        elif isinstance(event, Error):
            self._last_error = event
        elif isinstance(event, OperatorTookOver):
            self.operator = event.operator
        elif isinstance(event, OperatorHandedBack):
            self.operator = None
        elif isinstance(event, ReplyStarted):
            self._open_reply = self._playing = event.reply_id
            self._cleared = self._gap = False
            self.player.duck(1.0)
            self.player.begin()
        elif isinstance(event, ReplyFinished):
            self._open_reply = ""
        elif isinstance(event, ClearAudio):
            self._cleared = True
            self.player.clear()
            self.player.duck(1.0)
            self._report_now.set()
            self._trim()
        elif isinstance(event, ReplyDucked):
            self.player.duck(DUCKED)
        elif isinstance(event, ReplyResumed):
            self._cleared = self._gap = False
            self.player.duck(1.0)
        if self._turn:
            self._turn.see(event)
        for reader in tuple(self._readers):
            if not reader.closed and not reader.send_nowait(event):
                reader.close()
        if self._on_event:
            self._on_event(event)

    async def _report(self) -> None:
        """Tell the server how far playback is: at its start, every 200 ms and once at its end."""
        while True:
            await self._audio_came.wait()
            self._audio_came.clear()
            reported: tuple[str, float] | None = None
            while True:
                self._report_now.clear()
                report = (self._playing, self.player.played_ms())
                if report[0] and report != reported:
                    playback = Playback(reply_id=report[0], played_ms=report[1])
                    await self._transmit(encode(playback), text=True, or_drop=True)
                    reported = report
                left = self.player.remaining_s()
                if left <= 0 and not self._report_now.is_set():
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(REPORT_S, left)):
                        await self._report_now.wait()

    async def _speak(self) -> None:
        """Send what is to be said, then silence, one frame each 20 ms."""
        silence = bytes(byte_count(FRAME_MS, self.input_rate))
        due = time.monotonic()
        while True:
            frame, last_of_speech = self._outgoing.popleft() if self._outgoing else (silence, False)
            if last_of_speech and self._turn:
                self._turn.said()
            resumes = self.resumes
            await self._transmit(frame)
            due = due + FRAME_MS / 1000 if self.resumes == resumes else time.monotonic()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
