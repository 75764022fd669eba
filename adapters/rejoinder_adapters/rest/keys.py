"""API keys: listed without their secrets, made (shown once), rotated with an overlap, revoked."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody

from rejoinder.app import Runtime
from rejoinder.auth import scopes_of
from rejoinder.errors import SessionError
from rejoinder.store.keys import KeyRecord
from rejoinder_adapters.security import audit, needs

Asked = Request[Any, Any, State]
_LONGEST_S = 10 * 365 * 86_400
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=_LONGEST_S)]


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """A key to be made: what for, what it may do, and for how long (None: until it is revoked)."""

    name: Name
    scopes: Annotated[list[str], msgspec.Meta(max_length=10)]
    ttl_s: Seconds | None = None


class Rotation(msgspec.Struct, forbid_unknown_fields=True):
    """For how long the old key stays good beside the new one."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=30 * 86_400)] = 86_400


class MadeKey(msgspec.Struct):
    """A new key; `key` is the secret, which is not shown again."""

    key: str
    record: KeyRecord


class KeyList(msgspec.Struct):
    """Keys, newest first."""

    items: list[KeyRecord]


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/keys`."""
    gate = runtime.gate
    guards = [needs("admin", proof=True)]

    @get("/v1/keys", guards=[needs("admin")])
    async def list_keys() -> KeyList:
        """All API keys, also those that are no good any more."""
        return KeyList(await gate.keys.all())

    @post("/v1/keys", guards=guards)
    async def create_key(request: Asked, data: JSONBody[NewKey]) -> MadeKey:
        """Make an API key. Its secret is in this answer and nowhere else."""
        record, key = await gate.keys.create(data.name, scopes_of(data.scopes), ttl_s=data.ttl_s)
        audit(request, "key.create", record.id, name=record.name, scopes=record.scopes)
        return MadeKey(key, record)

    @post("/v1/keys/{key_id:str}/rotate", guards=guards)
    async def rotate_key(key_id: FromPath[str], request: Asked, data: JSONBody[Rotation | None] = None) -> MadeKey:
        """Make a key like this one, which stays good for the overlap."""
        made = await gate.keys.rotate(key_id, overlap_s=(data or Rotation()).overlap_s)
        gate.forget()
        if made is None:
            raise _unknown(key_id, "or it is no good any more")
        audit(request, "key.rotate", key_id, name=made[0].name, new=made[0].id)
        return MadeKey(made[1], made[0])

    @delete("/v1/keys/{key_id:str}", guards=guards)
    async def revoke_key(key_id: FromPath[str], request: Asked) -> None:
        """End a key, at once."""
        found = await gate.keys.revoke(key_id)
        gate.forget()
        if not found:
            raise _unknown(key_id)
        audit(request, "key.revoke", key_id)

    return [list_keys, create_key, rotate_key, revoke_key]


def _unknown(key_id: str, or_else: str = "") -> SessionError:
    text = f"There is no API key {key_id[:80]!r}{', ' if or_else else ''}{or_else}."
    return SessionError(text, code="unknown_key", fix="GET /v1/keys lists them.")
