"""Accounts: listed, invited by a link, changed, sent a link for a new password, removed; what they do is audited."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody

from rejoinder.app import Runtime
from rejoinder.errors import SessionError
from rejoinder.logins import LINK_S
from rejoinder.store.users import AccountRole, UserRecord
from rejoinder_adapters.security import audit, needs, principal_of

Asked = Request[Any, Any, State]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class NewUser(msgspec.Struct, forbid_unknown_fields=True):
    """An account to be made: what one types at the login, and the role."""

    name: Name
    role: AccountRole = "viewer"


class UserChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be changed of an account; None leaves it. Who is disabled is logged out at once."""

    role: AccountRole | None = None
    disabled: bool | None = None


class MadeUser(msgspec.Struct):
    """An account and its `link`, which is not shown again: good once, until `expires_at` (Unix ms)."""

    user: UserRecord
    link: str
    expires_at: int


class UserList(msgspec.Struct):
    """Accounts, by name."""

    items: list[UserRecord]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/users`."""
    logins = runtime.gate.logins
    users = logins.users
    reading, changing = [needs("admin")], [needs("admin", proof=True)]

    @get("/v1/users", guards=reading)
    async def list_users() -> UserList:
        """All accounts."""
        return UserList(await users.all())

    @post("/v1/users", guards=changing)
    async def create_user(request: Asked, data: JSONBody[NewUser]) -> MadeUser:
        """Make an account. The link by which its owner chooses a password is in this answer and nowhere else."""
        principal = await principal_of(request)
        user = await users.create(data.name, data.role, by=principal.id)
        audit(request, "user.create", user.id, name=user.name, role=user.role)
        return await _linked(request, user)

    @patch("/v1/users/{user_id:str}", guards=changing)
    async def change_user(user_id: FromPath[str], request: Asked, data: JSONBody[UserChange]) -> UserRecord:
        """Give an account another role, disable it or enable it again; it holds at once."""
        user = await users.change(user_id, role=data.role, disabled=data.disabled)
        logins.forget()
        if user is None:
            raise _unknown(user_id)
        changed = {name: value for name, value in msgspec.structs.asdict(data).items() if value is not None}
        audit(request, "user.change", user.id, name=user.name, **changed)
        return user

    @post("/v1/users/{user_id:str}/link", guards=changing, status_code=201)
    async def create_user_link(user_id: FromPath[str], request: Asked) -> MadeUser:
        """Make a link by which an account's owner chooses a new password; older ones are no good any more."""
        user = await users.get(user_id)
        if user is None:
            raise _unknown(user_id)
        if user.disabled_at is not None:
            raise SessionError(
                f"The account {user.name!r} is disabled.",
                code="user_disabled",
                fix='PATCH it with {"disabled": false}.',
            )
        audit(request, "user.link", user.id, name=user.name)
        return await _linked(request, user)

    @delete("/v1/users/{user_id:str}", guards=changing)
    async def delete_user(user_id: FromPath[str], request: Asked) -> None:
        """Remove an account; its owner is logged out at once."""
        user = await users.delete(user_id)
        logins.forget()
        if user is None:
            raise _unknown(user_id)
        audit(request, "user.delete", user.id, name=user.name)

    async def _linked(request: Asked, user: UserRecord) -> MadeUser:
        principal = await principal_of(request)
        token, expires_at = await users.link(user.id, by=principal.id, ttl_s=LINK_S)
        # After the #, so that it never reaches a server's log.
        base = str(request.base_url).rstrip("/")
        return MadeUser(user, f"{base}/admin/login#token={token}", expires_at)

    return [list_users, create_user, change_user, create_user_link, delete_user]


def _unknown(user_id: str) -> SessionError:
    return SessionError(f"There is no account {user_id[:80]!r}.", code="unknown_user", fix="GET /v1/users lists them.")
