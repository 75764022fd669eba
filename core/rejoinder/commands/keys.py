"""`rejoinder keys`: make, list, rotate and revoke the API keys in the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from rejoinder.errors import ConfigError

if TYPE_CHECKING:
    from rejoinder.store.audit import Audit
    from rejoinder.store.keys import KeyRecord, Keys

T = TypeVar("T")
_BY = "cli"
"""Who it was, for the audit log."""
_HOUR_S, _DAY_S = 3600.0, 86_400.0


@click.group("keys")
def command() -> None:
    """Make, list, rotate and revoke API keys. A running server knows of it within seconds."""


@command.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="What it may do: read, listen, talk, control, agents, admin; repeat for more.  [default: read, talk]",
)
@click.option("--days", type=click.FloatRange(min=0.001), help="Good for so many days (default: until it is revoked).")
def create(name: str, scopes: tuple[str, ...], days: float | None) -> None:
    """Make a key called NAME and print it: it is shown this once."""
    from rejoinder.auth import scopes_of

    wanted = scopes_of(scopes or ("read", "talk"))
    ttl_s = None if days is None else days * _DAY_S

    async def work(keys: Keys, audit: Audit) -> tuple[KeyRecord, str]:
        record, key = await keys.create(name, wanted, ttl_s=ttl_s)
        audit.add(_BY, _BY, "key.create", record.id, name=record.name, scopes=record.scopes)
        return record, key

    record, key = _with_keys(work, make=True)
    click.echo(f"{record.id}: {record.name} ({', '.join(record.scopes)}). This is the only time it is shown:", err=True)
    click.echo(key)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_keys(as_json: bool) -> None:
    """List all keys, newest first."""
    import msgspec

    records = _with_keys(lambda keys, audit: keys.all())
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(records), indent=2))
        return
    if not records:
        click.echo("There are no keys yet: rejoinder keys create NAME", err=True)
    for record in records:
        click.echo(f"{record.id}  {record.prefix}…  {record.name}  [{', '.join(record.scopes)}]  {_state(record)}")


@command.command()
@click.argument("key_id")
@click.option(
    "--overlap", type=click.FloatRange(min=0), default=24.0, show_default=True, help="Hours the old one stays good."
)
def rotate(key_id: str, overlap: float) -> None:
    """Make a key like KEY_ID and print it; the old one stays good for the overlap."""

    async def work(keys: Keys, audit: Audit) -> tuple[KeyRecord, str] | None:
        made = await keys.rotate(key_id, overlap_s=overlap * _HOUR_S)
        if made is not None:
            audit.add(_BY, _BY, "key.rotate", key_id, name=made[0].name, new=made[0].id)
        return made

    made = _with_keys(work)
    if made is None:
        raise _unknown(key_id)
    click.echo(f"{made[0].id} takes the place of {key_id}. This is the only time it is shown:", err=True)
    click.echo(made[1])


@command.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """End KEY_ID, now."""

    async def work(keys: Keys, audit: Audit) -> bool:
        found = await keys.revoke(key_id)
        if found:
            audit.add(_BY, _BY, "key.revoke", key_id)
        return found

    if not _with_keys(work):
        raise _unknown(key_id)
    click.echo(f"{key_id} is revoked.")


@command.command()
def dev() -> None:
    """Print the developer's key, which a server on this machine made at its first start."""
    from rejoinder.settings import load_settings

    path = load_settings().auth.dev_key_file
    try:
        click.echo(path.read_text().strip())
    except OSError as error:
        raise ConfigError(
            f"There is no developer's key in {str(path)!r} ({error.strerror}).",
            code="unknown_key",
            fix="rejoinder serve makes it, when it listens on 127.0.0.1.",
        ) from None


def _with_keys(work: Callable[[Keys, Audit], Awaitable[T]], *, make: bool = False) -> T:
    """What `work` returns, with the keys of the database in the settings (`make`: which may be a new one)."""
    from rejoinder.commands.database import open_database
    from rejoinder.settings import load_settings
    from rejoinder.store.audit import Audit
    from rejoinder.store.keys import Keys

    async def run() -> T:
        async with open_database(load_settings(), make=make) as store:
            return await work(Keys(store), Audit(store))

    return asyncio.run(run())


def _state(record: KeyRecord) -> str:
    def day(ms: int) -> str:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")

    now = datetime.now(UTC).timestamp() * 1000
    if record.revoked_at is not None:
        return f"revoked {day(record.revoked_at)}"
    if record.expires_at is not None:
        return f"{'expired' if record.expires_at <= now else 'good until'} {day(record.expires_at)}"
    return f"last used {day(record.last_used_at)}" if record.last_used_at is not None else "never used"


def _unknown(key_id: str) -> ConfigError:
    return ConfigError(f"There is no key {key_id!r} that is still good.", code="unknown_key", fix="rejoinder keys list")
