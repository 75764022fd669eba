"""`rejoinder keys`: says which database it works on, and makes none where one should be."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rejoinder.commands import keys, knowledge
from rejoinder.errors import ConfigError

REFUSING = [
    (keys, ("list",)),
    (keys, ("rotate", "key_1")),
    (keys, ("revoke", "key_1")),
    (knowledge, ("list",)),
    (knowledge, ("search", "soup")),
    (knowledge, ("remove", "doc_1")),
]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REJOINDER_DATABASE_URL", "REJOINDER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*args: str) -> Result:
    return CliRunner().invoke(keys.command, args)


@pytest.mark.parametrize(
    ("module", "args"), REFUSING, ids=lambda value: "-".join(value) if type(value) is tuple else ""
)
def test_what_only_reads_or_changes_makes_no_database(module: object, args: tuple[str, ...], tmp_path: Path) -> None:
    error = CliRunner().invoke(module.command, args).exception  # type: ignore[attr-defined]
    assert isinstance(error, ConfigError)
    assert (error.code, error.message) == ("no_database", f"There is no database '{tmp_path}/rejoinder.db'.")
    assert error.fix is not None
    assert "REJOINDER_DATABASE_URL" in error.fix
    assert "server's folder" in error.fix
    assert not list(tmp_path.iterdir())


def test_the_database_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run("create", "shop")
    assert made.exit_code == 0, made.output
    assert made.stderr.startswith(f"database: {tmp_path}/rejoinder.db\n"), "absolute"
    assert made.stdout.count("\n") == 1, "the key alone"
    listed = run("list")
    assert listed.stderr == f"database: {tmp_path}/rejoinder.db\n"
    key_id = listed.stdout.split()[0]
    for args in (("rotate", key_id), ("revoke", key_id)):
        done = run(*args)
        assert done.exit_code == 0, done.output
        assert done.stderr.startswith("database: ")
    with closing(sqlite3.connect(tmp_path / "rejoinder.db")) as database:
        rows = database.execute("SELECT actor, action, detail FROM audit ORDER BY id").fetchall()
    assert [row[:2] for row in rows] == [("cli", "key.create"), ("cli", "key.rotate"), ("cli", "key.revoke")]
    assert made.stdout.strip() not in str(rows), "what lets one in is in no log"
    nowhere = "postgresql+asyncpg://me:secret@127.0.0.1:1/rejoinder?password=hidden"
    monkeypatch.setenv("REJOINDER_DATABASE_URL", nowhere)
    unreachable = run("list").stderr
    assert unreachable.startswith("database: postgresql+asyncpg://me:***@127.0.0.1:1/rejoinder\n")
    assert "secret" not in unreachable
