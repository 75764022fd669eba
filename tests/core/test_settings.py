"""Settings: layers, errors that name the key and the nearest one, and the page that lists them all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from pydantic import BaseModel

from rejoinder.catalog import fixed_agent
from rejoinder.errors import ConfigError, UnknownName, listed
from rejoinder.manager import load_plugins
from rejoinder.settings import (
    Agent,
    Auth,
    Deadlines,
    Limits,
    Recording,
    Settings,
    Talk,
    TurnPolicy,
    WebhookOptions,
    load_settings,
)
from rejoinder.store.schema import make_engine, parse_url

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("REJOINDER_PORT", "REJOINDER_CONFIG", "REJOINDER_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)


def write(text: str) -> Path:
    path = Path("rejoinder.toml")
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_beat_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("port = 1\nhost = '0.0.0.0'\n[limits]\nplayout_chunks = 7\n")
    assert load_settings().port == 1
    monkeypatch.setenv("REJOINDER_PORT", "2")
    assert load_settings().port == 2
    assert load_settings(port=3).port == 3
    assert load_settings(port=None).host == "0.0.0.0"
    assert load_settings().limits == Limits(playout_chunks=7)


def test_nested_settings_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[plugins.openai]\nllm_model = 'one'\n")
    monkeypatch.setenv("REJOINDER_PLUGINS__OPENAI__BASE_URL", "http://127.0.0.1:1/v1")
    assert load_settings().plugins["openai"] == {"llm_model": "one", "base_url": "http://127.0.0.1:1/v1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "prot: unknown key, did you mean 'port'"),
        ("port = 99999", "port: Input should be less than or equal to 65535"),
        ("[limits]\nplayout_chunk = 1", "limits.playout_chunk: unknown key, did you mean 'playout_chunks'"),
        ("[agents.a]\nlm = 'x'", "agents.a.lm: unknown key, did you mean 'llm'"),
        ("[agents.a.turns]\npause = 1", "agents.a.turns.pause: unknown key, did you mean 'pause_ms'"),
        ("[agents.limits]\nlm = 'x'", "agents.limits.lm: unknown key, did you mean 'llm'"),
        ("[agents.a]\ntemperature = 2.1", "agents.a.temperature: Input should be less than or equal to 2"),
        ("port = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(text: str, expected: str) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert expected in str(caught.value)


def test_several_wrong_settings_are_one_sentence_each() -> None:
    write("prot = 1\nhots = 'x'\nport = 99999\nzzzz = 1")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    text = caught.value.message
    for doubled in ("?.", "?;", "..", ";."):
        assert doubled not in text
    assert "did you mean 'port'? " in text
    assert listed(["Is it?"]) == "Is it?"
    assert listed(["One.", "Two"]) == "One; Two."
    with pytest.raises(ConfigError, match=r"is not async\.$"):
        make_engine(parse_url("sqlite:///x.db"))


def test_a_file_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(ConfigError, match="Cannot read"):
        load_settings(Path("absent.toml"))


def test_an_unknown_agent_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'guide'") as caught:
        fixed_agent(Settings(), load_plugins(), "giude")
    assert caught.value.code == "unknown_agent"


@pytest.mark.parametrize(
    "model",
    [Settings, Auth, Talk, WebhookOptions, Agent, TurnPolicy, Deadlines, Recording, Limits],
    ids=lambda model: model.__name__,
)
def test_every_setting_is_documented_with_its_default(model: type[BaseModel]) -> None:
    rows = {}
    section = PAGE.read_text(encoding="utf-8").split(f"<!-- {model.__name__} -->")[1].split("<!--")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            name, default = [cell.strip().strip("`") for cell in line.split("|")[1:3]]
            rows[name] = default
    assert set(rows) == set(model.model_fields)
    for name, field in model.model_fields.items():
        if isinstance(field.default, bool):
            assert rows[name] == str(field.default).lower()
        elif isinstance(field.default, int | float):
            assert float(rows[name]) == field.default


def test_every_provider_setting_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for offer in load_plugins().providers():
        for field in msgspec.structs.fields(offer.settings):
            assert f"`{field.name}`" in page.split(f"### {offer.name}")[1].split("###")[0], (offer.name, field.name)
