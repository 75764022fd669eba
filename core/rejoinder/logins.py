"""People log in: passwords checked in a thread and not too often, logins believed for seconds, links used once."""

from __future__ import annotations

import asyncio
import math
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from rejoinder.clock import Clock
from rejoinder.errors import AuthError, ConfigError
from rejoinder.store.keys import hash_of
from rejoinder.store.store import Store
from rejoinder.store.users import LoginRecord, UserRecord, Users, checked_name

T = TypeVar("T")
SHORTEST, LONGEST = 10, 256
"""Characters of a password."""
FIRST_LINK_S, LINK_S = 600.0, 86_400.0
"""How long a link for the first account is good, and one of an invitation or a reset."""
PROOF_MS = 10 * 60_000
"""What is dangerous needs the password typed within this time."""
_TRUSTED_S = 3.0
"""A login that was good is believed for so long; what another process changes takes effect by then."""
_SEEN_MS = 60_000
_MOST_KNOWN = 1_000
_FREE, _FREE_ADDRESS, _SLOWEST_S, _FORGOTTEN_S = 3, 10, 60.0, 3600.0
"""Wrong passwords that cost nothing (many people may come from one address), the longest delay after more of them, and
when they are forgotten."""
_ADDRESS = "address "
_MOST_GUESSED = 10_000
_MOST_WAITING = 32
_CLIENT_CHARS = 200
# OWASP's second choice of parameters: enough against guessing, and 30 ms of one core here.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$cmVqb2luZGVyLW5vYm9keQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"""Nobody's password: to check one against it takes as long as against somebody's."""


class Delayed(AuthError):
    """Too many wrong passwords: nothing is checked before `retry_after_s`."""

    code = "login_delayed"
    retryable = True

    def __init__(self, seconds: float) -> None:
        self.retry_after_s = max(1, math.ceil(seconds))
        super().__init__(
            "Too many wrong passwords.", fix=f"Try again in {self.retry_after_s} s, or ask an admin for a new link."
        )


@dataclass(slots=True)
class _Guessed:
    free: int
    count: int
    at: float

    @property
    def delay_s(self) -> float:
        return 0.0 if self.count < self.free else min(2.0 ** min(self.count - self.free, 10), _SLOWEST_S)


