"""`rejoinder talk`: speak with a server by microphone, WAV files or text, and see how long each answer took."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rejoinder.channel import Channel, ChannelClosed
from rejoinder.commands.report import Distribution, figure, table
from rejoinder.errors import AuthError, RejoinderError
from rejoinder.events import (
    Error,
    Interruption,
    OperatorHandedBack,
    OperatorTookOver,
    ReplyFinished,
    ReplyText,
    ServerEvent,
    SessionEnded,
    SessionStarted,
    Transcript,
    TurnCommitted,
    TurnMetrics,
    encode,
)

if TYPE_CHECKING:
    from rejoinder.client import TurnResult, VoiceClient

INPUT_RATE = 16_000
OUTPUT_RATE = 24_000


@click.command("talk")
@click.option(
    "--url",
    default="ws://127.0.0.1:8080",
    show_default=True,
    help="The server; or, to join a room, its link (join.page) or its session's WebSocket (join.ws).",
)
@click.option(
    "--key",
    help="An API key or room token.  "
    "[default: the link's, else REJOINDER_API_KEY, else the developer's key on this machine]",
)
@click.option("--agent", help="Which agent to talk to (default: the server's).")
@click.option(
    "--wav", "wavs", type=click.Path(path_type=Path), multiple=True, help="Say this file; repeat for more turns."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write what was answered to this WAV file."
)
@click.option("--text", "texts", multiple=True, help="Write this; repeat for more turns; - reads lines from stdin.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's events, one JSON object per line.")
@click.option("--timeout", default=30.0, show_default=True, help="Give up after so many seconds without an answer.")
def command(
    url: str,
    key: str | None,
    agent: str | None,
    wavs: tuple[Path, ...],
    out: Path | None,
    texts: tuple[str, ...],
    as_json: bool,
    timeout: float,
) -> None:
    """Talk to a server. Without --wav and --text: by microphone and loudspeaker (extra `mic`), until Ctrl+C.

    A session that was made for you ends when you are done; one that you joined goes on for the others.

    Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 the server refuses the key, 5 no server, 130 interrupted.
    """
    if wavs and texts:
        raise click.UsageError("Give either --wav or --text.")
    if out and not wavs and not texts:
        raise click.UsageError("--out needs --wav or --text.")
    screen = Screen(as_json)
    try:
        try:
            if wavs or texts:
                asyncio.run(_take_turns(url, key, agent, wavs, texts, out, timeout, screen))
            else:
                asyncio.run(_converse(url, key, agent, screen))
        except RejoinderError as error:
            error.told = screen.has_told(error)
            raise
        finally:
            screen.close()
    except BrokenPipeError:
        _leave_closed_pipes()


def _leave_closed_pipes() -> None:
    """Whoever read the output has enough (`| head`): drop the rest, which Python would complain about as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


