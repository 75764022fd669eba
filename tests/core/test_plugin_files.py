"""Plugins that are single files: found in their folder, kept out when they are broken, never in anybody's way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rejoinder.commands import plugins as command
from rejoinder.manager import load_plugins

TOOL = """
from rejoinder import tool

@tool
async def book_table(guests: int) -> str:
    "Books a table."
    return f"A table for {guests}."
"""
PROVIDER = """
import msgspec
from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Provider

class Settings(msgspec.Struct):
    voice: str = "low"

@hookimpl
def register_providers():
    return [Provider("tts", "hum", "hums", lambda context: None, Settings)]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "plugins"
    made.mkdir()
    before = set(sys.modules)
    yield made
    for name in set(sys.modules) - before:
        if name.startswith("rejoinder_plugin_"):
            del sys.modules[name]


def test_a_file_is_a_plugin(folder: Path) -> None:
    (folder / "restaurant.py").write_text(TOOL)
    (folder / "hum.py").write_text(PROVIDER)
    (folder / "_helper.py").write_text("raise SystemExit")
    (folder / "notes.txt").write_text("not Python")
    plugins = load_plugins(folder=folder)
    assert "book_table" in plugins.tools()
    assert plugins.provider("tts", "hum").settings().voice == "low"  # type: ignore[attr-defined]
    assert plugins.infos["restaurant"].distribution == str(folder / "restaurant.py")
    assert {name for name in plugins.infos if "helper" in name or "notes" in name} == set()
    assert "book_table" not in load_plugins(["restaurant"], folder).tools()
    assert "book_table" not in load_plugins().tools()
    assert "clock" in load_plugins(folder=folder / "none").tools(), "no folder is no error"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import nonsense_that_is_not_there", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("raise SystemExit(3)", "SystemExit"),
        ("from rejoinder import tool\n@tool\ndef f(x): ...", "TypeError"),
    ],
)
def test_a_broken_file_is_kept_out_and_named(folder: Path, source: str, what: str) -> None:
    (folder / "broken.py").write_text(source)
    (folder / "restaurant.py").write_text(TOOL)
    plugins = load_plugins(folder=folder)
    info = plugins.infos["broken"]
    assert info.error is not None
    assert what in info.error
    assert "broken.py" in info.details, "the traceback names the file"
    assert "rejoinder_plugin_broken" not in sys.modules
    assert "book_table" in plugins.tools(), "the others go on"


def test_a_name_that_is_taken_is_said(folder: Path) -> None:
    (folder / "tools.py").write_text(TOOL)
    plugins = load_plugins(folder=folder)
    assert "clock" in plugins.tools(), "the plugin that had the name goes on"
    assert "book_table" not in plugins.tools()
    error = plugins.infos["tools.py"].error
    assert error is not None
    assert "another plugin called 'tools' (rejoinder)" in error


def test_the_command_lists_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "restaurant.py").write_text(TOOL)
    monkeypatch.chdir(folder.parent)
    result = CliRunner().invoke(command.command, ["list", "--json"])
    (found,) = [one for one in json.loads(result.stdout) if one["name"] == "restaurant"]
    assert (found["offers"], found["distribution"]) == (["tool:book_table"], str(Path("plugins") / "restaurant.py"))
