"""The plugin manager: who is loaded, in which order hooks are called, and what is said of plugins that do not fit."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest

from rejoinder import hookspecs
from rejoinder.catalog import fixed_agents
from rejoinder.discovery import find_plugins
from rejoinder.hookspecs import hookimpl
from rejoinder.manager import Plugins, hook_names, load_plugins, settings_schema
from rejoinder.providers import Capabilities, NoSettings, Provider, Secret, Tool
from rejoinder.settings import Agent, Settings


def offer(kind: Any, name: str) -> Provider:
    return Provider(kind, name, "", lambda context: None)  # type: ignore[arg-type, return-value]


class Speaker:
    def __init__(self, name: str = "hum", kind: str = "tts") -> None:
        self._offer = offer(kind, name)

    @hookimpl
    def register_providers(self) -> list[Provider]:
        return [self._offer]


def why(plugins: Plugins, name: str) -> str:
    error = plugins.infos[name].error
    assert error is not None
    return error


# -- order


class Plain:
    @hookimpl
    def on_event(self) -> None: ...


class First:
    @hookimpl(tryfirst=True)
    def on_event(self) -> None: ...


class Last:
    @hookimpl(trylast=True)
    def on_event(self) -> None: ...


def test_hooks_are_called_in_the_order_of_loading_but_for_those_who_ask_for_another() -> None:
    plugins = Plugins()
    for name, made in (("a", Last), ("b", Plain), ("c", First), ("d", Plain), ("e", First), ("f", Last)):
        plugins.add(name, made)
    assert [impl.plugin for impl in plugins.implementations("on_event")] == ["c", "e", "b", "d", "a", "f"]
    assert plugins.hooks_of("a") == ["on_event"]


def test_ours_come_first_then_packages_then_modules_then_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aaa.py").write_text("")
    entry = EntryPoint("aaa_package", "nowhere", "rejoinder")
    own = sorted(load_plugins().infos)
    real = __import__("importlib.metadata").metadata.entry_points
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry, *real(group=group)])
    names = [found.name for found in find_plugins(tmp_path, ["aa.module"])]
    assert names == [*own, "aaa_package", "aa.module", "aaa"]


def test_a_module_named_in_the_settings_is_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bakery_tools.py").write_text(
        "from rejoinder import tool\n@tool\ndef bake(what: str) -> str:\n    'Bakes.'\n    return what\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    plugins = load_plugins(modules=["bakery_tools", "no_such_module_here"])
    sys.modules.pop("bakery_tools", None)
    assert "bake" in plugins.tools()
    assert plugins.owner("tool", "bake") == "bakery_tools"
    assert "No module named 'no_such_module_here'" in why(plugins, "no_such_module_here")


# -- what does not fit


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("1.0", None),
        ("1", None),
        ("1.9", "Upgrade rejoinder"),
        ("2.0", "Upgrade rejoinder"),
        ("0.4", "Upgrade the plugin"),
        ("new", "Write it as text"),
        (1.0, "Write it as text"),
    ],
)
def test_the_version_a_plugin_was_made_for(wanted: Any, said: str | None) -> None:
    plugins = Plugins()
    fits = plugins.add("theirs", lambda: SimpleNamespace(REJOINDER_API=wanted))
    assert fits is (said is None)
    if said is not None:
        assert said in why(plugins, "theirs")
        assert plugins.infos["theirs"].state == "failed"


def test_a_hook_that_is_not_there_is_named_with_the_nearest() -> None:
    class Wrong:
        @hookimpl
        def on_events(self) -> None: ...

    plugins = Plugins()
    assert not plugins.add("wrong", Wrong)
    assert "no hook 'on_events'" in why(plugins, "wrong")
    assert "Did you mean 'on_event'?" in why(plugins, "wrong")


def test_a_hook_of_a_later_version_may_be_optional() -> None:
    class Later:
        @hookimpl(optionalhook=True)
        def on_weather(self) -> None: ...

    assert Plugins().add("later", Later)


def test_an_argument_that_is_not_there_is_refused() -> None:
    class Wrong:
        @hookimpl
        def on_event(self, room: str) -> None: ...

    plugins = Plugins()
    assert not plugins.add("wrong", Wrong)
    assert "on_event asks for 'room', which there is not." in why(plugins, "wrong")
    assert "It may ask for: session_id, event." in why(plugins, "wrong")


def test_a_forgotten_mark_is_said() -> None:
    class Forgot:
        def register_providers(self) -> list[Provider]:
            return []

    plugins = Plugins()
    assert not plugins.add("forgot", Forgot)
    assert "Write @hookimpl above it" in why(plugins, "forgot")


def test_wrappers_are_refused() -> None:
    class Wrapping:
        @hookimpl(wrapper=True)
        def before_tts(self, text: str) -> Any:
            return (yield)

    plugins = Plugins()
    assert not plugins.add("wrapping", Wrapping)
    assert "wrapper" in why(plugins, "wrapping")


def test_what_is_offered_must_be_what_the_hook_asks_for() -> None:
    class Wrong:
        @hookimpl
        def register_tools(self) -> list[Any]:
            return ["clock"]

        @hookimpl
        def register_providers(self) -> list[Provider]:
            return [offer("tts", "hum")]

    plugins = Plugins()
    plugins.add("wrong", Wrong)
    assert plugins.tools() == {}
    assert plugins.infos["wrong"].state == "degraded"
    assert "register_tools must return Tool objects, not str" in why(plugins, "wrong")
    assert plugins.provider("tts", "hum"), "the rest of it is in use"


def test_a_missing_package_is_named_with_what_to_install() -> None:
    def load() -> object:
        import acme_engine_that_is_nowhere  # type: ignore[import-not-found]

        return acme_engine_that_is_nowhere

    plugins = Plugins()
    plugins.add("acme", load, distribution="rejoinder-acme", version="1.2")
    assert "acme_engine_that_is_nowhere" in why(plugins, "acme")
    assert "pip install --upgrade rejoinder-acme" in why(plugins, "acme")
    assert "Traceback" in plugins.infos["acme"].details


class Bare(msgspec.Struct):
    url: str


MISFITS: dict[str, tuple[Any, str]] = {
    "no name": (Provider("tts", None, "", Plain), "its name is 'None'"),  # type: ignore[arg-type]
    "odd name": (Provider("tts", "my voice", "", Plain), "its name is 'my voice'"),  # type: ignore[arg-type]
    "no struct": (Provider("tts", "hum", "", Plain, dict), "no msgspec.Struct"),  # type: ignore[arg-type]
    "a required field": (Provider("tts", "hum", "", Plain, Bare), "no default for url"),  # type: ignore[arg-type]
    "no function": (Provider("tts", "hum", "", None), "its `create` is no function"),  # type: ignore[arg-type]
    "no capabilities": (Provider("tts", "hum", "", Plain, NoSettings, None), "no Capabilities"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", MISFITS)
def test_an_offer_that_is_not_whole_is_left_out_alone(case: str) -> None:
    item, what = MISFITS[case]

    class Offers:
        @hookimpl
        def register_providers(self) -> list[Provider]:
            return [item, offer("tts", "fine")]

    plugins = Plugins()
    plugins.add("acme", Offers)
    assert [one.name for one in plugins.providers()] == ["fine"]
    assert what in why(plugins, "acme")


def test_a_tool_without_a_schema_is_left_out() -> None:
    async def run(arguments: dict[str, Any], context: Any) -> str:
        return ""

    class Offers:
        @hookimpl
        def register_tools(self) -> list[Tool]:
            return [Tool("bad", "", run, parameters=None), Tool("odd", "", run, {"x": object()}), Tool("fine", "", run)]  # type: ignore[arg-type]

    plugins = Plugins()
    plugins.add("acme", Offers)
    assert set(plugins.tools()) == {"fine"}
    assert len(plugins.infos["acme"].problems) == 2


def test_a_section_that_belongs_to_others_is_refused() -> None:
    class Thief:
        @hookimpl
        def register_settings(self) -> dict[str, type[msgspec.Struct]]:
            return {"hibari": Options, "mine": Options}

    plugins = load_plugins()
    plugins.add("thief", Thief)
    assert set(plugins.settings()) == {"mine"}
    assert "[plugins.hibari] belongs to the plugin 'hibari'" in why(plugins, "thief")


@pytest.mark.parametrize("error", [SystemExit("x"), asyncio.CancelledError(), ValueError("x")])
def test_whatever_a_plugin_raises_stays_with_it(error: BaseException) -> None:
    class Raises:
        @hookimpl
        def register_providers(self) -> list[Provider]:
            raise error

    def load() -> object:
        raise error

    plugins = load_plugins()
    assert not plugins.add("one", load)
    assert plugins.add("two", Raises)
    assert plugins.provider("tts", "hibari")
    assert plugins.infos["one"].state == "failed"
    assert plugins.infos["two"].state == "degraded"


def starred(*events: Any) -> None: ...


def defaulted(event: Any = None) -> None: ...


def keyword(*, event: Any) -> None: ...


async def late(event: Any) -> None: ...


async def stream(event: Any) -> Any:
    yield event


@pytest.mark.parametrize("function", [starred, defaulted, keyword, late, stream])
def test_a_function_that_cannot_be_called_as_hooks_are_is_refused(function: Any) -> None:
    plugins = Plugins()
    marked = hookimpl(types.FunctionType(function.__code__, {}, "on_event", function.__defaults__))
    marked.__kwdefaults__ = function.__kwdefaults__
    assert not plugins.add("odd", lambda: SimpleNamespace(on_event=marked))
    assert "async" in why(plugins, "odd") or "parameter" in why(plugins, "odd") or "keyword" in why(plugins, "odd")


# -- names that are taken


def test_who_comes_first_keeps_the_name_and_the_other_is_told() -> None:
    plugins = Plugins()
    plugins.add("one", Speaker)
    plugins.add("two", Speaker)
    plugins.add("three", lambda: Speaker("hum", "stt"))
    assert plugins.owner("tts", "hum") == "one"
    assert plugins.owner("stt", "hum") == "three", "of another kind it is another name"
    assert plugins.infos["one"].state == plugins.infos["three"].state == "ok"
    assert "tts:hum is taken by the plugin 'one'" in why(plugins, "two")
    assert "disabled_plugins" in why(plugins, "two")
    assert [p.name for p in plugins.offers("one")] == ["hum"]
    assert plugins.offers("two") == []


def test_tools_of_one_name() -> None:
    async def run(arguments: dict[str, Any], context: Any) -> str:
        return ""

    class Tools:
        @hookimpl
        def register_tools(self) -> Iterable[Tool]:
            return [Tool("clock", "tells", run)]

    plugins = load_plugins()
    plugins.add("mine", Tools)
    assert plugins.owner("tool", "clock") == "tools"
    assert plugins.tools()["clock"].description != "tells"
    assert "tool:clock is taken by the plugin 'tools'" in why(plugins, "mine")


def test_a_kind_that_is_not_there() -> None:
    plugins = Plugins()
    plugins.add("one", lambda: Speaker("hum", "video"))
    assert plugins.providers() == []
    assert "no kind of provider 'video'; there are vad, stt" in why(plugins, "one")


# -- agents


class Hosts:
    @hookimpl
    def register_agents(self) -> Mapping[str, Agent]:
        return {"host": Agent(greeting="Welcome!"), "waiter": Agent(greeting="What will it be?")}


def test_agents_of_plugins_and_of_the_settings() -> None:
    plugins = load_plugins()
    plugins.add("hosts", Hosts)
    agents = fixed_agents(Settings(agents={"host": Agent(greeting="Mine.")}), plugins)
    assert (agents["host"].greeting, agents["waiter"].greeting) == ("Mine.", "What will it be?")
    assert agents["guide"].turns.nudge_after_ms == 30_000, "our own agent comes by the same hook"
    assert plugins.owner("agent", "guide") == "guide"
    assert "guide" not in fixed_agents(Settings(), load_plugins(["guide"]))


# -- problems


def test_the_newest_problem_of_each_part_is_kept_and_counted() -> None:
    plugins = Plugins()
    plugins.add("acme", Speaker)
    for number in range(3):
        plugins.report("acme", "answer", "tts:hum", ValueError(f"no {number}"))
    plugins.report("acme", "hook", "on_event", "It failed.", fix="Do this.")
    answer, hook = plugins.infos["acme"].problems
    assert (answer.what, answer.count) == ("ValueError: no 2.", 3)
    assert (hook.what, hook.subject) == ("It failed. Do this.", "on_event")
    assert plugins.infos["acme"].counts == {"answer": 3, "hook": 1}
    plugins.mended("acme", "answer", "tts:hum")
    assert [one.stage for one in plugins.infos["acme"].problems] == ["hook"]


def test_endless_problems_are_bounded() -> None:
    plugins = Plugins()
    plugins.add("acme", Speaker)
    for number in range(1000):
        plugins.report("acme", "answer", f"tts:{number}", "no")
    assert len(plugins.infos["acme"].problems) <= 20
    assert plugins.infos["acme"].counts["answer"] == 1000


# -- settings and capabilities


class Options(msgspec.Struct, forbid_unknown_fields=True):
    speed: Annotated[float, msgspec.Meta(ge=0.5)] = 1.0
    api_key: Secret | None = None


def test_the_schema_marks_what_is_secret() -> None:
    properties = settings_schema(Options)["properties"]
    assert properties["speed"] == {"type": "number", "minimum": 0.5, "default": 1.0}
    assert properties["api_key"]["writeOnly"] is True
    assert "default" not in properties["api_key"], "it may come from the environment"
    assert "writeOnly" not in properties["speed"]
    assert settings_schema(NoSettings)["properties"] == {}


@pytest.mark.parametrize(
    ("languages", "wanted", "can"),
    [
        (None, "xx", True),
        (("en",), "en", True),
        (("en",), "en-GB", True),
        (("EN",), "en-gb", True),
        (("en-GB",), "en", False),
        (("en",), "eng", False),
        ((), "en", False),
    ],
)
def test_languages(languages: tuple[str, ...] | None, wanted: str, can: bool) -> None:
    assert Capabilities(languages=languages).speaks(wanted) is can


def test_all_hooks_are_there() -> None:
    assert len(hook_names()) == 14
    assert all((getattr(hookspecs, name).__doc__ or "").strip() for name in hook_names())
