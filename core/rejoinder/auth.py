"""Who may do what: keys for programs, room tokens and logins for people, tickets for what cannot send headers."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import jwt

from rejoinder.clock import Clock
from rejoinder.errors import AuthError, ConfigError, StoreError
from rejoinder.ids import new_id
from rejoinder.logins import FIRST_LINK_S, PROOF_MS, Logins
from rejoinder.settings import Auth
from rejoinder.store.keys import PREFIX, KeyRecord, Keys, hash_of
from rejoinder.store.records import RoomRecord
from rejoinder.store.store import Store
from rejoinder.store.users import AccountRole, LoginRecord

Scope = Literal["read", "listen", "talk", "control", "agents", "admin"]
"""read: sessions, transcripts, metrics. listen: hear calls, live and recorded. talk: rooms, sessions, the OpenAI
endpoints. control: steer any session. agents: define agents and what they know. admin: keys, webhooks, accounts, and
all the others."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
Role = Literal["speaker", "listener", "operator"]
"""What a room token allows in its room: a listener reads and hears, a speaker also talks, an operator also steers."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_OF_ROLE: dict[Role, frozenset[Scope]] = {
    "listener": frozenset({"read"}),
    "speaker": frozenset({"read", "talk"}),
    "operator": frozenset({"read", "talk", "control"}),
}
OF_ACCOUNT: dict[AccountRole, frozenset[Scope]] = {
    "viewer": frozenset({"read"}),
    "analyst": frozenset({"read", "listen"}),
    "operator": frozenset({"read", "listen", "talk", "control"}),
    "developer": frozenset({"read", "listen", "talk", "agents"}),
    "admin": frozenset(SCOPES),
}
"""What the role of an account allows."""
_ALGORITHM = "HS256"
_AUDIENCE = "rejoinder:room"
_TRUSTED_S = 5.0
"""A key that was good is believed for this long; a revocation in another process takes effect by then."""
_MOST_KEYS, _MOST_TICKETS = 1_000, 100


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: an API key, somebody who is logged in, the bearer of a room token, or (on an open server) anybody.

    `session_id` confines it to that session; `role` is that of a room token.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    session_id: str | None = None
    role: Role | None = None
    expired: bool = False
    """Its room token has run out: all it may do is take up again a connection that was lost."""
    expires_at: int | None = None
    """When its room token runs out, Unix ms."""
    by_ticket: bool = False
    """It came with a ticket, which stands for its maker's credential once and cannot make another."""
    login: str = ""
    """Of somebody who is logged in: the hash of the login's token."""
    account: AccountRole | None = None
    """Of somebody who is logged in: the account's role."""
    proved_at: int = 0
    """Of somebody who is logged in: when the password was typed last, Unix ms."""

    def may(self, scope: Scope, session_id: str | None = None) -> bool:
        """Whether it may do what `scope` covers, in that session or (None) in general."""
        if self.session_id is not None and self.session_id != session_id:
            return False
        return scope in self.scopes or "admin" in self.scopes

    def check(self, scope: Scope, session_id: str | None = None) -> None:
        """As `may`.

        Raises:
            AuthError: it may not (`forbidden`).
        """
        if self.may(scope, session_id):
            return
        if self.session_id is not None and self.session_id != session_id:
            what = f"A room token opens its own session ({self.session_id}) and nothing else."
            fix = "Use an API key, or a token of the other room."
        elif self.role is not None:
            what, fix = f"A {self.role} may not do this (it needs {scope!r}).", "Ask for a token with another role."
        elif self.account is not None:
            what, fix = f"The role {self.account!r} does not cover this (it needs {scope!r}).", "Ask an admin."
        else:
            what = f"The key {self.name!r} may not do this: it lacks the scope {scope!r}."
            fix = f"rejoinder keys create NAME --scope {scope}"
        raise AuthError(what, code="forbidden", fix=fix)


OPEN = Principal("open", "anybody", frozenset(SCOPES))
"""Everybody, where the server asks for no key."""


@dataclass(frozen=True, slots=True)
class RoomToken:
    """A room token, and when it expires (Unix ms)."""

    token: str
    expires_at: int


