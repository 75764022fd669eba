"""Settings of plugins that the panel stores: under what file and environment say, taken up where that is possible."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.core.test_quarantine import FALLBACK, Clock

from rejoinder import supply as supply_module
from rejoinder.app import Runtime
from rejoinder.errors import SessionError
from rejoinder.hookspecs import hookimpl
from rejoinder.manager import Plugins, load_plugins
from rejoinder.plugin_settings import InvalidSettings, PluginSection
from rejoinder.providers import Provider, Secret, Tool, ToolContext, ToolSource
from rejoinder.settings import Agent, Settings
from rejoinder.testing.scripted import ScriptedLlm, ScriptedTts


class AcmeSettings(msgspec.Struct, forbid_unknown_fields=True):
    speed: float = 1.0
    voice: str = "ada"
    api_key: Secret | None = None
    limit: int | None = 5
    names: tuple[str, ...] = ()
    path: str = ""


class Acme(ScriptedTts):
    """Says how it was made, and whether it is closed."""

    def __init__(self, settings: AcmeSettings, broken: bool) -> None:
        super().__init__()
        self.settings = settings
        self.broken = broken
        self.closed = False

    async def warm_up(self) -> None:
        if self.broken or self.settings.voice == "broken":
            raise RuntimeError("no such voice")

    async def close(self) -> None:
        self.closed = True


class Source:
    def __init__(self, settings: AcmeSettings) -> None:
        self.settings = settings

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def tools(self) -> dict[str, Tool]:
        return {}

    def expects(self, name: str) -> bool:
        return False


class AcmePlugin:
    """A TTS provider `acme`, a tool `acme_tool`, a source `acme_source` and a section `acme_hooks`."""

    def __init__(self) -> None:
        self.made: list[Acme] = []
        self.sources: list[Source] = []
        self.broken = False

    def _make(self, context: Any) -> Acme:
        made = Acme(context.settings, self.broken)
        self.made.append(made)
        return made

    def _source(self, settings: Any) -> Source:
        self.sources.append(Source(settings))
        return self.sources[-1]

    @hookimpl
    def register_providers(self) -> list[Provider]:
        return [Provider("tts", "acme", "Acme", self._make, AcmeSettings)]

    @hookimpl
    def register_tools(self) -> list[Tool]:
        async def run(arguments: Any, context: ToolContext) -> str:
            return "done"

        return [
            Tool(
                name="acme_tool", description="Does it.", parameters={"type": "object"}, run=run, settings=AcmeSettings
            )
        ]

    @hookimpl
    def register_tool_sources(self) -> list[ToolSource]:
        return [ToolSource("acme_source", "Acme's tools.", self._source, AcmeSettings)]

    @hookimpl
    def register_settings(self) -> dict[str, Any]:
        return {"acme_hooks": AcmeSettings}


def plugins_with(acme: AcmePlugin) -> Plugins:
    plugins = load_plugins()
    assert plugins.add("acme", lambda: acme), plugins.infos
    return plugins


async def put(runtime: Runtime, name: str, **values: Any) -> PluginSection:
    await runtime.plugin_settings.put(name, values, by="ada", apply=runtime.apply_settings)
    return runtime.plugin_settings.get(name)


def running(
    tmp_path: Path, plugins: Plugins, agent: Agent = FALLBACK, clock: Clock | None = None, **sections: Any
) -> Any:
    settings = Settings(
        database_url=f"sqlite+aiosqlite:///{tmp_path}/test.db",
        default_agent="host",
        agents={"host": agent},
        plugins_dir=tmp_path / "none",
        plugins=sections,
    )
    return Runtime(settings, plugins=plugins, listens=True, clock=clock)


def run(tmp_path: Path, plugin: AcmePlugin, main: Any, **sections: Any) -> None:
    async def inside() -> None:
        async with running(tmp_path, plugins_with(plugin), **sections) as runtime:
            await main(runtime)

    asyncio.run(inside())


def test_what_is_stored_is_there_after_the_next_start_under_what_the_file_says(tmp_path: Path) -> None:
    async def store(runtime: Runtime) -> None:
        section = await put(runtime, "acme", speed=2.0, voice="bea", api_key="secret")
        assert (section.plugin, section.updated_by, section.values["api_key"]) == ("acme", "ada", True)
        await put(runtime, "acme_source", voice="bea")
        await put(runtime, "acme_hooks", voice="bea")

    run(tmp_path, AcmePlugin(), store)
    acme = AcmePlugin()

    async def look(runtime: Runtime) -> None:
        assert acme.made[-1].settings == AcmeSettings(speed=3.0, voice="bea", api_key="secret"), "the file wins"
        section = runtime.plugin_settings.get("acme")
        assert section.origins == {
            "speed": "file",
            "voice": "panel",
            "api_key": "panel",
            "limit": "default",
            "names": "default",
            "path": "default",
        }
        assert section.values["speed"] == 3.0
        assert not section.restart
        assert acme.sources[-1].settings.voice == "bea"
        assert runtime.section("acme_hooks", AcmeSettings).voice == "bea"

    run(tmp_path, acme, look, acme={"speed": 3.0})


def test_a_loaded_provider_is_made_a_second_time_and_the_first_serves_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supply_module, "_RETIRED_S", 0.01)
    acme = AcmePlugin()

    async def main(runtime: Runtime) -> None:
        session = await runtime.start_session(None)
        before = acme.made[-1]
        section = await put(runtime, "acme", voice="bea")
        assert not section.restart
        assert acme.made[-1] is not before
        services = await runtime.services(FALLBACK)
        assert services.tts["acme"] is acme.made[-1]
        await asyncio.sleep(0.05)
        assert not before.closed, "a session has it"
        await session.close("done")
        for _ in range(200):
            if before.closed:
                break
            await asyncio.sleep(0.01)
        assert before.closed
        assert not runtime.supply._retired

    run(tmp_path, acme, main)
    assert all(made.closed for made in acme.made)


def test_one_that_cannot_be_made_so_goes_on_as_before_and_says_so(tmp_path: Path) -> None:
    acme = AcmePlugin()
    plugins = plugins_with(acme)

    async def main() -> None:
        async with running(tmp_path, plugins) as runtime:
            before = (await runtime.services(FALLBACK)).tts["acme"]
            assert (await put(runtime, "acme", voice="broken")).restart
            assert (await runtime.services(FALLBACK)).tts["acme"] is before
            assert acme.made[-1].closed, "the one that did not work"
            assert "no such voice" in plugins.infos["acme"].problems[0].what
            section = await put(runtime, "acme", voice="bea")
            assert not section.restart
            assert not plugins.infos["acme"].problems

    asyncio.run(main())


def test_one_that_had_failed_is_tried_again_at_once(tmp_path: Path) -> None:
    acme = AcmePlugin()
    acme.broken = True
    plugins = plugins_with(acme)

    async def main() -> None:
        async with running(tmp_path, plugins, clock=Clock()) as runtime:
            assert list((await runtime.services(FALLBACK)).tts) == ["scripted"]
            acme.broken = False
            await put(runtime, "acme", voice="bea")
            await asyncio.wait(runtime.supply.trials, timeout=5)
            services = await runtime.services(FALLBACK)
            assert list(services.tts) == ["acme", "scripted"], "long before its pause was over"
            assert acme.made[-1].settings.voice == "bea"
            assert not plugins.infos["acme"].problems

    asyncio.run(main())


def test_tools_take_it_at_once_sources_and_hooks_at_the_next_start(tmp_path: Path) -> None:
    acme = AcmePlugin()

    async def main(runtime: Runtime) -> None:
        assert not (await put(runtime, "acme_tool", voice="bea")).restart
        assert runtime.toolbox.tools()["acme_tool"].configured == AcmeSettings(voice="bea")
        assert (await put(runtime, "acme_source", voice="bea")).restart
        assert (await put(runtime, "acme_hooks", voice="bea")).restart
        assert runtime.plugin_settings.get("acme_source").restart, "also when it is looked at later"

    run(tmp_path, acme, main)


def test_an_llm_that_another_holds_is_not_taken_away_from_it(tmp_path: Path) -> None:
    class Both:
        made: list[ScriptedLlm]

        def __init__(self) -> None:
            self.made = []

        def _inner(self, context: Any) -> ScriptedLlm:
            self.made.append(ScriptedLlm())
            return self.made[-1]

        @hookimpl
        def register_providers(self) -> list[Provider]:
            return [
                Provider("llm", "inner", "Inner", self._inner, AcmeSettings),
                Provider("llm", "outer", "Outer", lambda context: context.llm("inner")),
            ]

    both = Both()
    plugins = load_plugins()
    assert plugins.add("both", lambda: both)
    agent = FALLBACK.model_copy(update={"llm": ("outer",), "tts": ("scripted",)})

    async def main() -> None:
        async with running(tmp_path, plugins, agent) as runtime:
            assert (await put(runtime, "inner", voice="bea")).restart
            assert len(both.made) == 1

    asyncio.run(main())


def test_a_wrong_stored_value_keeps_no_server_from_starting(tmp_path: Path) -> None:
    async def store(runtime: Runtime) -> None:
        rows = runtime.plugin_settings._rows
        for name in ("acme", "acme_tool", "acme_source", "acme_hooks"):
            await rows.put(name, {"speed": "fast", "sped": 1}, by="an older release")
        await rows.put("gone", {"x": 1}, by="a plugin that was removed")

    run(tmp_path, AcmePlugin(), store)
    acme = AcmePlugin()
    plugins = plugins_with(acme)

    async def main() -> None:
        async with running(tmp_path, plugins) as runtime:
            assert acme.made[-1].settings == AcmeSettings()
            problems = {one.subject: one.what for one in plugins.infos["acme"].problems}
            assert set(problems) == {f"settings:{name}" for name in ("acme", "acme_tool", "acme_source", "acme_hooks")}
            assert "speed: Expected `float`, got `str`" in problems["settings:acme"]
            assert "did you mean 'speed'" in problems["settings:acme"]
            await put(runtime, "acme", speed=2.0)
            assert "settings:acme" not in {one.subject for one in plugins.infos["acme"].problems}

    asyncio.run(main())


def test_secrets_are_left_replaced_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply_module, "_MOST_RETIRED", 10)
    acme = AcmePlugin()

    async def main(runtime: Runtime) -> None:
        async def key(**values: Any) -> str | None:
            section = await put(runtime, "acme", **values)
            current: str | None = acme.made[-1].settings.api_key
            assert section.values["api_key"] is (current is not None), "whether, not what"
            return current

        assert await key(api_key="one", voice="bea") == "one"
        assert await key(api_key=None, voice="cleo") == "one", "the form leaves it"
        assert await key(api_key=True, voice="dora") == "one", "as it is shown"
        assert await key(voice="emma") == "one", "it is not sent"
        assert await key(api_key="two", voice="emma") == "two"
        assert await key(api_key="", voice="emma") is None

    run(tmp_path, acme, main)


def test_what_is_left_out_gets_its_default_and_a_default_is_not_stored(tmp_path: Path) -> None:
    async def main(runtime: Runtime) -> None:
        section = await put(runtime, "acme", speed=2.0, limit=None, names=["a"], path="")
        assert section.origins["limit"] == section.origins["names"] == section.origins["speed"] == "panel"
        assert section.origins["path"] == "default"
        assert section.values["limit"] is None
        section = await put(runtime, "acme", names=["a"], speed=None, limit=5)
        assert section.values == {
            "speed": 1.0,
            "voice": "ada",
            "api_key": False,
            "limit": 5,
            "names": ["a"],
            "path": "",
        }
        assert {key for key, origin in section.origins.items() if origin == "panel"} == {"names"}
        section = await put(runtime, "acme")
        assert (section.updated_at, section.updated_by) == (None, None)
        assert await runtime.plugin_settings._rows.all() == []

    run(tmp_path, AcmePlugin(), main)


def test_all_that_is_wrong_is_named_at_once_and_nothing_is_stored(tmp_path: Path) -> None:
    async def main(runtime: Runtime) -> None:
        with pytest.raises(InvalidSettings) as caught:
            await put(runtime, "acme", speed="fast", limit=[], voise="x", voice="bea")
        assert set(caught.value.problems) == {"speed", "limit", "voise"}
        assert "did you mean 'voice'" in caught.value.problems["voise"]
        with pytest.raises(InvalidSettings, match="larger than"):
            await put(runtime, "acme", voice="x" * 100_000)
        with pytest.raises(SessionError) as unknown:
            await put(runtime, "acne", speed=1.0)
        assert unknown.value.code == "unknown_section"
        assert runtime.plugin_settings.get("acme").origins["voice"] == "default"
        assert await runtime.plugin_settings._rows.all() == []

    run(tmp_path, AcmePlugin(), main)


def test_what_the_file_or_the_environment_has_is_not_changed(tmp_path: Path) -> None:
    async def main(runtime: Runtime) -> None:
        with pytest.raises(SessionError) as caught:
            await put(runtime, "acme", speed=2.0, voice="bea")
        assert caught.value.code == "setting_pinned"
        assert "speed" in caught.value.message
        with pytest.raises(SessionError):
            await put(runtime, "acme", api_key="other")
        section = await put(runtime, "acme", speed=3.0, api_key=True, voice="bea")
        assert section.values["voice"] == "bea", "a form may send back what it was shown"
        assert (await runtime.plugin_settings._rows.all())[0].values == {"voice": "bea"}
        with pytest.raises(SessionError, match=r"servers: it can only be set in rejoinder\.toml"):
            await put(runtime, "mcp", servers={"x": {"command": "rm"}})

    run(tmp_path, AcmePlugin(), main, acme={"speed": 3.0, "api_key": "pinned"})


def test_many_at_once_are_one_after_the_other(tmp_path: Path) -> None:
    acme = AcmePlugin()

    async def main(runtime: Runtime) -> None:
        await asyncio.gather(*(put(runtime, "acme", voice=f"v{number}") for number in range(8)))
        stored = (await runtime.plugin_settings._rows.all())[0].values["voice"]
        section = runtime.plugin_settings.get("acme")
        assert section.values["voice"] == stored
        assert section.restart, "so many second instances are not kept"
        assert len(runtime.supply._retired) == 2

    run(tmp_path, acme, main)
    assert all(made.closed for made in acme.made)
