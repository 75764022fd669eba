"""The guide to tools: its programs are loaded as plugins and run, its settings are read."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoinder.manager import Plugins, load_plugins
from rejoinder.providers import ToolCall, ToolContext
from rejoinder.settings import Settings
from rejoinder.toolbox import Toolbox
from rejoinder.tools import ToolResult, run_tool

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "how-to" / "tools.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|toml)\n# (.+?)\n(.*?)```", GUIDE, re.DOTALL)
SECTIONS = [tomllib.loads(text) for kind, name, text in BLOCKS if kind == "toml" and name == "rejoinder.toml"]


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (code,) = [text for kind, title, text in BLOCKS if kind == "python" and title == f"{name}.py"]
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, f"{name}.py", "exec"), vars(module))
    return module


def call(box: Toolbox, name: str, context: ToolContext | None = None, /, **arguments: Any) -> ToolResult:
    wish = ToolCall("c", name, json.dumps(arguments))
    return asyncio.run(run_tool(box.tools(), wish, context or ToolContext("ses_1"), 5.0))


def test_the_restaurant_is_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = Plugins()
    assert plugins.add("restaurant", lambda: load("restaurant", monkeypatch)), plugins.infos
    box = Toolbox(plugins, {})
    assert call(box, "opening_hours", day="sunday") == ToolResult("ok", "closed")
    assert json.loads(call(box, "book_table", people=2, hour=19).text)["people"] == 2
    assert "hour: Expected `int`" in call(box, "book_table", people=2, hour="eight").text
    assert not box.tools()["opening_hours"].side_effects
    box.check(SECTIONS[0]["agents"]["host"]["tools"][:2])


def test_the_weather_has_settings_and_tells_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = Plugins()
    assert plugins.add("weather", lambda: load("weather", monkeypatch)), plugins.infos
    (section,) = [settings["plugins"] for settings in SECTIONS if "weather" in settings.get("plugins", {})]
    told: list[tuple[str, float | None]] = []
    context = ToolContext("ses_1", told=lambda text, part: told.append((text, part)))
    assert call(Toolbox(plugins, section), "weather", context, city="Paris") == ToolResult(
        "ok", "20 degrees F in Paris"
    )
    assert told[0] == ("asking station 1", 0.0)


def test_the_settings_it_shows_are_right() -> None:
    plugins = load_plugins()
    for section in SECTIONS:
        settings = Settings(**section)
        box = Toolbox(plugins, settings.plugins)
        for agent in settings.agents.values():
            box.check(set(agent.tools) - {"opening_hours", "book_table"})


def test_every_setting_of_a_tool_is_documented() -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    plugins = load_plugins()
    offers: list[Any] = [*plugins.tools().values(), *plugins.tool_sources(None)]
    for offer in offers:
        for field in msgspec.structs.fields(offer.settings):
            assert f"`{field.name}`" in page.split(f"### {offer.name}\n")[1].split("\n### ")[0], (
                offer.name,
                field.name,
            )
