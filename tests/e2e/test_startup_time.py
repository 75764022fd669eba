"""`rejoinder --help` with many plugins installed: what it lists, what it imports, and how long it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGINS = 30
RUNS = 7
MOST_MS = 250
MOST_PASSES = 18
"""`rejoinder --help` may take as long as this many empty Pythons; measured: 6 to 8."""
NAUGHTY = """\
import time

time.sleep(5)
raise RuntimeError("nobody asked for me")
"""
USABLE = """\
import click


@click.command()
@click.option("--times", default=1)
def command(times: int) -> None:
    \"\"\"Greet.\"\"\"
    click.echo("good day " * times)
"""
METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: 1.0
Summary: One of many.
Classifier: Programming Language :: Python :: 3
Requires-Dist: rejoinder
Description-Content-Type: text/markdown

A page of text, as a package has it.
"""


def install(site: Path, name: str, source: str, entry_points: str) -> None:
    """A package as pip leaves it behind: a module and its metadata."""
    (site / f"{name.replace('-', '_')}.py").write_text(source)
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA.format(name=name) + "More of it.\n" * 200)
    (info / "entry_points.txt").write_text(entry_points)
    (info / "RECORD").write_text("")
    (info / "INSTALLER").write_text("pip\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty packages with a plugin and a command each, whose import is slow and fails; one of them works."""
    site = tmp_path_factory.mktemp("site")
    for number in range(PLUGINS - 1):
        name = f"rejoinder_naughty{number}"
        entries = f"[rejoinder]\nnaughty{number} = {name}\n\n[rejoinder.commands]\nnaughty{number} = {name}:command\n"
        install(site, f"rejoinder-naughty{number}", NAUGHTY, entries)
    commands = "[rejoinder.commands]\ngreet = rejoinder_polite:command\nserve = rejoinder_polite:command\n"
    install(site, "rejoinder-polite", USABLE, f"{commands}number = rejoinder_polite:__name__\n")
    return site


def rejoinder(site: Path, *args: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *options, "-m", "rejoinder", *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_lists_the_commands_of_plugins_with_their_packages(site: Path) -> None:
    done = rejoinder(site, "--help")
    assert done.returncode == 0, done.stderr
    built_in, _, of_plugins = done.stdout.partition("Commands of plugins:")
    lines = [line.split() for line in of_plugins.splitlines() if line.strip()]
    assert ["greet", "of", "rejoinder-polite"] in lines
    assert ["naughty7", "of", "rejoinder-naughty7"] in lines
    assert len(lines) == PLUGINS + 1
    assert "Run the server." in built_in
    assert "serve" not in of_plugins, "a built-in name wins"


def test_a_command_of_a_plugin_runs_and_a_built_in_one_wins(site: Path) -> None:
    assert rejoinder(site, "greet", "--times", "2").stdout == "good day good day \n"
    assert "Greet." in rejoinder(site, "greet", "--help").stdout
    assert "Start the server" in rejoinder(site, "serve", "--help").stdout


def test_a_command_that_cannot_be_imported_is_one_line_that_names_its_package(site: Path, tmp_path: Path) -> None:
    entries = (
        "[rejoinder.commands]\nbroken = rejoinder_broken:command\n"
        "odd = rejoinder_broken 7\nnumber = rejoinder_number:command\n"
    )
    install(tmp_path, "rejoinder-broken", "import a_package_nobody_has\n", entries)
    (tmp_path / "rejoinder_number.py").write_text("command = 7\n")
    for name, reason in (
        ("broken", "ModuleNotFoundError: No module named 'a_package_nobody_has'"),
        ("odd", "Error: "),
        ("number", "TypeError: rejoinder_number:command is no click command but a int"),
    ):
        done = rejoinder(tmp_path, name)
        assert done.returncode == 3, done.stderr
        assert done.stderr.startswith(f"error: The command {name!r} of rejoinder-broken cannot be loaded: ")
        assert reason in done.stderr
        assert "Fix: Reinstall or update rejoinder-broken" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in rejoinder(tmp_path, "broken", "--debug").stderr
    assert rejoinder(tmp_path, "--help").returncode == 0


def test_a_misspelt_name_is_compared_with_the_commands_of_plugins_too(site: Path) -> None:
    done = rejoinder(site, "gret")
    assert done.returncode == 2
    assert "Did you mean 'greet'?" in done.stderr


def test_damaged_metadata_of_a_package_does_not_take_the_help_away(tmp_path: Path) -> None:
    install(tmp_path, "rejoinder-nameless", "", "[rejoinder.commands]\nnameless = rejoinder_nameless:command\n")
    (tmp_path / "rejoinder_nameless-1.0.dist-info" / "METADATA").write_text("")
    done = rejoinder(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert "Run the server." in done.stdout


@pytest.mark.parametrize("args", [("--help",), ("--version",), (), ("plugins", "--help")])
def test_no_plugin_is_imported_for_help(site: Path, args: tuple[str, ...]) -> None:
    done = rejoinder(site, *args, options=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "rejoinder.cli" in imported
    assert not [name for name in imported if name.startswith(("rejoinder_naughty", "rejoinder_polite"))]


def test_help_takes_no_longer_than_a_few_empty_pythons(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def took_ms(*args: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, *args], env=environment, stdout=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - started) * 1000

    took_ms("-m", "rejoinder", "--help")
    # In turn, so that both meet the same noise; the best of each is what the machine can do.
    pairs = [(took_ms("-c", "pass"), took_ms("-m", "rejoinder", "--help")) for _ in range(RUNS)]
    empty, full = min(first for first, _ in pairs), min(second for _, second in pairs)
    with capsys.disabled():
        print(
            f"\nrejoinder --help with {PLUGINS} plugins: {full:.0f} ms, python -c pass: {empty:.0f} ms (best of {RUNS})"
        )
    assert full < MOST_PASSES * empty
    assert full < MOST_MS
