"""The scorecard of turn-taking: the shipped rules on the scripted corpus, and what is heard when things fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rejoinder.commands.bench import command
from rejoinder.commands.scorecard import Card, report, run_corpus
from rejoinder.manager import load_plugins
from rejoinder.settings import load_settings


@pytest.fixture(scope="module")
def card() -> Card:
    return run_corpus(load_settings(), None, load_plugins())


def test_nobody_is_cut_off_who_has_not_finished(card: Card) -> None:
    unfinished = card.kinds["hesitation"] + card.kinds["dictation"]
    assert unfinished >= 40
    assert (card.cut_off["hesitation"] + card.cut_off["dictation"]) / unfinished <= 0.1
    assert card.cut_off["plain"] == 0


def test_who_has_finished_is_answered_soon(card: Card) -> None:
    waits = sorted(card.waits["plain"])
    assert waits[len(waits) // 2] <= 300


def test_what_is_meant_stops_the_agent_and_what_is_not_does_not(card: Card) -> None:
    meant = card.stopped["interruption"] + card.stopped["stop"]
    assert meant / (card.kinds["interruption"] + card.kinds["stop"]) > 0.97
    sounds = card.stopped["backchannel"] + card.stopped["noise"]
    assert sounds / (card.kinds["backchannel"] + card.kinds["noise"]) < 0.05


def test_whatever_fails_something_is_heard_in_time_and_the_session_goes_on(card: Card) -> None:
    assert len(card.faults) == 7
    for fault in card.faults:
        assert fault.goes_on, fault
        assert fault.heard_after_ms is not None, fault
        # The deadline of the provider, and what the apology takes.
        assert fault.heard_after_ms <= 1400, fault
    named = {fault.name: fault.cause for fault in card.faults}
    assert named["LLM hangs before its first token"] == "llm:scripted provider_timeout"
    assert named["LLM killed in mid-sentence"] == "llm:scripted provider_failed"
    assert named["TTS returns nothing"] == "tts:scripted empty_audio"
    assert named["STT returns nothing"] == "no_words"
    assert named["STT hangs"] == "stt:scripted provider_timeout"
    said = {fault.name: fault.heard for fault in card.faults}
    assert said["LLM killed in mid-sentence"].startswith("This is what I know. And then / Sorry")
    assert said["STT returns nothing"] == "Sorry, I did not catch that."


def test_the_report_says_it_all(card: Card) -> None:
    text = report(card)
    for word in ("hesitation", "dictation", "backchannel", "stopped it", "STT hangs", "(a tone)", "response p50"):
        assert word in text
    assert json.loads(json.dumps(card.json()))["over_the_agent"]["noise"]["n"] == card.kinds["noise"]


def test_a_patient_agent_waits_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rejoinder.toml").write_text('[agents.calm.turns]\nprofile = "patient"\n')
    run = CliRunner().invoke(command, ["--turns", "--agent", "calm", "--json"], catch_exceptions=False)
    waits = json.loads(run.stdout)["turns"]["plain"]["wait_ms"]
    assert waits["p50"] >= 500