class Guesses:
    """Counts wrong passwords by account and by address; each one more makes the next wait longer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guessed: dict[str, _Guessed] = {}

    def take(self, *whom: str) -> None:
        """Count an attempt before it is made, so that many at once are no more than many in a row.

        Raises:
            Delayed: it comes too early.
        """
        now = self._clock.monotonic()
        waiting = [known.at + known.delay_s - now for one in whom if (known := self._known(one, now)) is not None]
        if waiting and max(waiting) > 0:
            raise Delayed(max(waiting))
        for one in whom:
            free = _FREE_ADDRESS if one.startswith(_ADDRESS) else _FREE
            known = self._guessed.pop(one, None) or _Guessed(free, 0, now)
            while len(self._guessed) >= _MOST_GUESSED:
                del self._guessed[next(iter(self._guessed))]
            self._guessed[one] = _Guessed(free, known.count + 1, now)

    def right(self, account: str, *others: str) -> None:
        """An attempt was right: the account begins anew; of the others it is only not counted."""
        self._guessed.pop(account, None)
        for one in others:
            if (known := self._guessed.get(one)) is not None:
                known.count -= 1

    def _known(self, one: str, now: float) -> _Guessed | None:
        known = self._guessed.get(one)
        if known is not None and now - known.at > _FORGOTTEN_S:
            del self._guessed[one]
            return None
        return known


class Logins:
    """Logs people in and out, and knows who is."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.users = Users(store)
        self._clock = clock
        self._guesses = Guesses(clock)
        self._known: dict[str, tuple[float, LoginRecord]] = {}
        # One thread: each password takes 19 MiB and a core, and must not take them from calls more than once.
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._waiting = 0

    def close(self) -> None:
        """Check no more passwords."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- who is logged in

    async def find(self, token: str, *, fresh: bool = False) -> LoginRecord | None:
        """The login with that token in its cookie, if it is good. `fresh`: what is known is not believed."""
        return await self.of_hash(hash_of(token), fresh=fresh)

    async def of_hash(self, hashed: str, *, fresh: bool = False) -> LoginRecord | None:
        """The login whose token has that hash, if it is good."""
        until, record = self._known.get(hashed, (0.0, None))
        if record is None or fresh or until <= self._clock.monotonic():
            record = await self.users.login(hashed)
            self._known.pop(hashed, None)
        now = self._clock.wall_ms()
        if record is None or not record.good_at(now):
            self._known.pop(hashed, None)
            return None
        if now - record.seen_at > _SEEN_MS:
            self.users.seen(hashed)
            record = msgspec.structs.replace(record, seen_at=now)
        if hashed not in self._known:
            while len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            until = self._clock.monotonic() + _TRUSTED_S
        self._known[hashed] = (until, record)
        return record

    def knows(self, token: str) -> bool:
        """Whether it can tell who that is without asking the database."""
        return hash_of(token) in self._known

    def forget(self) -> None:
        """Accounts or logins have changed: believe none without asking."""
        self._known.clear()

    # -- in and out

    async def login(
        self, name: str, password: str, *, address: str, client: str, ending: str | None = None
    ) -> tuple[str, LoginRecord]:
        """Log in: the token for the cookie (a new one each time) and the login. `ending`: the token it replaces.

        Raises:
            AuthError: name or password is wrong, or the account disabled: it does not say which (`bad_login`).
            Delayed: too many were wrong before.
        """
        whom = (f"name {name.strip().lower()[:100]}", _ADDRESS + address)
        self._guesses.take(*whom)
        found = await self.users.find(name[:100])
        user, hashed = found if found is not None else (None, None)
        good = await self._verify(hashed, password)
        if user is None or hashed is None or not good or user.disabled_at is not None:
            raise _bad_login()
        self._guesses.right(*whom)
        return await self._begin(user, hashed, address, client, ending)

    async def logout(self, login: LoginRecord) -> None:
        """End a login."""
        await self.users.end(login.hash)
        self.forget()

    async def prove(self, login: LoginRecord, password: str, *, address: str) -> None:
        """Type the password again, before what is dangerous.

        Raises:
            AuthError: it is wrong (`bad_login`).
            Delayed: too many were wrong before.
        """
        await self._check(login, password, address)
        await self.users.proved(login.hash)
        self.forget()

    async def change_password(self, login: LoginRecord, old: str, new: str, *, address: str) -> None:
        """Choose another password; all other logins of the account end.

        Raises:
            AuthError: the old one is wrong (`bad_login`).
            ConfigError: the new one is not good enough (`weak_password`).
            Delayed: too many were wrong before.
        """
        check_password(new, login.name)
        await self._check(login, old, address)
        await self.users.set_password(login.user_id, await self._hash(new), keep=login.hash)
        self.forget()

    async def use_link(
        self,
        token: str,
        name: str,
        password: str,
        *,
        address: str,
        client: str,
        ending: str | None = None,
        first: bool = True,
    ) -> tuple[str, LoginRecord, bool]:
        """Use a link up: choose the password (and, for the first account, the `name`) and log in.

        As `login`, with whether an account was made; `first`: links for the first account are good here.

        Raises:
            AuthError: the link was used before, has expired or never was (`bad_link`).
            ConfigError: the name or the password cannot be taken (`bad_user_name`, `weak_password`).
            Delayed: too many were wrong before.
        """
        whom = _ADDRESS + address
        self._guesses.take(whom)
        link = await self.users.linked(token)
        if link is None or (link.user_id is None and not first):
            raise _bad_link()
        self._guesses.right("", whom)
        owner = await self.users.get(link.user_id) if link.user_id is not None else None
        check_password(password, owner.name if owner is not None else checked_name(name))
        hashed = await self._hash(password)
        user = await self.users.use_link(token, name, hashed)
        self.forget()
        if user is None:
            raise _bad_link()
        return *await self._begin(user, hashed, address, client, ending), link.user_id is None

    async def _begin(
        self, user: UserRecord, hashed: str, address: str, client: str, ending: str | None
    ) -> tuple[str, LoginRecord]:
        over = hash_of(ending) if ending else ""
        begun = await self.users.begin(
            user, hashed, address=address, client=client[:_CLIENT_CHARS].replace("\0", ""), ending=over
        )
        self.forget()
        if begun is None:
            raise _bad_login()
        return begun

    async def _check(self, login: LoginRecord, password: str, address: str) -> None:
        whom = (f"name {login.name}", _ADDRESS + address)
        self._guesses.take(*whom)
        if not await self._verify(await self.users.password(login.user_id), password):
            raise _bad_login()
        self._guesses.right(*whom)

    async def _verify(self, hashed: str | None, password: str) -> bool:
        if self._waiting >= _MOST_WAITING:
            raise Delayed(1)
        return await self._in_thread(lambda: _is_right(hashed or _NOBODY, password)) and hashed is not None

    async def _hash(self, password: str) -> str:
        return await self._in_thread(lambda: _hasher.hash(_normal(password)))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1


def check_password(password: str, name: str) -> None:
    """Whether somebody called `name` may choose that password.

    Raises:
        ConfigError: it is too short or too long, or it is the name (`weak_password`).
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise ConfigError(
            f"The password has {len(password)} characters; it needs {SHORTEST} to {LONGEST}.",
            code="weak_password",
            fix="Take several words, or let a password manager make one.",
        )
    if password.strip().lower() == name.strip().lower():
        raise ConfigError("The password is the account's name.", code="weak_password", fix="Choose another one.")


def _is_right(hashed: str, password: str) -> bool:
    try:
        return _hasher.verify(hashed, _normal(password))
    except (Argon2Error, InvalidHashError):
        return False


def _normal(password: str) -> bytes:
    # Keyboards send the same letter in different ways (NIST SP 800-63B, 5.1.1.2).
    return unicodedata.normalize("NFKC", password[:LONGEST]).encode("utf-8", "surrogatepass")


def _bad_login() -> AuthError:
    return AuthError(
        "The name or the password is wrong.", code="bad_login", fix="An admin can send a link for a new password."
    )


def _bad_link() -> AuthError:
    return AuthError(
        "This link was used before, or has expired.",
        code="bad_link",
        fix="Ask an admin for another one; `rejoinder users link` makes it on the server.",
    )