class Screen:
    """What is printed while a conversation goes on: answers to stdout, progress and errors to stderr."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._partials = sys.stderr.isatty() and not as_json
        self._open = ""
        self._space = ""
        self._transcribed = ""
        self._metrics: list[TurnMetrics] = []
        self._heard: list[float] = []
        self._told: set[str] = set()

    def show(self, event: ServerEvent) -> None:
        """Print an event as it arrives.

        Raises:
            AuthError: it says that this key may not do that (`forbidden`); trying on would only hear it again.
        """
        if self._json:
            click.echo(encode(event))
        if isinstance(event, Error) and event.code == "forbidden":
            raise AuthError(event.message, code=event.code, fix=event.fix or None)
        if self._json:
            return
        if isinstance(event, Transcript):
            if event.final:
                self._transcribed = event.turn_id
                self._line(f"you: {event.text}")
            elif self._partials:
                self._clear()
                click.echo(click.style(f"\r… {event.text[-100:]}", dim=True), nl=False, err=True)
                self._open = "partial"
        elif isinstance(event, TurnCommitted):
            if event.turn_id != self._transcribed:
                self._line(f"you: {event.text}")
        elif isinstance(event, ReplyText):
            if self._open != "reply":
                self._clear()
                click.echo("agent: ", nl=False)
                self._open, self._space = "reply", ""
            # Space at the end of a piece waits for the next one, so that no line ends in it.
            text = self._space + event.delta
            self._space = text[len(text.rstrip()) :]
            click.echo(text.rstrip(), nl=False)
        elif isinstance(event, Interruption):
            if not event.accepted:
                said = f" ({event.text!r})" if event.text else ""
                self._line(f"  [not interrupted: {event.cause}{said}]")
        elif isinstance(event, ReplyFinished):
            if event.reason != "completed":
                self._line(f"  [{event.reason}; heard: {event.heard_text or 'nothing'}]")
        elif isinstance(event, OperatorTookOver):
            self._progress(f"{event.operator} has taken over from the agent.")
        elif isinstance(event, OperatorHandedBack):
            lost = " is gone, and" if event.reason == "lost" else " has handed back:"
            self._progress(f"{event.operator}{lost} the agent answers again.")
        elif isinstance(event, TurnMetrics):
            self._metrics.append(event)
        elif isinstance(event, SessionStarted):
            if event.resumed:
                self._progress("The connection is back.")
        elif isinstance(event, Error):
            fix = f" Fix: {event.fix}" if event.fix else ""
            self._told.add(event.message)
            self._progress(click.style(f"error: {event.message}{fix} [{event.code}]", fg="red"))
        elif isinstance(event, SessionEnded) and event.reason != "client_ended":
            # As the client's errors say it.
            self._told |= {f"The session has ended: {event.reason}.", f"The session is over: {event.reason}."}
            self._progress(f"The session has ended: {event.reason}.")

    def has_told(self, error: RejoinderError) -> bool:
        """Whether the event that became `error` was printed."""
        return error.message in self._told

    def turn(self, result: TurnResult) -> None:
        """Print what a turn took, once it is over."""
        if result.first_audio_ms is not None:
            self._heard.append(result.first_audio_ms)
        if result.metrics and not self._json:
            self._line("  " + latency_line(result.metrics, result.first_audio_ms))

    def metrics(self, event: ServerEvent) -> None:
        """As `turn`, for a conversation without turns of its own: prints what the server measured."""
        if isinstance(event, TurnMetrics) and not self._json:
            self._line("  " + latency_line(event, None))

    def lost(self, reason: str) -> None:
        """Say that the connection broke and is being made anew."""
        self.progress(f"{reason}. Trying to come back ...")

    def progress(self, text: str) -> None:
        """Say on stderr what is going on."""
        if not self._json:
            self._progress(text)

    def close(self) -> None:
        """Print the table at the end, if there was more than one answer."""
        self._clear()
        if not self._json and len(self._metrics) > 1:
            click.echo(latency_table(self._metrics, self._heard))

    def _line(self, text: str) -> None:
        self._clear()
        click.echo(text)

    def _progress(self, text: str) -> None:
        self._clear()
        click.echo(text, err=True)

    def _clear(self) -> None:
        if self._open == "partial":
            click.echo("\r\033[K", nl=False, err=True)
        elif self._open == "reply":
            click.echo()
        self._open = ""


def latency_line(metrics: TurnMetrics, heard_ms: float | None) -> str:
    """One turn's spans in ms, their sum and what the client measured; `*` marks work that the pause had hidden."""
    spans = " · ".join(f"{span.name} {span.us / 1000:.0f}{'*' if span.hidden else ''}" for span in metrics.spans)
    heard = "" if heard_ms is None else f" (heard after {heard_ms:.0f} ms)"
    return f"{spans} ─ {metrics.response_us / 1000:.0f} ms{heard}"


def latency_table(metrics: list[TurnMetrics], heard: list[float]) -> str:
    """Percentiles over turns, in ms: what the client heard, what the server measured, and each span."""
    values: dict[str, list[float]] = {"heard": heard, "response": [turn.response_us / 1000 for turn in metrics]}
    for turn in metrics:
        for span in turn.spans:
            values.setdefault(span.name, []).append(span.us / 1000)
    rows = []
    for name, known in values.items():
        if not known:
            continue
        of = Distribution.of(known)
        rows.append((name, figure(of.p50), figure(of.p95), figure(of.max), str(of.n)))
    return table(("ms", "p50", "p95", "max", "n"), rows)


