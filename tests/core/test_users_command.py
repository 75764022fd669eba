"""`rejoinder users`: accounts and links from the terminal, and what a server says of them when it starts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rejoinder.app import Runtime
from rejoinder.commands import users
from rejoinder.errors import RejoinderError
from rejoinder.settings import Agent, Auth, Settings
from rejoinder_adapters import serve

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REJOINDER_DATABASE_URL", "REJOINDER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*args: str) -> Result:
    return CliRunner().invoke(users.command, args)


def code_of(*args: str) -> str:
    error = run(*args).exception
    assert isinstance(error, RejoinderError), error
    assert error.fix
    return error.code


def listed() -> dict[str, Any]:
    return {record["name"]: record for record in json.loads(run("list", "--json").stdout)}


def runtime(**changes: Any) -> Runtime:
    names = dict.fromkeys(("vad", "stt", "llm", "tts"), "scripted")
    return Runtime(
        Settings(
            default_agent="mine",
            agents={"mine": Agent.model_validate({**names, "turn": [], "interruption": []})},
            auth=Auth(dev_key_file=Path("dev-key"), mode=changes.pop("mode", "keys")),
            **changes,
        )
    )


@pytest.mark.parametrize(
    "args", [("list",), ("link", "ann"), ("disable", "ann"), ("enable", "ann"), ("role", "a", "admin")]
)
def test_what_only_reads_or_changes_makes_no_database(args: tuple[str, ...], tmp_path: Path) -> None:
    assert code_of(*args) == "no_database"
    assert not list(tmp_path.iterdir())


def test_an_account_from_the_terminal() -> None:
    made = run("create", "Ann", "--role", "admin")
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("http://127.0.0.1:8080/admin/login#token=")
    assert made.stdout.count("\n") == 1, "the link alone"
    token = made.stdout.strip().partition("#token=")[2]
    assert code_of("create", "ann") == "user_exists"
    assert code_of("create", "b o b") == "bad_user_name"
    assert code_of("create", "bob", "--role", "king") == "bad_role"
    assert listed()["ann"]["has_password"] is False
    assert "invited" in run("list").stdout

    async def choose(token: str) -> None:
        async with runtime() as running:
            await running.gate.logins.use_link(token, "", PASSWORD, address="", client="")

    asyncio.run(choose(token))
    assert code_of("disable", "ann") == "last_admin"
    assert code_of("role", "ann", "viewer") == "last_admin"
    run("create", "bob")
    assert run("role", "bob", "operator").stdout == "bob is operator now.\n"
    reset = run("link", "bob", "--url", "https://agents.example/")
    assert reset.stdout.startswith("https://agents.example/admin/login#token=")
    assert run("disable", "bob").exit_code == 0
    assert code_of("link", "bob") == "user_disabled"
    with pytest.raises(RejoinderError) as caught:
        asyncio.run(choose(reset.stdout.strip().partition("#token=")[2]))
    assert caught.value.code == "bad_link"
    assert run("enable", "bob").exit_code == 0
    assert (listed()["bob"]["role"], listed()["bob"]["disabled_at"]) == ("operator", None)
    assert code_of("link", "nobody") == "unknown_user"
    assert code_of("link") == "user_exists", "the first account is there"

    async def audited() -> list[str]:
        async with runtime() as running:
            return [row.action for row in await running.audit.rows(actor="cli")]

    assert asyncio.run(audited())[::-1][:3] == ["user.create", "user.create", "user.change"]


def test_a_link_for_the_first_account_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REJOINDER_HOST", "0.0.0.0")
    assert code_of("link") == "server_open"
    made = run("create", "ann", "--role", "admin")
    assert made.exit_code == 0
    assert "0.0.0.0" not in made.stdout, "an address to listen on is none to go to"


def said_by(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    async def main() -> None:
        async with runtime(**changes) as running:
            await running.gate.prepare()
            agent = await running.catalog.get()
            serve._announce(running.settings, agent, running.gate.dev_key_works, 8080, 1.0)
            await serve._tell_of_accounts(running, 8080)

    capsys.readouterr()
    asyncio.run(main())
    return capsys.readouterr().err


def test_a_server_says_how_the_first_person_gets_in(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_by(capsys)
    assert "  talk    http://127.0.0.1:8080/talk" in said
    assert "  panel   http://127.0.0.1:8080/admin\n" in said
    assert "http://127.0.0.1:8080/admin/login#token=" in said
    assert "good once, for 10 minutes" in said
    first = said.partition("#token=")[2].split()[0]

    async def come(token: str) -> str:
        async with runtime() as running:
            logins = running.gate.logins
            try:
                await logins.use_link(token, "ann", PASSWORD, address="", client="", first=running.gate.loopback)
            except RejoinderError as error:
                return error.code
            return "ok"

    second = said_by(capsys).partition("#token=")[2].split()[0]
    assert asyncio.run(come(first)) == "bad_link", "each start makes another"
    assert asyncio.run(come(second)) == "ok"
    assert "#token=" not in said_by(capsys), "somebody can log in"
    assert "#token=" not in said_by(capsys, mode="none")


def test_beyond_this_machine_the_panel_stays_shut(capsys: pytest.CaptureFixture[str]) -> None:
    async def with_key() -> None:
        async with runtime() as running:
            await running.gate.keys.create("ops", ["admin"])

    with pytest.raises(RejoinderError) as caught:
        said_by(capsys, host="0.0.0.0")
    assert caught.value.code == "server_open"
    asyncio.run(with_key())
    said = said_by(capsys, host="0.0.0.0")
    assert "#token=" not in said
    assert "rejoinder users create NAME --role admin" in said


def test_an_invited_admin_is_enough_to_listen_to_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    run("create", "ann", "--role", "admin")
    assert "users create" not in said_by(capsys, host="0.0.0.0")
