"""The toolbox: tools with their settings, sources that come and go, and what an agent gets of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from rejoinder.errors import ConfigError, UnknownName
from rejoinder.hookspecs import hookimpl
from rejoinder.manager import Plugins
from rejoinder.providers import Tool, ToolContext, ToolSource
from rejoinder.testing.virtual_time import run_virtual
from rejoinder.toolbox import Toolbox


async def run(arguments: dict[str, Any], context: ToolContext) -> str:
    return "done"


class Weather(msgspec.Struct, forbid_unknown_fields=True):
    unit: str = "C"
    days: int = 3


class Shelf:
    """A source whose tools a test puts there."""

    def __init__(self, prefix: str = "shop_", start_s: float = 0.0, broken: bool = False) -> None:
        self.prefix, self.start_s, self.broken = prefix, start_s, broken
        self.there: dict[str, Tool] = {}
        self.started = self.closed = 0

    async def start(self) -> None:
        self.started += 1
        await asyncio.sleep(self.start_s)

    def tools(self) -> Mapping[str, Tool]:
        return self.there

    def expects(self, name: str) -> bool:
        return name.startswith(self.prefix)

    async def close(self) -> None:
        self.closed += 1
        if self.broken:
            raise RuntimeError("stuck")


def plugins_with(*shelves: Shelf) -> Plugins:
    @hookimpl
    def register_tools() -> list[Tool]:
        return [Tool("clock", "", run), Tool("weather", "", run, settings=Weather)]

    @hookimpl
    def register_tool_sources() -> list[ToolSource]:
        return [ToolSource(f"source{n}", "", lambda _, shelf=shelf: shelf) for n, shelf in enumerate(shelves)]  # type: ignore[misc]

    plugin = SimpleNamespace(register_tools=register_tools, register_tool_sources=register_tool_sources)
    plugins = Plugins()
    assert plugins.add("test", lambda: plugin), plugins.infos
    return plugins


def test_a_tool_gets_its_section_of_the_settings() -> None:
    box = Toolbox(plugins_with(), {"weather": {"days": "5"}})
    assert box.tools()["weather"].configured == Weather("C", 5)
    assert box.tools()["clock"].configured is None


def test_wrong_settings_are_found_when_the_server_starts() -> None:
    with pytest.raises(ConfigError, match=r"\[plugins.weather\]: .*`day`") as caught:
        Toolbox(plugins_with(), {"weather": {"day": 5}})
    assert caught.value.fix == "Its settings are: unit, days."


def test_sources_start_side_by_side_and_one_that_does_not_close_keeps_no_other_from_it() -> None:
    shelves = [Shelf(start_s=3, broken=True), Shelf(start_s=2)]

    async def main() -> None:
        box = Toolbox(plugins_with(*shelves), {})
        await box.start()
        assert asyncio.get_running_loop().time() == pytest.approx(3)
        await box.close()

    run_virtual(main())
    assert [(shelf.started, shelf.closed) for shelf in shelves] == [(1, 1), (1, 1)]


def test_an_agent_gets_what_it_names_and_what_matches(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    box = Toolbox(plugins_with(shelf), {})
    with caplog.at_level(logging.WARNING):
        assert set(box.choose(["clock", "shop_order", "shop_*"])) == {"clock"}
    assert "shop_order is not there now" in caplog.text
    shelf.there = {name: Tool(name, "", run) for name in ("shop_order", "shop_price", "clock")}
    assert list(box.choose(["shop_*"])) == ["shop_order", "shop_price"]
    assert set(box.choose(["shop_order", "w*"])) == {"shop_order", "weather"}
    assert box.choose(["clock"])["clock"] is not shelf.there["clock"]


def test_what_nobody_will_ever_offer_is_an_error() -> None:
    box = Toolbox(plugins_with(Shelf()), {})
    box.check(["clock", "shop_later", "any*"])
    for look in (box.check, box.choose):
        with pytest.raises(UnknownName, match="did you mean 'clock'"):
            look(["clocks"])
