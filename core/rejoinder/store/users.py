"""Accounts in SQL: people with a role and a password, their logins, and the links that are good once."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import Select, delete, func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from rejoinder.errors import ConfigError, SessionError
from rejoinder.ids import new_id
from rejoinder.store import tables
from rejoinder.store.keys import hash_of
from rejoinder.store.statements import Write
from rejoinder.store.store import Store

AccountRole = Literal["viewer", "analyst", "operator", "developer", "admin"]
ROLES: tuple[AccountRole, ...] = get_args(AccountRole)
IDLE_MS = 12 * 3_600_000
"""A login that nobody uses for so long is over."""
_LOGIN_MS = 7 * 86_400_000
"""A login is over after this, however much it is used."""
_MOST_LOGINS = 50
"""Of one account; the oldest one ends when there are more."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
_users, _logins, _links = tables.users.c, tables.logins.c, tables.login_links.c
_USERS = select(*(column for column in _users if column.name != "password"), _users.password.is_not(None))
_LOGINS = select(tables.logins, _users.name, _users.role).join(tables.users, _logins.user_id == _users.id)


class UserRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An account, without its password; times are Unix ms. Who has no password yet was sent a link."""

    id: str
    name: str
    role: AccountRole
    created_at: int
    created_by: str
    disabled_at: int | None
    last_login_at: int | None
    has_password: bool


class LoginRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is logged in; `hash` is of the token in the cookie. Times are Unix ms."""

    hash: str
    user_id: str
    csrf: str
    created_at: int
    seen_at: int
    expires_at: int
    proved_at: int
    address: str
    client: str
    name: str
    role: AccountRole

    def good_at(self, now_ms: int) -> bool:
        """Whether it stands for its user at that time."""
        return self.expires_at > now_ms and self.seen_at + IDLE_MS > now_ms


class LinkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A link that is good once; whoever uses one without `user_id` makes the first account."""

    hash: str
    user_id: str | None
    created_at: int
    created_by: str
    expires_at: int
    used_at: int | None


class Users:
    """The accounts in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- accounts

    async def create(self, name: str, role: AccountRole, *, by: str) -> UserRecord:
        """A new account, which has no password yet.

        Raises:
            ConfigError: it cannot be called so (`bad_user_name`).
            SessionError: another one is called so (`user_exists`).
        """
        async with self._transaction() as connection:
            return await self._insert(connection, checked_name(name), role, by, None)

    async def all(self) -> list[UserRecord]:
        """All accounts, by name."""
        return [_user(row) for row in await self._rows(_USERS.order_by(_users.name))]

    async def get(self, user_id: str) -> UserRecord | None:
        """The account with that id."""
        rows = await self._rows(_USERS.where(_users.id == user_id))
        return _user(rows[0]) if rows else None

    async def find(self, name: str) -> tuple[UserRecord, str | None] | None:
        """The account called `name`, and the hash of its password."""
        rows = await self._rows(_USERS.add_columns(_users.password).where(_users.name == name.strip().lower()))
        return (_user(rows[0][:-1]), rows[0][-1]) if rows else None

    async def password(self, user_id: str) -> str | None:
        """The hash of the password of the account with that id."""
        rows = await self._rows(select(_users.password).where(_users.id == user_id))
        return rows[0][0] if rows else None

    async def any(self) -> bool:
        """Whether there is an account at all."""
        return bool(await self._rows(select(_users.id).limit(1)))

    async def any_admin(self) -> bool:
        """Whether there is an admin, even one who has not chosen a password yet."""
        query = select(_users.id).where(_users.role == "admin", _users.disabled_at.is_(None)).limit(1)
        return bool(await self._rows(query))

    async def change(
        self, user_id: str, *, role: AccountRole | None = None, disabled: bool | None = None
    ) -> UserRecord | None:
        """Change the account with that id (None leaves things); who is disabled is logged in nowhere. None: no such.

        Raises:
            SessionError: then nobody could log in as an admin any more (`last_admin`).
        """
        async with self._transaction() as connection:
            record = await self._locked(connection, user_id)
            if record is None:
                return None
            if disabled or (role is not None and role != "admin"):
                await self._check_last(connection, record)
            values: dict[str, Any] = {} if role is None else {"role": role}
            if disabled is not None and disabled != (record.disabled_at is not None):
                values["disabled_at"] = self._store.clock.wall_ms() if disabled else None
            if values:
                await connection.execute(update(tables.users).where(_users.id == user_id).values(values))
            if disabled is not None:
                # Also when it is enabled again: what was begun in between must not come to life.
                await self._end_all(connection, user_id)
            row = (await connection.execute(_USERS.where(_users.id == user_id))).one()
        return _user(row)

    async def delete(self, user_id: str) -> UserRecord | None:
        """Remove the account with that id, and return what it was.

        Raises:
            SessionError: then nobody could log in as an admin any more (`last_admin`).
        """
        async with self._transaction() as connection:
            record = await self._locked(connection, user_id)
            if record is None:
                return None
            await self._check_last(connection, record)
            await self._end_all(connection, user_id)
            await connection.execute(delete(tables.users).where(_users.id == user_id))
        return record

    async def set_password(self, user_id: str, password: str, *, keep: str = "") -> None:
        """Give the account another password (its hash); all logins but that with the hash `keep` end."""
        async with self._transaction() as connection:
            await connection.execute(update(tables.users).where(_users.id == user_id).values(password=password))
            await self._end_all(connection, user_id, keep)

    # -- links

    async def link(self, user_id: str | None, *, by: str, ttl_s: float) -> tuple[str, int]:
        """A token that is good once, for a password of that account (None: for the first account); its end (Unix ms).

        Older ones for the same are no good any more.
        """
        token, now = secrets.token_urlsafe(32), self._store.clock.wall_ms()
        record = LinkRecord(
            hash=hash_of(token),
            user_id=user_id,
            created_at=now,
            created_by=by,
            expires_at=now + round(ttl_s * 1000),
            used_at=None,
        )
        async with self._transaction() as connection:
            await connection.execute(delete(tables.login_links).where(_same(user_id)))
            await connection.execute(insert(tables.login_links).values(msgspec.structs.asdict(record)))
        return token, record.expires_at

    async def linked(self, token: str) -> LinkRecord | None:
        """The link with that token, if it is still good."""
        query = select(tables.login_links).where(*self._good_link(token))
        async with self._store.reading(flush=False) as connection:
            row = (await connection.execute(query)).mappings().first()
        return msgspec.convert(row, LinkRecord) if row else None

    async def use_link(self, token: str, name: str, password: str) -> UserRecord | None:
        """Use a link up: its account gets the password (a hash), or the first account is made, an admin's.

        None if it is no good any more: used, expired, its account disabled, or no longer the first one.
        """
        async with self._transaction() as connection:
            now = self._store.clock.wall_ms()
            change = update(tables.login_links).where(*self._good_link(token)).values(used_at=now)
            found = (await connection.execute(change.returning(_links.user_id))).first()
            if found is None:
                return None
            if found.user_id is None:
                if await connection.scalar(select(func.count()).select_from(tables.users)):
                    return None
                return await self._insert(connection, checked_name(name), "admin", "link", password)
            change = update(tables.users).where(_users.id == found.user_id, _users.disabled_at.is_(None))
            if not (await connection.execute(change.values(password=password))).rowcount:
                return None
            await self._end_all(connection, found.user_id)
            row = (await connection.execute(_USERS.where(_users.id == found.user_id))).one()
        return _user(row)

    def _good_link(self, token: str) -> tuple[Any, ...]:
        now = self._store.clock.wall_ms()
        return _links.hash == hash_of(token), _links.used_at.is_(None), _links.expires_at > now

    # -- logins

    async def begin(
        self, user: UserRecord, password: str, *, address: str, client: str, ending: str = ""
    ) -> tuple[str, LoginRecord] | None:
        """Log somebody in whose password was right; returns the token for the cookie. `ending`: a login that ends.

        None if the password (its hash) is another one by now, or the account was disabled.
        """
        token, now = secrets.token_urlsafe(32), self._store.clock.wall_ms()
        row: dict[str, Any] = {
            "hash": hash_of(token),
            "user_id": user.id,
            "csrf": secrets.token_urlsafe(24),
            "created_at": now,
            "seen_at": now,
            "expires_at": now + _LOGIN_MS,
            "proved_at": now,
            "address": address,
            "client": client,
        }
        over = or_(_logins.hash == ending, _logins.expires_at <= now, _logins.seen_at <= now - IDLE_MS)
        older = select(_logins.hash).where(_logins.user_id == user.id).order_by(_logins.created_at.desc())
        current = select(_users.password).where(_users.id == user.id, _users.disabled_at.is_(None)).with_for_update()
        async with self._transaction() as connection:
            if await connection.scalar(current) != password:
                return None
            await connection.execute(delete(tables.logins).where(over))
            await connection.execute(
                delete(tables.logins).where(_logins.hash.in_(older.offset(_MOST_LOGINS - 1).limit(_MOST_LOGINS)))
            )
            await connection.execute(insert(tables.logins).values(row))
            await connection.execute(update(tables.users).where(_users.id == user.id).values(last_login_at=now))
            await connection.execute(delete(tables.login_links).where(_links.expires_at <= now - 86_400_000))
        return token, LoginRecord(**row, name=user.name, role=user.role)

    async def login(self, hashed: str) -> LoginRecord | None:
        """The login whose token has that hash, good or not, with what its user is now; none of who is disabled."""
        query = _LOGINS.where(_logins.hash == hashed, _users.disabled_at.is_(None))
        async with self._store.reading(flush=False) as connection:
            row = (await connection.execute(query)).mappings().first()
        return msgspec.convert(row, LoginRecord) if row else None

    async def logins(self, user_id: str) -> list[LoginRecord]:
        """All logins of an account, newest first."""
        query = _LOGINS.where(_logins.user_id == user_id).order_by(_logins.created_at.desc())
        async with self._store.reading(flush=False) as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [msgspec.convert(row, LoginRecord) for row in rows]

    def seen(self, hashed: str) -> None:
        """Note that a login was used now; written with the next batch."""
        self._store.writer.put(Write.LOGIN_SEEN, (self._store.clock.wall_ms(), hashed))

    async def proved(self, hashed: str) -> None:
        """Note that the password was typed again now."""
        now = self._store.clock.wall_ms()
        async with self._transaction() as connection:
            await connection.execute(
                update(tables.logins).where(_logins.hash == hashed).values(proved_at=now, seen_at=now)
            )

    async def end(self, hashed: str) -> None:
        """End a login. Idempotent."""
        async with self._transaction() as connection:
            await connection.execute(delete(tables.logins).where(_logins.hash == hashed))

    # -- parts of them

    def _transaction(self) -> Any:
        return self._store.transaction()

    async def _rows(self, query: Select[Any]) -> list[Any]:
        async with self._store.reading(flush=False) as connection:
            return list((await connection.execute(query)).all())

    async def _insert(
        self, connection: AsyncConnection, name: str, role: AccountRole, by: str, password: str | None
    ) -> UserRecord:
        await _one_at_a_time(connection)
        if await connection.scalar(select(_users.id).where(_users.name == name)):
            raise SessionError(
                f"There is an account {name!r} already.", code="user_exists", fix="Choose another name, or change it."
            )
        row = {
            "id": new_id("user"),
            "name": name,
            "role": role,
            "password": password,
            "created_at": self._store.clock.wall_ms(),
            "created_by": by,
        }
        await connection.execute(insert(tables.users).values(row))
        return _user((await connection.execute(_USERS.where(_users.id == row["id"]))).one())

    async def _locked(self, connection: AsyncConnection, user_id: str) -> UserRecord | None:
        await _one_at_a_time(connection)
        row = (await connection.execute(_USERS.where(_users.id == user_id))).first()
        return _user(row) if row else None

    async def _check_last(self, connection: AsyncConnection, record: UserRecord) -> None:
        """Raise if `record` is the only one who can log in as an admin."""
        if record.role != "admin" or record.disabled_at is not None or not record.has_password:
            return
        others = select(func.count()).where(
            _users.role == "admin", _users.id != record.id, _users.disabled_at.is_(None), _users.password.is_not(None)
        )
        if not await connection.scalar(others):
            raise SessionError(
                f"{record.name!r} is the last admin: then nobody could manage accounts any more.",
                code="last_admin",
                fix="Make somebody else an admin first, and have them log in.",
            )

    async def _end_all(self, connection: AsyncConnection, user_id: str, keep: str = "") -> None:
        await connection.execute(delete(tables.logins).where(_logins.user_id == user_id, _logins.hash != keep))
        await connection.execute(delete(tables.login_links).where(_links.user_id == user_id, _links.used_at.is_(None)))


async def _one_at_a_time(connection: AsyncConnection) -> None:
    """Changes of accounts wait for one another, so that two admins cannot remove each other at once."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"))


def _same(user_id: str | None) -> Any:
    return _links.user_id.is_(None) if user_id is None else _links.user_id == user_id


def _user(row: Iterable[Any]) -> UserRecord:
    values = dict(zip(UserRecord.__struct_fields__, row, strict=True))
    # SQLite says 0 or 1.
    return UserRecord(**{**values, "has_password": bool(values["has_password"])})


def checked_name(name: str) -> str:
    """`name` as it is stored.

    Raises:
        ConfigError: it cannot be a name (`bad_user_name`).
    """
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"An account cannot be called {name[:80]!r}.",
            code="bad_user_name",
            fix="Use 1 to 64 letters (a-z), digits and . _ @ + -; an e-mail address will do.",
        )
    return name


def checked_role(role: str) -> AccountRole:
    """The role called so.

    Raises:
        ConfigError: there is none (`bad_role`).
    """
    for known in ROLES:
        if known == role:
            return known
    raise ConfigError(f"There is no role {role!r}.", code="bad_role", fix=f"There are: {', '.join(ROLES)}.")
