"""`rejoinder plugins new`: what it writes, what it refuses, and that what it needs ships with Rejoinder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from rejoinder import __version__
from rejoinder.cli import main
from rejoinder.commands.plugin_new import KINDS, LONGEST, render
from rejoinder.providers import KINDS as PROVIDERS

ROOT = Path(__file__).parents[2]
COMMON = {
    ".github/workflows/test.yml",
    ".gitignore",
    "CHANGELOG.md",
    "README.md",
    "pyproject.toml",
    "src/rejoinder_my_own/__init__.py",
    "src/rejoinder_my_own/py.typed",
    "tests/test_conformance.py",
}


def new(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "new", *args])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_a_template_of_every_kind() -> None:
    assert set(KINDS) == {*PROVIDERS, "tool", "adapter", "observer"}
    assert {entry.name for entry in (files("rejoinder") / "templates").iterdir()} == {*KINDS, "common"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_project_is_complete_and_no_placeholder_is_left(kind: str) -> None:
    project = dict(render("my-own", kind))
    assert project.keys() > COMMON
    assert len([path for path in project if re.fullmatch(r"src/rejoinder_my_own/(?!__)\w+\.py", path)]) == 1
    assert len([path for path in project if path.startswith("tests/test_")]) == 2
    for path, content in project.items():
        if not path.endswith(".wav"):
            assert not re.search(r"\{\{\w+\}\}", content.decode()), path
    described = tomllib.loads(project["pyproject.toml"].decode())
    assert described["project"]["name"] == "rejoinder-my-own"
    assert described["project"]["entry-points"]["rejoinder"] == {"my_own": "rejoinder_my_own"}
    assert described["project"]["dependencies"][0] == f"rejoinder>={__version__.rpartition('.')[0]}"
    assert ("numpy" in str(described["project"]["dependencies"])) == any(
        b"import numpy" in content for content in project.values()
    )
    readme = project["README.md"].decode()
    for title in ("Install", "Use", "Settings", "Develop", "Publish"):
        assert f"## {title}" in readme


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_lists_every_setting_with_its_variable_and_default(kind: str) -> None:
    project = dict(render("my-own", kind))
    source = "\n".join(content.decode() for path, content in project.items() if path.startswith("src/"))
    defaults = re.search(r"class \w*Settings\(.*?\n\n\n", source, re.DOTALL)
    readme = project["README.md"].decode()
    rows = re.findall(
        r"^\| `(\w+)` \| `REJOINDER_PLUGINS__MY_OWN(?:_PRICE)?__(\w+)` \| (\S.*?) \|", readme, re.MULTILINE
    )
    settings = re.findall(r"^    (\w+): .* = (.*)$", defaults.group(), re.MULTILINE) if defaults else []
    assert [name for name, _ in settings] == [name for name, _, _ in rows]
    for (name, default), (_, variable, shown) in zip(settings, rows, strict=True):
        assert variable == name.upper()
        assert shown.replace('"', "").strip("`[]") == default.replace('"', "").strip("()")
    assert bool(settings) == (kind != "adapter")


@pytest.mark.parametrize("name", ["a", "acme", "a" * LONGEST])
def test_what_is_written_is_as_ruff_wants_it(here: Path, name: str) -> None:
    for kind in KINDS:
        folder = here / kind
        for path, content in render(name, kind):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    for args in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *args, *KINDS]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_next_three_commands_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new("acme", "--kind", "vad", "--path", "some where") == 0
    told = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert told == ["cd 'some where/rejoinder-acme'", "rejoinder plugins test .", "pip install -e ."]
    assert (here / "some where" / "rejoinder-acme" / "src" / "rejoinder_acme" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("Acme", "acme"),
        ("my_voice", "my-voice"),
        ("9lives", "lives"),
        ("a--b", "a-b"),
        ("-", "acme"),
        ("../evil", "evil"),
        ("", "acme"),
        ("é", "acme"),
        ("a" * 31, "a" * 30),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(
    here: Path, name: str, proposal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new("--kind", "tts", "--", name) == 3
    said = capsys.readouterr().err
    assert "[bad_name]" in said
    assert f"For example {proposal!r}." in said
    assert not list(here.iterdir())


def test_the_prefix_is_not_said_twice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new("rejoinder-acme", "--kind", "tts") == 3
    assert "rejoinder plugins new acme" in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("hibari", "the tts provider 'hibari'"),
        ("smart-turn", "the turn provider 'smart_turn'"),
        ("clock", "the tool 'clock'"),
        ("rest", "the plugin 'rest' of rejoinder"),
        ("plugins", "the module 'rejoinder_plugins'"),
    ],
)
def test_a_name_that_is_taken_is_refused(here: Path, name: str, owner: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert new(name, "--kind", "tts") == 3
    said = capsys.readouterr().err
    assert owner in said
    assert f"'my-{name}'" in said
    assert not list(here.iterdir())


def test_nothing_is_ever_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "rejoinder-acme").mkdir()
    assert new("acme", "--kind", "tts") == 3
    assert "rejoinder-acme is there already; nothing was written. Fix: " in capsys.readouterr().err
    assert not list((here / "rejoinder-acme").iterdir())
    (here / "rejoinder-link").symlink_to(here / "nowhere")
    assert new("link", "--kind", "tts") == 3
    assert not (here / "nowhere").exists()


def test_a_folder_that_cannot_be_written_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").write_text("")
    assert new("acme", "--kind", "tts", "--path", "file/below") == 3
    assert capsys.readouterr().err.startswith(
        "error: file/below/rejoinder-acme cannot be written: Not a directory. Fix: "
    )


def test_a_kind_nobody_knows_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert new("acme", "--kind", "voice") == 2
    assert "stt" in capsys.readouterr().err


def test_the_wheel_has_all_templates(here: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", here, ROOT],
        capture_output=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    (wheel,) = here.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("rejoinder/templates/")}
    core = ROOT / "core"
    templates = {
        str(path.relative_to(core)) for path in (core / "rejoinder" / "templates").rglob("*") if path.is_file()
    }
    assert shipped == templates
    assert len(shipped) > 50
