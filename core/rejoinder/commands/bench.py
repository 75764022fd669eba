"""`rejoinder bench`: what the engine costs (`--sessions`), how fast it answers real speech (`--voice`), and how well it
takes turns (`--turns`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from rejoinder.commands.report import Distribution, figure, table
from rejoinder.errors import ConfigError, RejoinderError

STEAL_LIMIT = 0.1
ENGINE_READY_S = 60.0
VOICE_READY_S = 300.0
MAX_RECORDING_S = 12.0
MIN_RECORDING_S = 1.5
SCRIPTED_AGENT = {"vad": "scripted", "stt": "scripted", "llm": "scripted", "tts": "scripted", "tools": [], "turn": []}


@click.command("bench")
@click.option(
    "--sessions", type=click.IntRange(1, 5000), multiple=True, help="Sessions at once; repeat for a sweep.  [100]"
)
@click.option("--voice", is_flag=True, help="Measure answers to real recordings instead.")
@click.option("--turns", is_flag=True, help="Print a scorecard of the agent's turn-taking, in virtual time.")
@click.option("--duration", default=20.0, show_default=True, help="Seconds to measure at each level.")
@click.option("--url", help="Use this server instead of starting one (for --sessions: its agent must be `scripted`).")
@click.option("--pid", type=int, help="With --url: the server's process, to measure its CPU and memory.")
@click.option("--realtime", is_flag=True, help="Run both sides under SCHED_FIFO (needs the right to).")
@click.option(
    "--recordings", type=click.Path(path_type=Path, exists=True, file_okay=False), help="WAV files for --voice."
)
@click.option("--limit", type=click.IntRange(1), help="At most so many recordings.")
@click.option("--one-call", is_flag=True, help="All recordings in one call, instead of a call each.")
@click.option("--agent", help="The agent for --voice and --turns.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    sessions: tuple[int, ...],
    voice: bool,
    turns: bool,
    duration: float,
    url: str | None,
    pid: int | None,
    realtime: bool,
    recordings: Path | None,
    limit: int | None,
    one_call: bool,
    agent: str | None,
    as_json: bool,
) -> None:
    """Measure a server. Starts one of its own, pinned to one core for --sessions, unless --url names another."""
    if bool(sessions) + voice + turns > 1:
        raise click.UsageError("Give one of --sessions, --voice and --turns.")
    if turns:
        _bench_turns(agent, as_json)
        return
    if not 1 <= duration <= 600:
        raise click.UsageError("--duration must be from 1 to 600 seconds.")
    if voice:
        found = find_recordings(recordings)[:limit]
        _bench_voice(found, url, agent, one_call, as_json)
    else:
        _bench_engine(sessions or (100,), duration, url, pid, realtime, as_json)


# --- the engine -----------------------------------------------------------------------------------------------


def _bench_engine(
    levels: tuple[int, ...], duration: float, url: str | None, pid: int | None, realtime: bool, as_json: bool
) -> None:
    from rejoinder.commands.load import LoadResult, run_load
    from rejoinder.commands.ownserver import cores, own_server, place_client

    server_core, client_core = (None, None) if url else cores()
    try:
        place_client(client_core, realtime)
    except PermissionError:
        raise ConfigError("This user may not use SCHED_FIFO.", fix="Leave out --realtime.") from None
    results: list[LoadResult] = []
    for level in levels:
        click.echo(f"{level} sessions for {duration:g} s …", err=True)
        if url:
            results.append(run_load(url, level, duration, pid))
            continue
        environment = {
            "REJOINDER_DEFAULT_AGENT": "scripted",
            "REJOINDER_AGENTS": json.dumps({"scripted": SCRIPTED_AGENT}),
            "REJOINDER_LIMITS__SESSIONS": str(max(1000, level)),
        }
        with own_server(
            environment, inherit=False, core=server_core, realtime=realtime, ready_s=ENGINE_READY_S
        ) as server:
            results.append(run_load(server.url, level, duration, server.pid))
    if as_json:
        click.echo(json.dumps([result.json() for result in results], indent=2))
        return
    click.echo(_engine_table(results))
    for result in results:
        for warning in _warnings(result):
            click.echo(f"{result.sessions} sessions: {warning}", err=True)


def _engine_table(results: list[Any]) -> str:
    head = (
        "sessions",
        "overhead p50",
        "p95",
        "p99 ms",
        "n",
        "barge-in p50",
        "p95 ms",
        "n",
        "CPU ms/session-s",
        "cores",
        "RSS MB/session",
        "base",
        "client cores",
        "steal",
        "stale",
        "misheard",
        "failed",
    )
    return table(
        head,
        [
            (
                str(r.sessions),
                figure(r.overhead_ms.p50, 1),
                figure(r.overhead_ms.p95, 1),
                figure(r.overhead_ms.p99, 1),
                str(r.overhead_ms.n),
                figure(r.barge_in_ms.p50, 1),
                figure(r.barge_in_ms.p95, 1),
                str(r.barge_in_ms.n),
                figure(r.cpu_ms_per_session_s, 2),
                figure(r.server_cores, 2),
                figure(r.rss_mb_per_session, 2),
                figure(r.base_rss_mb, 0),
                figure(r.client_cores, 2),
                figure(r.steal_cores, 2),
                str(r.stale_frames),
                f"{r.misheard}/{r.heard_texts}",
                str(r.unanswered + r.unheeded_barge_ins + sum(r.errors.values())),
            )
            for r in results
        ],
    )


def _warnings(result: Any) -> list[str]:
    found = []
    if result.steal_cores is not None and result.steal_cores > STEAL_LIMIT:
        found.append(f"{result.steal_cores:.2f} cores were stolen by the host: the latency tails mean little.")
    if result.client_cores > 0.8:
        found.append(f"the client itself was busy ({result.client_cores:.2f} cores): latencies include its own.")
    if result.stale_frames:
        found.append(f"{result.stale_frames} audio frames came after their clear_audio.")
    if result.misheard:
        found.append(f"{result.misheard} of {result.heard_texts} heard texts differ from what was played.")
    if result.unanswered:
        found.append(f"{result.unanswered} turns got no answer.")
    if result.unheeded_barge_ins:
        found.append(f"{result.unheeded_barge_ins} barge-ins got no clear_audio.")
    found += [f"{count} × {message}" for message, count in result.errors.items()]
    return found


# --- turn-taking ----------------------------------------------------------------------------------------------


def _bench_turns(agent: str | None, as_json: bool) -> None:
    import logging

    from rejoinder.commands.scorecard import report, run_corpus
    from rejoinder.manager import plugins_of
    from rejoinder.settings import load_settings

    settings = load_settings()
    logger = logging.getLogger("rejoinder")
    level = logger.level
    # Providers fail on purpose here; the scorecard says so itself.
    logger.setLevel(logging.CRITICAL)
    try:
        card = run_corpus(settings, agent, plugins_of(settings))
    finally:
        logger.setLevel(level)
    click.echo(json.dumps(card.json(), indent=2) if as_json else report(card))


# --- voice ----------------------------------------------------------------------------------------------------


def find_recordings(folder: Path | None) -> list[Path]:
    """WAV files to speak: those of `folder`, else of `./.speech`, else the short ones of the moonshine package.

    Raises:
        ConfigError: there are none (`no_recordings`).
    """
    if folder is None and Path(".speech").is_dir():
        folder = Path(".speech")
    found = sorted(folder.rglob("*.wav")) if folder else _packaged_recordings()
    if not found:
        raise ConfigError(
            f"There are no recordings{f' in {str(folder)!r}' if folder else ''}.",
            code="no_recordings",
            fix="Name a folder of WAV files: rejoinder bench --voice --recordings DIR",
        )
    return found


def _packaged_recordings() -> list[Path]:
    import importlib.util
    import wave

    spec = importlib.util.find_spec("moonshine_voice")
    found = []
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(root).rglob("*.wav")):
            with wave.open(str(path)) as wav:
                length = wav.getnframes() / wav.getframerate()
            # The shortest files are chimes, no speech.
            if MIN_RECORDING_S < length < MAX_RECORDING_S:
                found.append(path)
    return found


def _bench_voice(recordings: list[Path], url: str | None, agent: str | None, one_call: bool, as_json: bool) -> None:
    import asyncio

    from rejoinder.commands.ownserver import own_server

    if url:
        turns = asyncio.run(_speak_all(url, recordings, agent, one_call))
    else:
        click.echo("Starting a server …", err=True)
        with own_server({}, inherit=True, core=None, realtime=False, ready_s=VOICE_READY_S) as server:
            turns = asyncio.run(_speak_all(server.url, recordings, agent, one_call))
    click.echo(json.dumps(_voice_json(turns), indent=2) if as_json else _voice_report(turns))


async def _speak_all(url: str, recordings: list[Path], agent: str | None, one_call: bool) -> list[tuple[Path, Any]]:
    """Each recording with its `TurnResult`, or with the error that came instead."""
    from rejoinder.client import VoiceClient

    turns: list[tuple[Path, Any]] = []
    calls = [recordings] if one_call else [[recording] for recording in recordings]
    for call in calls:
        async with VoiceClient.connect(url, agent=agent) as client:
            await client.wait_greeting()
            for recording in call:
                outcome: Any
                try:
                    outcome = await client.say_wav(recording)
                except RejoinderError as error:
                    outcome = error
                turns.append((recording, outcome))
                click.echo(_voice_line(recording, outcome), err=True)
                if client.ended:
                    break
    return turns


def _voice_line(recording: Path, outcome: Any) -> str:
    from rejoinder.commands.talk import latency_line

    if isinstance(outcome, RejoinderError):
        return f"{recording.name}: {outcome.explain()}"
    heard = f"{outcome.first_audio_ms:.0f} ms" if outcome.first_audio_ms is not None else "no audio"
    heard += ", cut off early" if outcome.cut_off else ""
    spans = f"\n  {latency_line(outcome.metrics, None)}" if outcome.metrics else ""
    return f"{recording.name}: {heard}  {outcome.transcript!r}{spans}"


def _voice_figures(turns: list[tuple[Path, Any]]) -> tuple[Distribution, Distribution, dict[str, tuple[float, float]]]:
    """What the client heard and the server measured (ms), and of each span its mean (ms) and share of the whole."""
    answered = [outcome for _, outcome in turns if not isinstance(outcome, RejoinderError)]
    heard = Distribution.of(turn.first_audio_ms for turn in answered if turn.first_audio_ms is not None)
    measured = [turn.metrics for turn in answered if turn.metrics]
    server = Distribution.of(metrics.response_us / 1000 for metrics in measured)
    whole = sum(metrics.response_us for metrics in measured)
    sums: dict[str, int] = {}
    for metrics in measured:
        for span in metrics.spans:
            sums[span.name] = sums.get(span.name, 0) + span.us
    shares = {name: (us / 1000 / len(measured), us / whole if whole else 0.0) for name, us in sums.items()}
    return heard, server, shares


def _voice_report(turns: list[tuple[Path, Any]]) -> str:
    heard, server, shares = _voice_figures(turns)
    rows = [
        (name, figure(of.p50), figure(of.p90), figure(of.p95), figure(of.max), str(of.n))
        for name, of in (("heard by the client", heard), ("measured by the server", server))
    ]
    spans = [(name, figure(mean), f"{share:.0%}") for name, (mean, share) in shares.items()]
    failed = sum(isinstance(outcome, RejoinderError) for _, outcome in turns)
    note = f"\n\n{failed} of {len(turns)} recordings got no answer." if failed else ""
    cut = sum(not isinstance(outcome, RejoinderError) and outcome.cut_off for _, outcome in turns)
    note += f"\n\n{cut} of {len(turns)} recordings were cut off early ({cut / len(turns):.1%})." if turns else ""
    first = table(("response, ms", "p50", "p90", "p95", "max", "n"), rows)
    return f"{first}\n\n{table(('span', 'mean ms', 'share'), spans)}{note}"


def _voice_json(turns: list[tuple[Path, Any]]) -> dict[str, Any]:
    heard, server, shares = _voice_figures(turns)
    return {
        "heard_ms": heard.json(),
        "server_ms": server.json(),
        "spans": {
            name: {"mean_ms": round(mean, 2), "share": round(share, 4)} for name, (mean, share) in shares.items()
        },
        "recordings": [
            {"file": recording.name, "error": outcome.explain()}
            if isinstance(outcome, RejoinderError)
            else {
                "file": recording.name,
                "transcript": outcome.transcript,
                "reply": outcome.reply_text,
                "cut_off": outcome.cut_off,
                "heard_ms": outcome.first_audio_ms and round(outcome.first_audio_ms, 1),
                "spans_ms": {span.name: span.us / 1000 for span in outcome.metrics.spans} if outcome.metrics else {},
            }
            for recording, outcome in turns
        ],
    }
