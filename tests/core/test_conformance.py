"""The conformance kit: each rule is broken by one small plugin, and only that one says so, with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.core import broken_observers as bo
from tests.core import broken_plugins as bp
from tests.core.broken_plugins import detecting, hearing, offering, tool

import rejoinder.testing as rejoinder_testing
from rejoinder import audio
from rejoinder.providers import Capabilities, Kind
from rejoinder.testing import (
    AdapterConformance,
    InterruptionConformance,
    LlmConformance,
    ObserverConformance,
    SttConformance,
    ToolConformance,
    TtsConformance,
    TurnConformance,
    VadConformance,
)
from rejoinder.testing.conformance.rules import Outcome
from rejoinder.testing.scripted import silence

RUNS = 16
SUITES: dict[str, Any] = {
    "tts": TtsConformance,
    "stt": SttConformance,
    "llm": LlmConformance,
    "vad": VadConformance,
    "turn": TurnConformance,
    "interruption": InterruptionConformance,
    "tool": ToolConformance,
    "adapter": AdapterConformance,
    "observer": ObserverConformance,
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """What the small recogniser understands: a word for each 200 ms of sound."""
    folder = tmp_path_factory.mktemp("samples")
    made = []
    for words in (4, 5, 3):
        path = folder / f"{words}.wav"
        audio.write_wav(path, silence(100) + bp.buzz(words * bp.WORD_MS) + silence(200), audio.ENGINE_RATE)
        made.append((path, " ".join(["la"] * words)))
    return made


def suite(kind: str, plugin: object, samples: list[tuple[Path, str]], **attributes: Any) -> Any:
    made = SUITES[kind]()
    given = {
        "runs": RUNS,
        "samples": samples,
        "real_s": 0.8,
        "first_output_ms": 100.0,
        "close_ms": 300.0,
        "plugin": plugin,
    }
    name = {"tool": "shout"} if kind == "tool" else {"provider": "acme"}
    for key, value in {**given, **name, **attributes}.items():
        setattr(made, key, value)
    return made


def checked(made: Any, only: str = "") -> dict[str, Outcome]:
    """All rules but the one about imports, which looks at the module and not at the object; with `only`, that one."""
    return {one.id: made.outcome(one) for one in made.rules() if one.id != "import-is-light" and only in ("", one.id)}


GOOD: dict[str, tuple[Any, set[str]]] = {
    "tts": (lambda: offering("tts", bp.Tts), set()),
    "stt": (lambda: hearing(bp.SttStream), set()),
    "llm": (lambda: offering("llm", bp.Llm), set()),
    "vad": (lambda: detecting(bp.Detector), set()),
    "turn": (lambda: offering("turn", bp.Turn), set()),
    "interruption": (lambda: offering("interruption", bp.Interruption), set()),
    "tool": (tool, set()),
    "adapter": (lambda: bo.Adapter(bo.greeting, bo.number), {"settings"}),
    "observer": (bo.Observer, {"settings"}),
}
"""Plugins that keep all rules, and the rules that cannot be checked of them."""


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_plugin_keeps_every_rule(kind: str, samples: list[tuple[Path, str]]) -> None:
    make, unchecked = GOOD[kind]
    found = checked(suite(kind, make(), samples))
    assert {rule: one.what for rule, one in found.items() if one.state == "failed"} == {}
    assert {rule for rule, one in found.items() if one.state == "not checked"} == unchecked


TTS: Kind = "tts"
STT: Kind = "stt"
LLM: Kind = "llm"
BROKEN: list[tuple[str, str, Any, str]] = [
    # Of any provider.
    (TTS, "registers", lambda: offering(TTS, bp.Tts, summary="two\nlines"), "summary"),
    (TTS, "registers", lambda: bp.Plugin(), "does not offer"),
    (TTS, "registers", lambda: offering(TTS, bp.Tts, settings=bp.NoDefault), "no default for model"),
    (TTS, "settings", lambda: offering(TTS, bp.Tts, settings=bp.TakesAnything), "forbid_unknown_fields=True"),
    (TTS, "settings", lambda: offering(TTS, bp.Tts, settings=bp.PlainSecret), "api_key: Secret"),
    (TTS, "settings", lambda: offering(TTS, bp.Tts, settings=bp.UpperCase), "environment variable"),
    (TTS, "settings", lambda: offering(TTS, bp.Tts, settings=bp.Misfit), "REJOINDER_PLUGINS__ACME__PORT"),
    (TTS, "create-is-quick", lambda: offering(TTS, bp.SlowToMake), "load in `warm_up`"),
    (TTS, "warm-up", lambda: offering(TTS, bp.BlocksWarmingUp), "broken_plugins.py"),
    (TTS, "warm-up", lambda: offering(TTS, bp.FailsWarmingUp), "FileNotFoundError: voice.onnx"),
    (TTS, "no-leaks", lambda: offering(TTS, bp.TaskLeak), "tasks behind: tests/core/broken_plugins.py"),
    (TTS, "no-leaks", lambda: offering(TTS, bp.ThreadLeak), "threads behind: acme"),
    (TTS, "no-leaks", lambda: offering(TTS, bp.FileLeak), "descriptors behind: /dev/null"),
    (TTS, "concurrent-use", lambda: offering(TTS, bp.SharedTts), "of eight uses at once"),
    (TTS, "bad-input", lambda: offering(TTS, bp.AsciiTts), "UnicodeEncodeError"),
    (TTS, "bad-input", lambda: offering(TTS, bp.TryAgainTts), "unknown_voice"),
    (TTS, "shutdown", lambda: offering(TTS, bp.SlowToClose), "`close` takes 5"),
    (TTS, "shutdown", lambda: offering(TTS, bp.ClosesOnce), "AttributeError"),
    (TTS, "shutdown", lambda: offering(TTS, bp.KeepsThread), "threads behind"),
    (TTS, "first-output", lambda: offering(TTS, bp.TardyTts), "the deadline is 100 ms"),
    (TTS, "no-block", lambda: offering(TTS, bp.BlockingTts), "broken_plugins.py"),
    (TTS, "cancellation", lambda: offering(TTS, bp.LingeringTts), "no waiting in `finally`"),
    # TTS.
    (TTS, "format", lambda: offering(TTS, bp.WavTts), "a WAV file"),
    (TTS, "format", lambda: offering(TTS, bp.FloatTts), "32-bit floats"),
    (TTS, "format", lambda: offering(TTS, bp.MuLawTts, capabilities=Capabilities(streaming=True)), "mu-law"),
    (TTS, "format", lambda: offering(TTS, bp.BigEndianTts), "little-endian"),
    (TTS, "format", lambda: offering(TTS, bp.HalfSampleTts), "half a sample"),
    (TTS, "loudness", lambda: offering(TTS, bp.QuietTts), "dB of full scale"),
    (TTS, "loudness", lambda: offering(TTS, bp.ClippingTts), "at full scale"),
    (TTS, "sample-rate", lambda: offering(TTS, bp.FastTts, capabilities=Capabilities(streaming=True)), "at 16000 Hz"),
    (TTS, "sample-rate", lambda: offering(TTS, bp.SlowTts), "at 16000 Hz"),
    (TTS, "sample-rate", lambda: offering(TTS, bp.OtherRateTts), "sample_rates"),
    (TTS, "silence-at-ends", lambda: offering(TTS, bp.LateTts), "trim_silence"),
    (TTS, "streaming", lambda: offering(TTS, bp.WholeTts), "streaming=True"),
    (
        TTS,
        "streaming",
        lambda: offering(TTS, bp.Tts, capabilities=Capabilities(streaming=False, word_times=True)),
        "say `Capabilities(streaming=True)`",
    ),
    (TTS, "word-times", lambda: offering(TTS, bp.SecondsTts), "in ms"),
    (TTS, "word-times", lambda: offering(TTS, bp.DisorderedTts), "out of order"),
    (TTS, "word-times", lambda: offering(TTS, bp.Tts, capabilities=Capabilities(streaming=True)), "does not say so"),
    (TTS, "nothing-to-say", lambda: offering(TTS, bp.ChattyTts), "'' yields 300 ms"),
    (TTS, "other-language", lambda: offering(TTS, bp.AnyLanguageTts), "KeyError"),
    # STT.
    (STT, "transcript", lambda: hearing(bp.DeafStream), "100% of the words are wrong"),
    (STT, "silence", lambda: hearing(bp.DreamingStream), "'thank you'"),
    (STT, "any-pieces", lambda: hearing(bp.WholeSamplesStream), "in pieces of 321 bytes"),
    (STT, "feed-is-quick", lambda: hearing(bp.SlowStream), "only keep the bytes"),
    (STT, "flush-again", lambda: hearing(bp.ForgetfulStream), "until `reset`"),
    (STT, "feed-during-flush", lambda: hearing(bp.DisturbedStream), "what comes meanwhile is for the next one"),
    (STT, "reset", lambda: hearing(bp.RememberingStream), "begin a new utterance"),
    (STT, "partials", lambda: hearing(bp.ThreadedStream), "call_soon_threadsafe"),
    (STT, "partials", lambda: hearing(bp.TalkativeStream), "after `close`"),
    (STT, "partials", lambda: hearing(bp.SilentStream), "streaming=True"),
    # LLM.
    (LLM, "deltas", lambda: offering(LLM, bp.EmptyPieces), "a piece of text is empty"),
    (LLM, "deltas", lambda: offering(LLM, bp.BytesLlm), "yields bytes"),
    (LLM, "streaming", lambda: offering(LLM, bp.AtOnce), "comes as one piece"),
    (LLM, "tool-calls", lambda: offering(LLM, bp.HalfCall), "collect all fragments"),
    (LLM, "tool-calls", lambda: offering(LLM, bp.NoId), "no id"),
    (LLM, "closing-stops", lambda: offering(LLM, bp.GoesOn), "stop the model"),
    (LLM, "prefill", lambda: offering(LLM, bp.RaisingPrefill), "ConnectionError"),
    # VAD.
    ("vad", "frame-size", lambda: detecting(bp.TinyFrames), "`frame_samples` is 40"),
    ("vad", "probabilities", lambda: detecting(bp.NumpyFloat), "float(probability)"),
    ("vad", "frame-is-quick", lambda: detecting(bp.SlowDetector), "a frame takes"),
    ("vad", "silence", lambda: detecting(bp.Restless), "digital silence"),
    ("vad", "speech", lambda: detecting(bp.Deaf), "of speech only"),
    ("vad", "reset", lambda: detecting(bp.NeverResets), "set all state back"),
    ("vad", "streams-are-apart", lambda: detecting(bp.Shared), "an object of its own"),
    # Judges.
    ("turn", "opinion", lambda: offering("turn", bp.Overconfident), "`judge` gives 90.0"),
    ("turn", "no-memory", lambda: offering("turn", bp.SecondThoughts), "keep nothing"),
    ("turn", "first-output", lambda: offering("turn", bp.TardyTurn), "the deadline is 100 ms"),
    ("interruption", "judgement", lambda: offering("interruption", bp.Shouting), "snake_case"),
    ("interruption", "judgement", lambda: offering("interruption", bp.AsyncJudge), "Judgement(stop=True"),
    ("interruption", "judges-quickly", lambda: offering("interruption", bp.SlowJudge), "a judgement takes"),
    ("interruption", "no-memory", lambda: offering("interruption", bp.Fickle), "keep nothing"),
    # Tools.
    ("tool", "registers", lambda: tool(description=""), "by that the model chooses"),
    ("tool", "settings", lambda: tool(settings=bp.TakesAnything), "forbid_unknown_fields=True"),
    ("tool", "parameters", lambda: tool(parameters={"text": "string"}), '"type": "object"'),
    ("tool", "result", lambda: tool(bp.as_dict), "returns dict"),
    ("tool", "wrong-arguments", lambda: tool(bp.careless), "KeyError"),
    ("tool", "no-block", lambda: tool(bp.blocking), "broken_plugins.py"),
    ("tool", "cancellation", lambda: tool(bp.lingering), "CancelledError"),
    ("tool", "no-leaks", lambda: tool(bp.leaking), "tasks behind"),
    ("tool", "concurrent-use", lambda: tool(bp.one_at_a_time), "RuntimeError: busy"),
    # Adapters.
    ("adapter", "life", lambda: bo.FailsToStop(bo.greeting), "ConnectionError"),
    ("adapter", "routes-fit", lambda: bo.Adapter(bo.agents), "a name of your own"),
    ("adapter", "garbage", lambda: bo.Adapter(bo.divide), "ZeroDivisionError"),
    ("adapter", "keys", lambda: bo.Adapter(bo.unguarded), "GET /acme/unguarded can be used without a key"),
    ("adapter", "no-block", lambda: bo.Adapter(bo.slow), "broken_observers.py"),
    ("adapter", "no-leaks", lambda: bo.Adapter(bo.leak), "tasks behind"),
    # Observers.
    ("observer", "settings", bo.OpenSection, "forbid_unknown_fields=True"),
    ("observer", "settings", bo.PlainSecret, "Secret"),
    ("observer", "life", bo.FailsToStart, "ConnectionError"),
    ("observer", "observes", bo.Nothing, "on_event"),
    ("observer", "every-event", bo.Unaware, "AttributeError"),
    ("observer", "every-event", bo.Meddling, "it changes the event turn.committed"),
    ("observer", "event-is-quick", bo.SlowObserver, "put it in a queue"),
    ("observer", "no-leaks", bo.TaskObserver, "tasks behind"),
    ("observer", "no-leaks", bo.Hoarder, "bytes of memory"),
    ("observer", "before-llm", bo.TextForRequest, "returns tuple"),
    ("observer", "before-llm", bo.NeedsMessages, "AssertionError"),
    ("observer", "before-tts", bo.BytesForText, "returns list"),
    ("observer", "before-storage", bo.AsciiOnly, "UnicodeEncodeError"),
    ("observer", "filters-are-quick", bo.SlowFilter, "`before_tts` holds the event loop up"),
    ("observer", "sessions-are-apart", bo.Mixed, "session_id"),
]


SLOW = {
    *((TTS, rule) for rule in ("warm-up", "shutdown", "first-output", "no-block", "cancellation")),
    *((kind, rule) for kind in ("adapter", "tool") for rule in ("no-block", "no-leaks", "cancellation")),
    *(("adapter", "keys"), ("adapter", "life"), (STT, "feed-is-quick"), (LLM, "closing-stops")),
    *(("vad", "frame-is-quick"), ("turn", "first-output")),
    *(("observer", rule) for rule in ("event-is-quick", "filters-are-quick", "no-leaks")),
}
"""What breaks these makes every use slow, so the other rules are not asked."""
FIRST = {(kind, rule): at for at, (kind, rule, _, _) in reversed(list(enumerate(BROKEN)))}


@pytest.mark.parametrize("at", range(len(BROKEN)), ids=[f"{kind}-{rule}-{says}" for kind, rule, _, says in BROKEN])
def test_a_broken_plugin_is_named_by_the_rule_it_breaks(at: int, samples: list[tuple[Path, str]]) -> None:
    kind, rule, make, says = BROKEN[at]
    # That no other rule is broken is looked at once for each rule: all of them take some seconds.
    whole = FIRST[kind, rule] == at and (kind, rule) not in SLOW
    found = checked(suite(kind, make(), samples), "" if whole else rule)
    failed = {name: f"{one.what} {one.fix}" for name, one in found.items() if one.state == "failed"}
    assert list(failed) == [rule], failed
    assert says in failed[rule]
    assert found[rule].fix


def test_settings_that_do_not_fit_are_a_broken_rule(samples: list[tuple[Path, str]]) -> None:
    found = checked(suite("tts", offering(TTS, bp.Tts), samples, settings={"spedd": 2}))
    assert found["warm-up"].state == "failed"
    assert "spedd" in found["warm-up"].what


# --- imports, and the command -----------------------------------------------------------------------------------

PLUGIN = """
from rejoinder import hookimpl, tool
HEAVY

