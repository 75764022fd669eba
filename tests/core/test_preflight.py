"""What is misspelt keeps a server from starting: all of it is named at once, before anything is loaded."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from rejoinder.app import Runtime
from rejoinder.cli import main
from rejoinder.errors import ConfigError
from rejoinder.hookspecs import hookimpl
from rejoinder.manager import Plugins, load_plugins
from rejoinder.preflight import examine
from rejoinder.providers import Provider, Tool
from rejoinder.settings import Agent, Auth, Settings, load_settings
from rejoinder.toolbox import read_section

SCRIPTED = {**dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted"), "turn": [], "interruption": [], "tools": []}
TYPOS = """
[agents.a]
llm = "opnai"
tools = ["clokc", "calculator"]
transfers = ["nobody", "guide"]
[agents.b]
voice = "alloy"
[plugins.openai]
base_ur = "x"
tts_rate = "fast"
[plugins.opnai]
x = 1
[plugins.mcp.servers.shop]
comand = "shop"
"""
NAMED = (
    "REJOINDER_PROT: unknown variable, did you mean 'REJOINDER_PORT'?",
    "REJOINDER_PLUGIN__OPENAI__API_KEY: unknown variable, did you mean 'REJOINDER_PLUGINS__OPENAI__API_KEY'?",
    "REJOINDER_AUTH_MODE: unknown variable, did you mean 'REJOINDER_AUTH__MODE'?",
    "plugins.openai.base_ur: unknown key, did you mean 'base_url'?",
    "plugins.openai.tts_rate: Expected `int`",
    "plugins.opnai: nothing is called 'opnai', did you mean 'openai'?",
    "plugins.mcp.servers: Object contains unknown field `comand`",
    "did you mean 'command'?",
    "agents.a.llm: There is no llm provider 'opnai'; did you mean 'openai'?",
    "agents.a.tools: There is no tool 'clokc'; did you mean 'clock'?",
    "agents.a.transfers: There is no agent 'nobody'; define [agents.nobody] in rejoinder.toml",
    "agents.b.voice: hibari has no voice 'alloy'; known: heart",
)


@pytest.fixture
def misspelt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rejoinder.toml").write_text(TYPOS, encoding="utf-8")
    monkeypatch.delenv("REJOINDER_CONFIG", raising=False)
    monkeypatch.setenv("REJOINDER_PROT", "1")
    monkeypatch.setenv("REJOINDER_PLUGIN__OPENAI__API_KEY", "sk-secret")
    monkeypatch.setenv("REJOINDER_AUTH_MODE", "none")
    for fine in ("REJOINDER_API_KEY", "REJOINDER_TEST_ANYTHING", "rejoinder_host", "REJOINDER_LIMITS__SESSIONS"):
        monkeypatch.setenv(fine, "5")


@pytest.mark.usefixtures("misspelt")
def test_a_server_that_starts_names_all_that_is_misspelt() -> None:
    loading: list[str] = []

    async def start() -> None:
        async with Runtime(load_settings(), progress=loading.append, listens=True):
            pass

    with pytest.raises(ConfigError) as caught:
        asyncio.run(start())
    text = caught.value.message
    for problem in NAMED:
        assert problem in text
    for fine in ("ANYTHING", "SESSIONS", "host:", "'calculator'", "'guide'", "sk-secret", "?;", "?.", "toml.."):
        assert fine not in text
    assert caught.value.code == "bad_config"
    assert set(loading) <= {"database"}, "no model"


@pytest.mark.usefixtures("misspelt")
def test_the_doctor_says_the_same_and_makes_no_database(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == 1
    checks = json.loads(capsys.readouterr().out)
    told = " ".join(check["detail"] for check in checks if check["name"] == "names" and not check["ok"])
    for problem in NAMED:
        assert problem in told
    assert not list(Path().glob("rejoinder.db*"))


def start(
    tmp_path: Path,
    there: Plugins | None = None,
    *,
    agent: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    async def main() -> None:
        made = Settings(
            database_url=f"sqlite+aiosqlite:///{tmp_path}/x.db",
            default_agent="a",
            auth=Auth(mode="none"),
            agents={"a": {**SCRIPTED, **(agent or {})}, **(more or {})},
            **settings,
        )
        async with Runtime(made, plugins=there, listens=True):
            pass

    asyncio.run(main())


def test_where_no_database_is_needed_to_know_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base_ur"):
        start(tmp_path, plugins={"openai": {"base_ur": "x"}})
    assert not list(tmp_path.iterdir())


def test_agents_defined_over_rest_may_be_transferred_to_and_may_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    billing = {"transfers": ["billing"]}
    with pytest.raises(ConfigError, match="'billing'"):
        start(tmp_path, agent=billing)

    async def change(delete: bool) -> None:
        made = Settings(database_url=f"sqlite+aiosqlite:///{tmp_path}/x.db", default_agent="a", agents={"a": SCRIPTED})
        async with Runtime(made) as runtime:
            if delete:
                await runtime.catalog.delete("billing", by="test")
            else:
                await runtime.catalog.put("billing", SCRIPTED, by="test")

    with caplog.at_level(logging.WARNING, "rejoinder.app"):
        asyncio.run(change(delete=False))
        start(tmp_path, agent=billing)
        assert [record for record in caplog.records if record.name == "rejoinder.app"] == []
        start(tmp_path, agent={"transfers": ["biling"]})
        assert "'biling'; did you mean 'billing'?" in caplog.text
        caplog.clear()
        asyncio.run(change(delete=True))
        start(tmp_path, agent=billing)
        assert "agents.a.transfers: There is no agent 'billing'" in caplog.text


@pytest.mark.parametrize("how", ["disabled", "failed"])
def test_what_a_plugin_that_is_not_there_may_offer_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    plugins = load_plugins(["openai"])
    options: dict[str, Any] = {"disabled_plugins": ("openai",)}
    if how == "failed":
        options = {}
        plugins.add("openai", lambda: 1 / 0)
    sections = {"openai": {"base_ur": "x"}}
    with caplog.at_level(logging.WARNING, "rejoinder.app"):
        start(tmp_path, plugins, more={"b": {**SCRIPTED, "llm": "openai"}}, plugins=sections, **options)
    assert "plugins.openai: nothing is called 'openai'" in caplog.text
    assert "agents.b.llm: There is no llm provider 'openai'" in caplog.text
    # Others must be spelt rightly all the same.
    with pytest.raises(ConfigError, match="did you mean 'hibari'"):
        start(tmp_path, plugins, plugins={**sections, "hibary": {}}, **options)


class Model(msgspec.Struct, forbid_unknown_fields=True):
    shared: int = 1
    model: str = ""


class Lookup(msgspec.Struct, forbid_unknown_fields=True):
    place: str = msgspec.field(name="where", default="")
    shared: int = 1


def test_a_section_serves_all_that_have_its_name(tmp_path: Path) -> None:
    async def run(*_: object) -> str:
        return ""

    @hookimpl
    def register_providers() -> list[Provider]:
        return [Provider("llm", "twin", "", lambda context: None, Model)]  # type: ignore[arg-type, return-value]

    @hookimpl
    def register_tools() -> list[Tool]:
        return [Tool("twin", "", run, settings=Lookup)]

    plugins = Plugins()
    hooks = SimpleNamespace(register_providers=register_providers, register_tools=register_tools)
    assert plugins.add("twins", lambda: hooks)

    def problems(**section: Any) -> list[str]:
        return examine(Settings(plugins={"twin": section}), plugins, ()).problems

    assert problems(shared="2", model="x", where="here") == []
    assert problems(where="here", place="x", shared="x") == [
        "plugins.twin.place: unknown key, known: model, shared, where",
        "plugins.twin.shared: Expected `int`, got `str`",
    ]
    assert examine(Settings(), plugins, ()).problems == []
    # Each reads its own, and is not disturbed by the other's.
    section = {"twin": {"shared": "2", "model": "x", "where": "here"}}
    assert read_section(section, "twin", Model, plugins.schemas()["twin"]).model == "x"


def test_sections_of_plugins_that_offer_no_provider() -> None:
    class Options(msgspec.Struct, forbid_unknown_fields=True):
        most: int = 3

    class Watcher:
        @hookimpl
        def register_settings(self) -> dict[str, type[msgspec.Struct]]:
            return {"watcher": Options}

    plugins = load_plugins()
    plugins.add("watch", Watcher)
    assert examine(Settings(plugins={"watcher": {"most": "5"}}), plugins, ()).problems == []
    (problem,) = examine(Settings(plugins={"watcher": {"mots": 5}}), plugins, ()).problems
    assert "plugins.watcher.mots: unknown key, did you mean 'most'?" in problem
    (problem,) = examine(Settings(plugins={"watcher": {"most": "many"}}), plugins, ()).problems
    assert "plugins.watcher.most" in problem
    runtime = Runtime(Settings(plugins={"watcher": {"most": "5"}}), plugins=plugins)
    assert runtime.section("watcher", Options).most == 5
    assert runtime.plugins.owner("settings", "watcher") == "watch"


def test_a_language_that_no_provider_of_a_chain_has() -> None:
    plugins = load_plugins()
    agents = {
        "french": Agent(language="fr", stt=("moonshine",), tts=("hibari", "openai"), llm=("openai",)),
        "british": Agent(language="en-GB"),
    }
    runtime = Runtime(Settings(agents=agents), plugins=plugins)
    (problem,) = [one for one in runtime.examine().problems if "language" in one]
    assert problem.startswith("agents.french.language: ")
    assert "moonshine" in problem
    assert "hibari" not in problem, "there is another one in that chain"


def test_lists_and_tables_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    class Options(msgspec.Struct, forbid_unknown_fields=True):
        words: list[str] = []
        weights: dict[str, int] = {}
        sign: str = ""

    class Watcher:
        @hookimpl
        def register_settings(self) -> dict[str, type[msgspec.Struct]]:
            return {"watcher": Options}

    for key, value in {"WORDS": '["a", "b"]', "WEIGHTS": '{"a": 2}', "SIGN": "[open]"}.items():
        monkeypatch.setenv(f"REJOINDER_PLUGINS__WATCHER__{key}", value)
    plugins = load_plugins()
    plugins.add("watch", Watcher)
    settings = load_settings()
    assert examine(settings, plugins, ()).problems == []
    assert Runtime(settings, plugins=plugins).section("watcher", Options) == Options(["a", "b"], {"a": 2}, "[open]")
    monkeypatch.setenv("REJOINDER_PLUGINS__WATCHER__WORDS", '["a", ')
    (problem,) = examine(load_settings(), plugins, ()).problems
    assert "plugins.watcher.words" in problem