async def _take_turns(
    url: str,
    key: str | None,
    agent: str | None,
    wavs: tuple[Path, ...],
    texts: tuple[str, ...],
    out: Path | None,
    timeout: float,
    screen: Screen,
) -> None:
    from rejoinder.audio import read_wav, write_wav
    from rejoinder.client import VoiceClient

    spoken = [read_wav(path, INPUT_RATE)[0] for path in wavs]
    audio = bytearray()
    said = failed = 0
    connecting = VoiceClient.connect(
        url,
        agent=agent,
        input_rate=INPUT_RATE,
        output_rate=OUTPUT_RATE,
        text_only=bool(texts) and out is None,
        api_key=key,
        on_event=screen.show,
        on_lost=screen.lost,
    )
    async with connecting as client:
        await client.wait_greeting()
        try:
            async with contextlib.aclosing(_turns(spoken, texts, screen)) as turns:
                async for turn in turns:
                    if client.ended:
                        left = len(spoken) + len(texts) - said
                        message = f"The session has ended: {client.ended.reason}; {left} of the turns were not said."
                        raise RejoinderError(message, code="session_ended")
                    said += 1
                    if isinstance(turn, bytes):
                        result = await client.say_audio(turn, timeout=timeout)
                    else:
                        result = await client.say_text(turn, timeout=timeout)
                    screen.turn(result)
                    audio += result.audio
                    failed += any(
                        isinstance(event, ReplyFinished) and event.reason == "failed" for event in result.events
                    )
        finally:
            if out:
                write_wav(out, bytes(audio), OUTPUT_RATE)
        if client.ended and client.ended.reason not in ("agent_ended", "client_ended"):
            raise RejoinderError(f"The session has ended: {client.ended.reason}.", code="session_ended")
    if failed:
        raise RejoinderError(f"{failed} of {said} turns could not be answered.", code="reply_failed")


async def _turns(spoken: list[bytes], texts: tuple[str, ...], screen: Screen) -> AsyncGenerator[bytes | str, None]:
    """What to say, one turn after the other: recordings (PCM16), then texts."""
    for pcm in spoken:
        yield pcm
    async with contextlib.aclosing(_lines(texts, screen)) as lines:
        async for line in lines:
            yield line


async def _lines(texts: tuple[str, ...], screen: Screen) -> AsyncGenerator[str, None]:
    """The texts; for `-`, the lines of stdin."""
    for text in texts:
        if text != "-":
            yield text
            continue
        if sys.stdin.isatty():
            screen.progress("Type what you want to say; an empty line or Ctrl+D ends.")
        channel: Channel[str] = Channel(1)
        _read_stdin(channel)
        async for line in channel:
            if line.strip():
                yield line.strip()
            elif sys.stdin.isatty():
                return


def _read_stdin(channel: Channel[str]) -> None:
    """Feed lines of stdin to `channel`. By a daemon thread: a blocked read must not hold up the end of the program."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        with contextlib.suppress(RuntimeError, ChannelClosed):  # the loop, or the channel, is closed
            for line in sys.stdin:
                asyncio.run_coroutine_threadsafe(channel.send(line), loop).result()
            loop.call_soon_threadsafe(channel.close)

    threading.Thread(target=read, name="stdin", daemon=True).start()


async def _converse(url: str, key: str | None, agent: str | None, screen: Screen) -> None:
    from rejoinder.client import VoiceClient
    from rejoinder.commands.devices import open_microphone, open_speaker

    def show(event: ServerEvent) -> None:
        screen.show(event)
        screen.metrics(event)

    with open_speaker(OUTPUT_RATE) as speaker:
        connecting = VoiceClient.connect(
            url,
            agent=agent,
            input_rate=INPUT_RATE,
            output_rate=OUTPUT_RATE,
            api_key=key,
            player=speaker,
            on_event=show,
            on_lost=screen.lost,
        )
        async with open_microphone(INPUT_RATE) as microphone, connecting as client:
            screen.progress("Speak now; Ctrl+C ends. (Without headphones the agent may hear itself.)")
            await _listen(client, microphone)


async def _listen(client: VoiceClient, microphone: Channel[bytes]) -> None:
    async for pcm in microphone:
        if client.ended:
            return
        await client.send_audio(pcm)
