"""`rejoinder users`: make, list, change and disable the accounts in the database; print links that are good once."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rejoinder.errors import ConfigError

if TYPE_CHECKING:
    from rejoinder.settings import Settings
    from rejoinder.store.audit import Audit
    from rejoinder.store.users import UserRecord, Users

T = TypeVar("T")
_BY = "cli"
"""Who made or changed it, for the audit log."""
_url = click.option("--url", help="The server's address for browsers.  [default: that of the settings]")


@click.group("users")
def command() -> None:
    """Make, list, change and disable accounts of people. A running server knows of it within seconds."""


@command.command()
@click.argument("name")
@click.option("--role", default="viewer", show_default=True, help="viewer, analyst, operator, developer or admin.")
@_url
def create(name: str, role: str, url: str | None) -> None:
    """Make an account called NAME and print a link, good once, by which its owner chooses a password."""
    from rejoinder.logins import LINK_S
    from rejoinder.store.users import checked_role

    wanted = checked_role(role)

    async def work(users: Users, audit: Audit) -> tuple[UserRecord, str, int]:
        user = await users.create(name, wanted, by=_BY)
        audit.add(_BY, _BY, "user.create", user.id, name=user.name, role=user.role)
        return user, *await users.link(user.id, by=_BY, ttl_s=LINK_S)

    settings = _settings()
    user, token, expires_at = _with_users(settings, work, make=True)
    click.echo(f"{user.id}: {user.name} ({user.role}). The link is good once, until {_day(expires_at)}:", err=True)
    click.echo(_link(settings, url, token))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_users(as_json: bool) -> None:
    """List all accounts."""
    import msgspec

    records = _with_users(_settings(), lambda users, audit: users.all())
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(records), indent=2))
        return
    if not records:
        click.echo("There are no accounts yet: rejoinder users create NAME --role admin", err=True)
    for record in records:
        click.echo(f"{record.id}  {record.name}  {record.role}  {_state(record)}")


@command.command()
@click.argument("name", required=False)
@_url
def link(name: str | None, url: str | None) -> None:
    """Print a link, good once, by which NAME chooses a new password; without NAME it makes the first account."""
    from rejoinder.auth import LOOPBACK
    from rejoinder.logins import FIRST_LINK_S, LINK_S

    settings = _settings()

    async def work(users: Users, audit: Audit) -> tuple[str, int]:
        if name is not None:
            user = await _find(users, name)
            if user.disabled_at is not None:
                raise ConfigError(
                    f"{user.name!r} is disabled.", code="user_disabled", fix=f"rejoinder users enable {user.name}"
                )
            audit.add(_BY, _BY, "user.link", user.id, name=user.name)
            return await users.link(user.id, by=_BY, ttl_s=LINK_S)
        if await users.any():
            raise ConfigError("There are accounts already.", code="user_exists", fix="rejoinder users link NAME")
        if settings.host not in LOOPBACK:
            raise ConfigError(
                "Where a network reaches the server, the first account is made here.",
                code="server_open",
                fix="rejoinder users create NAME --role admin",
            )
        return await users.link(None, by=_BY, ttl_s=FIRST_LINK_S)

    token, expires_at = _with_users(settings, work, make=name is None)
    click.echo(f"The link is good once, until {_day(expires_at)}:", err=True)
    click.echo(_link(settings, url, token))


@command.command()
@click.argument("name")
@click.argument("role")
def role(name: str, role: str) -> None:
    """Give NAME another ROLE."""
    from rejoinder.store.users import checked_role

    user = _changed(name, role=checked_role(role))
    click.echo(f"{user.name} is {user.role} now.")


@command.command()
@click.argument("name")
def disable(name: str) -> None:
    """Disable NAME and end all logins of that account."""
    click.echo(f"{_changed(name, disabled=True).name} is disabled.")


@command.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let NAME log in again."""
    click.echo(f"{_changed(name, disabled=False).name} may log in again.")


def _changed(name: str, **change: Any) -> UserRecord:
    async def work(users: Users, audit: Audit) -> UserRecord:
        found = await _find(users, name)
        changed = await users.change(found.id, **change)
        audit.add(_BY, _BY, "user.change", found.id, name=found.name, **change)
        return changed or found

    return _with_users(_settings(), work)


async def _find(users: Users, name: str) -> UserRecord:
    found = await users.find(name)
    if found is None:
        raise ConfigError(f"There is no account {name!r}.", code="unknown_user", fix="rejoinder users list")
    return found[0]


def _with_users(settings: Settings, work: Callable[[Users, Audit], Awaitable[T]], *, make: bool = False) -> T:
    """What `work` returns, with the accounts of the database in the settings (`make`: which may be a new one)."""
    from rejoinder.commands.database import open_database
    from rejoinder.store.audit import Audit
    from rejoinder.store.users import Users

    async def run() -> T:
        async with open_database(settings, make=make) as store:
            return await work(Users(store), Audit(store))

    return asyncio.run(run())


def _settings() -> Settings:
    from rejoinder.settings import load_settings

    return load_settings()


def _link(settings: Settings, url: str | None, token: str) -> str:
    # An address to listen on is none to go to.
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::", "") else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"{(url or f'http://{host}:{settings.port}').rstrip('/')}/admin/login#token={token}"


def _state(record: UserRecord) -> str:
    if record.disabled_at is not None:
        return f"disabled {_day(record.disabled_at)}"
    if record.last_login_at is not None:
        return f"last login {_day(record.last_login_at)}"
    return "never logged in" if record.has_password else "invited"


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