class Gate:
    """Tells who comes with which key, token, login or ticket. `open()` it first."""

    def __init__(self, store: Store, settings: Auth, clock: Clock, *, loopback: bool = True) -> None:
        self.keys = Keys(store)
        self.logins = Logins(store, clock)
        self._store = store
        self._settings = settings
        self._clock = clock
        self._loopback = loopback
        self._known: dict[str, tuple[float, KeyRecord]] = {}
        self._tickets: dict[str, tuple[float, Principal]] = {}
        self._out: Counter[str] = Counter()
        """Tickets that are out, by who made them."""
        self._signing = ""
        self.dev_key_works = False
        """The developer's key opens this server; known once it is prepared."""
        self.first_link: str | None = None
        """The token of the link that makes the first account, if there is none yet; known once it is prepared."""

    @property
    def closed(self) -> bool:
        """Whether it asks for a key at all."""
        return self._settings.mode != "none"

    async def open(self) -> None:
        """Load what signs room tokens.

        Raises:
            StoreError: the database refused.
        """
        self._signing = await self._store.secret("room_tokens")

    def close(self) -> None:
        """Check no more passwords."""
        self.logins.close()

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return self._loopback

    async def prepare(self) -> str | None:
        """Before the server listens: on loopback, make sure of the developer's key; elsewhere, that it is not open.

        On loopback, where there are no accounts yet, it also makes the link for the first one. Returns the developer's
        key if it is good here.

        Raises:
            ConfigError: the server would be open to a network (`server_open`), or the key's file cannot be used.
        """
        if not self._loopback:
            await self._check_closed()
            return None
        key = await self._dev_key() if self.closed else None
        self.dev_key_works = key is not None
        users = self.logins.users
        if self.closed and not await users.any():
            self.first_link, _ = await users.link(None, by="serve", ttl_s=FIRST_LINK_S)
        return key

    async def principal(self, credential: str | None, *, resuming: bool = False) -> Principal:
        """Who comes with `credential`: an API key or a room token (`resuming`: even one that has expired).

        Raises:
            AuthError: nobody who is known (`unauthorized`).
        """
        if not self.closed:
            if not credential or credential.startswith(PREFIX) or credential.count(".") != 2:
                return OPEN
            # A token confines its bearer here, too.
            return self._bearer(credential, resuming)
        if not credential:
            raise AuthError("This needs an API key or a room token.", fix="Send the header Authorization: Bearer KEY.")
        if credential.startswith(PREFIX):
            return await self._key(credential)
        return self._bearer(credential, resuming)

    async def by_login(self, token: str) -> tuple[Principal, LoginRecord]:
        """Who is logged in with that token in the cookie, and the login.

        Raises:
            AuthError: nobody is (`unauthorized`).
        """
        login = await self.logins.find(token)
        if login is None:
            raise AuthError("The login is over, or the account was disabled.", fix="Log in again.")
        return of_login(login), login

    async def check_proof(self, principal: Principal) -> None:
        """Whether somebody who is logged in has typed the password lately; others need not.

        Raises:
            AuthError: it was too long ago (`prove_password`).
        """
        if not principal.login or self._is_proved(principal.proved_at):
            return
        # It may have been typed a moment ago, in another process.
        login = await self.logins.of_hash(principal.login, fresh=True)
        if principal.by_ticket or login is None or not self._is_proved(login.proved_at):
            raise AuthError(
                "This needs your password once more: it was typed too long ago.",
                code="prove_password",
                fix="POST /admin/api/prove with the password, then send this again.",
            )

    def _is_proved(self, proved_at: int) -> bool:
        return proved_at + PROOF_MS > self._clock.wall_ms()

    async def still(self, principal: Principal) -> Principal | None:
        """Who `principal` is now, if what it came with is still good; for what stays open for long."""
        if principal.id == OPEN.id:
            return principal
        if principal.login:
            login = await self.logins.of_hash(principal.login)
            return replace(of_login(login), by_ticket=principal.by_ticket) if login is not None else None
        if principal.role is not None:
            good = principal.expires_at is not None and principal.expires_at > self._clock.wall_ms()
            return principal if good else None
        record = await self.keys.get(principal.id)
        return principal if record is not None and self._is_good(record) else None

    def token(
        self, room: RoomRecord, role: Role, *, identity: str | None = None, ttl_s: float | None = None
    ) -> RoomToken:
        """A token for `room`: a JWT (RFC 7519) that confines its bearer to the room's session and the `role`."""
        ttl_s = self._settings.token_ttl_s if ttl_s is None else ttl_s
        return self._sign(identity or new_id("user"), room.session_id, role, ttl_s)

    def _sign(self, identity: str, session_id: str, role: Role, ttl_s: float) -> RoomToken:
        now = self._clock.wall_ms() // 1000
        expires = now + round(ttl_s)
        claims = {"aud": _AUDIENCE, "sub": identity, "ses": session_id, "role": role, "iat": now, "exp": expires}
        return RoomToken(jwt.encode(claims, self._signing, _ALGORITHM), expires * 1000)

    def renew(self, principal: Principal) -> RoomToken:
        """A room token like the one that `principal` came with, for another `auth.token_ttl_s`.

        Raises:
            AuthError: it came with something else (`forbidden`).
        """
        if principal.role is None or principal.session_id is None or principal.by_ticket:
            raise AuthError(
                "Only a room token can be renewed.", code="forbidden", fix="POST /v1/rooms/{room_id}/tokens"
            )
        return self._sign(principal.name, principal.session_id, principal.role, self._settings.token_ttl_s)

    def ticket(self, principal: Principal) -> tuple[str, int]:
        """A ticket that stands for `principal` once, and when it expires (Unix ms).

        Raises:
            AuthError: it came with a ticket itself (`forbidden`), or has too many out (`too_many_tickets`).
        """
        if principal.by_ticket:
            raise AuthError("A ticket cannot make another.", code="forbidden", fix="Send the key or the token itself.")
        now = self._clock.monotonic()
        for ticket, (until, owner) in tuple(self._tickets.items()):
            # In the order in which they were made, which is that in which they expire.
            if until > now:
                break
            self._drop(ticket, owner)
        if self._out[principal.id] >= _MOST_TICKETS:
            raise AuthError(
                "Too many of your tickets are out.",
                code="too_many_tickets",
                fix="Use them, or wait until they expire.",
                retryable=True,
            )
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = (now + self._settings.ticket_ttl_s, principal)
        self._out[principal.id] += 1
        return ticket, self._clock.wall_ms() + self._settings.ticket_ttl_s * 1000

    async def redeem(self, ticket: str) -> Principal:
        """Whom `ticket` stands for; it is used up. What its maker came with must still be good.

        Raises:
            AuthError: it was used before, has expired or never was, or its maker's credential has (`unauthorized`).
        """
        until, principal = self._tickets.get(ticket, (0.0, OPEN))
        self._drop(ticket, principal)
        still = await self.still(principal) if until > self._clock.monotonic() else None
        if still is None:
            raise AuthError(
                "The ticket was used before, or has expired.", fix="POST /v1/tickets gives one for each connection."
            )
        return replace(still, by_ticket=True)

    def knows(self, credential: str) -> bool:
        """Whether it can tell who that is without asking the database."""
        return not credential.startswith(PREFIX) or hash_of(credential) in self._known

    def forget(self) -> None:
        """Keys have changed: believe none without asking."""
        self._known.clear()

    def _drop(self, ticket: str, owner: Principal) -> None:
        if self._tickets.pop(ticket, None) is not None:
            self._out[owner.id] -= 1
            self._out += Counter()  # forgets those who have none

    async def _key(self, key: str) -> Principal:
        hashed, now = hash_of(key), self._clock.monotonic()
        until, record = self._known.get(hashed, (0.0, None))
        if record is None or until <= now:
            record = await self.keys.find(key)
            if record is not None and self._is_good(record):
                self.keys.used(record.id)
                while len(self._known) >= _MOST_KEYS:
                    del self._known[next(iter(self._known))]
                self._known[hashed] = (now + _TRUSTED_S, record)
        if record is None or not self._is_good(record):
            self._known.pop(hashed, None)
            if record is not None and record.dev and not self._loopback:
                text = "The developer's key opens nothing on a server that a network can reach."
                raise AuthError(text, fix="rejoinder keys create NAME --scope SCOPE")
            why = "is not known here" if record is None else "was revoked or has expired"
            raise AuthError(f"The API key {why}.", fix="rejoinder keys list shows those of a server's database.")
        return Principal(record.id, record.name, frozenset(s for s in SCOPES if s in record.scopes))

    def _is_good(self, record: KeyRecord) -> bool:
        # The developer's key lies in a file; it opens nothing that a network can reach.
        return record.good_at(self._clock.wall_ms()) and (self._loopback or not record.dev)

    def _bearer(self, token: str, resuming: bool) -> Principal:
        try:
            claims = jwt.decode(
                token,
                self._signing,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["exp", "sub", "ses", "role"], "verify_exp": False, "verify_iat": False},
            )
            role: Role = claims["role"]
            scopes, session_id, identity = _OF_ROLE[role], str(claims["ses"]), str(claims["sub"])
            expires_at = int(claims["exp"]) * 1000
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            text = "This is no API key and no room token of this server."
            raise AuthError(text, fix="Send an API key: `rejoinder keys dev` prints this machine's.") from None
        expired = expires_at <= self._clock.wall_ms()
        if expired and not resuming:
            raise AuthError("The room token has expired.", fix="POST /v1/rooms/{room_id}/tokens gives a new one.")
        # Whoever makes tokens chooses identities: they must not meet those of keys, or of other rooms.
        return Principal(f"{session_id}/{identity}", identity, scopes, session_id, role, expired, expires_at)

    async def _check_closed(self) -> None:
        if not self.closed:
            raise ConfigError(
                "auth.mode is 'none', and the server would be open to everybody who reaches its address.",
                code="server_open",
                fix="Set auth.mode to 'keys', or listen on 127.0.0.1.",
            )
        now = self._clock.wall_ms()
        keys = await self.keys.all()
        if any(k.good_at(now) and not k.dev and "admin" in k.scopes for k in keys):
            return
        if not await self.logins.users.any_admin():
            raise ConfigError(
                "Beyond loopback the server needs an admin, or an API key with the scope 'admin'; there is neither.",
                code="server_open",
                fix="rejoinder users create NAME --role admin, or: rejoinder keys create NAME --scope admin",
            )

    async def _dev_key(self) -> str | None:
        path = self._settings.dev_key_file
        try:
            if path.exists():
                key = path.read_text().strip()
            else:
                key = PREFIX + secrets.token_urlsafe(32)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
                path.write_text(key + "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The developer's key {str(path)!r} cannot be used: {error}.") from None
        if not key.startswith(PREFIX) or len(key) < 32:
            raise ConfigError(
                f"{str(path)!r} holds no API key.", fix="Remove the file: a new key is made at the next start."
            )
        record = await self.keys.find(key)
        if record is None:
            try:
                record, _ = await self.keys.create("dev", SCOPES, dev=True, key=key)
            except StoreError:
                # Another server has started at the same moment.
                if (record := await self.keys.find(key)) is None:
                    raise
        return key if self._is_good(record) else None


def of_login(login: LoginRecord) -> Principal:
    """Whom a login stands for."""
    scopes = OF_ACCOUNT[login.role]
    return Principal(login.user_id, login.name, scopes, login=login.hash, account=login.role, proved_at=login.proved_at)


def scopes_of(names: Iterable[str]) -> list[Scope]:
    """The scopes called so.

    Raises:
        ConfigError: there is no such scope, or none was named (`unknown_scope`).
    """
    wanted = list(names)
    known = [scope for scope in SCOPES if scope in wanted]
    if unknown := sorted(set(wanted) - set(SCOPES)):
        raise ConfigError(
            f"There is no scope {unknown[0]!r}.", code="unknown_scope", fix=f"There are: {', '.join(SCOPES)}."
        )
    if not known:
        raise ConfigError(
            "A key needs at least one scope.", code="unknown_scope", fix=f"There are: {', '.join(SCOPES)}."
        )
    return known
