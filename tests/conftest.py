"""Databases for tests: a file, and a PostgreSQL server where there is one or the programs to run one; reports."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rejoinder.events import encodable

POSTGRES = "REJOINDER_TEST_POSTGRES"
"""The URL of a server on which databases may be made, `postgresql+asyncpg://...`; without it one is started."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Reports go from one process to another, which half a character in a log line does not survive."""
    report: Any = yield
    report.sections = [(title, encodable(text)) for title, text in report.sections]
    return report


def _programs() -> Path | None:
    """The folder of PostgreSQL's own programs; Debian does not put it on the path."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if found is None else [Path(found).resolve().parent]
    return folders[-1] if folders and (folders[-1] / "pg_ctl").exists() else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """A running server; it listens on no port."""
    if importlib.util.find_spec("asyncpg") is None:
        pytest.skip("asyncpg is not installed")
    if given := os.environ.get(POSTGRES):
        yield make_url(given)
        return
    programs = _programs()
    if programs is None:
        pytest.skip(f"there is no PostgreSQL: install it, or set {POSTGRES}")
    # Not pytest's own folder, which nobody else may enter: PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="rejoinder-postgres-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, cwd=folder, user=user, check=True, stdout=subprocess.DEVNULL, timeout=60)

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        run("initdb", "-U", "rejoinder", "-A", "trust", "-E", "UTF8", "--no-locale")
        options = f"-c listen_addresses= -c fsync=off -k {folder}"
        run("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")
        stack.callback(run, "pg_ctl", "-w", "-m", "immediate", "stop")
        yield URL.create("postgresql+asyncpg", "rejoinder", database="postgres", query={"host": str(folder)})


@pytest.fixture
def postgres(postgres_server: URL) -> Iterator[str]:
    """The URL of an empty database."""

    async def tell(command: str) -> None:
        engine = create_async_engine(postgres_server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.execute(text(command))
        await engine.dispose()

    name = f"test_{uuid4().hex}"
    asyncio.run(tell(f"CREATE DATABASE {name}"))
    try:
        yield postgres_server.set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(tell(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/test.db"
    url: str = request.getfixturevalue("postgres")
    return url