@tool(side_effects=False)
def shout(text: str) -> str:
    \"\"\"Says it loudly.\"\"\"
    return text.upper()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that is not installed."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "acme"\n[project.entry-points.rejoinder]\nacme = "acme_x"\n'
    )
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "acme_x.py").write_text(PLUGIN.replace("HEAVY", ""))
    return tmp_path


def rejoinder(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rejoinder", "plugins", "test", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_tests_a_project_that_is_not_installed(project: Path) -> None:
    run = rejoinder("--runs", "8", folder=project)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tool:shout of the plugin 'acme'" in run.stdout
    assert "0 failed" in run.stdout


def test_a_heavy_import_is_named(project: Path) -> None:
    (project / "src" / "acme_x.py").write_text(PLUGIN.replace("HEAVY", "import numpy"))
    run = rejoinder("--runs", "4", "--json", folder=project)
    assert run.returncode == 1
    rules = json.loads(run.stdout)["tested"][0]["rules"]
    (failed,) = [one for one in rules if one["state"] == "failed"]
    assert failed["rule"] == "import-is-light"
    assert "imports numpy" in failed["seen"]
    assert "warm_up" in failed["fix"]


def test_a_plugin_that_does_not_load_is_told_from_one_that_breaks_a_rule(project: Path) -> None:
    (project / "src" / "acme_x.py").write_text("import no_such_package\n")
    run = rejoinder(folder=project)
    assert run.returncode == 3
    assert "no_such_package" in run.stderr
    assert "Install what brings 'no_such_package'" in run.stderr
    assert rejoinder("nobody.py", folder=project).returncode == 3
    assert rejoinder("nobody", folder=project).returncode == 3


def test_one_thing_of_a_file_can_be_tested_alone(project: Path) -> None:
    (project / "acme_file.py").write_text(
        PLUGIN.replace("HEAVY", "") + PLUGIN.replace("shout", "call").split("HEAVY")[1]
    )
    run = rejoinder("acme_file.py", "--only", "tool:call", "--runs", "4", folder=project)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "tool:call" in run.stdout
    assert "tool:shout" not in run.stdout
    assert rejoinder("acme_file.py", "--only", "tts:acme", folder=project).returncode == 3


def test_the_names_of_the_suites_cost_no_import() -> None:
    code = "import sys, rejoinder.testing; sys.exit(any('conformance' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        rejoinder_testing.Nothing  # noqa: B018
