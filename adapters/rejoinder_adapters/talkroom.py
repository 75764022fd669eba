"""A room for the talk page: for whoever sits at this machine, is logged in, or (in a demo) for everybody."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, post
from litestar.datastructures import State
from litestar.params import JSONBody

from rejoinder.app import Runtime
from rejoinder.auth import LOOPBACK, Principal
from rejoinder.cookies import check_site
from rejoinder.errors import AuthError, ProtocolError
from rejoinder_adapters.rest.rooms import NewToken, Room, joined, room_of
from rejoinder_adapters.security import RateLimiter, audit, host_of, principal_of

Asked = Request[Any, Any, State]
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
"""What a proxy says of where a request really comes from."""


class TalkRoom(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to talk to; None: the default agent."""

    agent: str | None = None


def routes(runtime: Runtime) -> list[Any]:
    """`POST /talk/room`."""
    settings, talk = runtime.settings, runtime.settings.talk
    limiter = RateLimiter(talk.rooms_per_minute)

    @post("/talk/room", public=True, operation_id="create_talk_room")
    async def create_talk_room(request: Asked, data: JSONBody[TalkRoom | None] = None) -> Room:
        """A room for the server's own talk page, where the setting `talk.access` allows it to whoever asks."""
        wanted = data or TalkRoom()
        principal = None if talk.access == "local" and _is_local(request) else await _known(request)
        if principal is None and talk.access == "anybody":
            _check_demo(request, wanted.agent)
        record = await runtime.create_room(wanted.agent)
        if principal is not None:
            audit(request, "room.create", record.id, agent=record.agent)
        return room_of(record, request, joined(runtime.gate, record, request, NewToken(identity="talk")))

    async def _known(request: Asked) -> Principal | None:
        """Who asks, if they may talk; None: anybody may."""
        try:
            principal = await principal_of(request)
        except AuthError as error:
            if talk.access == "anybody" and error.code == "unauthorized":
                return None
            if talk.access == "local" and error.code == "unauthorized":
                raise _closed(runtime) from None
            raise
        if talk.access == "anybody" and not principal.may("talk"):
            return None
        principal.check("talk")
        return principal

    def _is_local(request: Asked) -> bool:
        """Whether somebody at this machine asks, with the server's own page or none at all.

        The page of another site is known by `Origin` and `Sec-Fetch-Site`, or (if its name was made to mean this
        machine) by `Host`; who comes through a proxy on this machine, by what the proxy says.
        """
        headers = request.headers
        if not runtime.gate.loopback or any(name in headers for name in _FORWARDED):
            return False
        if host_of(f"http://{headers.get('host', '')}") not in {*LOOPBACK, settings.host}:
            return False
        try:
            check_site("POST", headers)
        except AuthError:
            return False
        return True

    def _check_demo(request: Asked, agent: str | None) -> None:
        if request.headers.get("origin") not in settings.allowed_origins:
            check_site("POST", request.headers)
        if agent is not None and agent not in (settings.default_agent, *talk.agents):
            raise AuthError(
                f"The agent {agent[:80]!r} is not for everybody.",
                code="talk_closed",
                fix="Leave it out, or name it in talk.agents.",
            )
        allowed, _, _ = limiter.take(request.client.host if request.client else "")
        if not allowed:
            raise ProtocolError(
                f"More than {talk.rooms_per_minute} rooms in a minute.",
                code="too_many_rooms",
                fix="Wait a moment, or raise talk.rooms_per_minute.",
                retryable=True,
            )

    return [create_talk_room]


def _closed(runtime: Runtime) -> AuthError:
    why = (
        "this request comes from another site's page, through a proxy or under another name"
        if runtime.gate.loopback
        else f"it listens on {runtime.settings.host}"
    )
    return AuthError(
        f"The talk page opens without a login only for whoever sits at the server's machine, and {why}.",
        code="talk_closed",
        fix="Log in at /admin with an account that may talk, use a room's link, or set talk.access "
        "(to 'login' or 'anybody').",
    )
