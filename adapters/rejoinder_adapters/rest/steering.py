"""Steers live sessions: say and whisper something, take over from the agent and hand back, interrupt, end."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, post, put
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody

from rejoinder.app import Runtime
from rejoinder.auth import Principal
from rejoinder.session import Session
from rejoinder.steering import Operator
from rejoinder_adapters.rest.sessions import Accepted, Words
from rejoinder_adapters.security import audit, needs, principal_of
from rejoinder_adapters.sessions import live_session

Asked = Request[Any, Any, State]


class Ending(msgspec.Struct, forbid_unknown_fields=True):
    """Why a session is ended; goes into `session.ended`."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=80)] = "ended_by_api"


class Claim(msgspec.Struct, forbid_unknown_fields=True):
    """`force`: take it from whoever has taken over; only an admin may."""

    force: bool = False


class Whispered(msgspec.Struct):
    """The agent knows it."""

    session_id: str


class Takeover(msgspec.Struct):
    """Who speaks instead of the agent, and (Unix ms) until when, unless they ask again before."""

    session_id: str
    operator: str
    expires_at: int


def routes(runtime: Runtime) -> list[Any]:
    """What operators do in `/v1/sessions/{session_id}`."""
    talking, steering = [needs("talk")], [needs("control")]

    @post("/v1/sessions/{session_id:str}/say", guards=steering, status_code=202)
    async def say(session_id: FromPath[str], data: JSONBody[Words], request: Asked) -> Accepted:
        """Have this said in the agent's voice, at once. Somebody else who has taken over must hand back first."""
        session = await _live(session_id)
        turn_id = session.steering.say(data.text, await _operator(request))
        # What was said is in the session's log, where it is found by its turn.
        audit(request, "session.say", session_id, turn_id=turn_id)
        return Accepted(session_id, turn_id)

    @post("/v1/sessions/{session_id:str}/whisper", guards=steering, status_code=202)
    async def whisper(session_id: FromPath[str], data: JSONBody[Words], request: Asked) -> Whispered:
        """Let the agent know this. Nobody in the session hears or sees it; from its next answer on it is heeded."""
        stored = (await _live(session_id)).steering.whisper(data.text)
        audit(request, "session.whisper", session_id, text=stored)
        return Whispered(session_id)

    @put("/v1/sessions/{session_id:str}/takeover", guards=steering)
    async def take_over(session_id: FromPath[str], request: Asked, data: JSONBody[Claim | None] = None) -> Takeover:
        """Speak instead of the agent, for the next 30 s; ask again, every 10 s say, for as long as it is to last.

        The agent falls silent; what the user says is heard and kept, and not answered. Whoever is not heard of any more
        has handed back.
        """
        force = data is not None and data.force
        if force:
            (await principal_of(request)).check("admin", session_id)
        session = await _live(session_id)
        lease = session.steering.take_over(await _operator(request), force=force)
        if not lease.renewed:
            former = {} if lease.former is None else {"former": lease.former.name}
            audit(request, "session.takeover", session_id, **former)
        return Takeover(session_id, lease.operator.name, lease.expires_at)

    @delete("/v1/sessions/{session_id:str}/takeover", guards=steering)
    async def hand_back(session_id: FromPath[str], request: Asked) -> None:
        """Let the agent answer again; first it answers what the user said last, if nobody has."""
        if (await _live(session_id)).steering.hand_back(await _operator(request)):
            audit(request, "session.handback", session_id)

    @post("/v1/sessions/{session_id:str}/interrupt", guards=talking, status_code=204, operation_id="interrupt_session")
    async def interrupt(session_id: FromPath[str], request: Asked) -> None:
        """Stop what is being said."""
        (await _live(session_id)).interrupt()
        if not _takes_part(await principal_of(request)):
            audit(request, "session.interrupt", session_id)

    @post("/v1/sessions/{session_id:str}/end", guards=talking, status_code=202, operation_id="end_session")
    async def end(session_id: FromPath[str], request: Asked, data: JSONBody[Ending | None] = None) -> None:
        """End a session for all who are in it."""
        reason = (data or Ending()).reason
        (await _live(session_id)).end(reason)
        if not _takes_part(await principal_of(request)):
            audit(request, "session.end", session_id, reason=reason)

    async def _live(session_id: str) -> Session:
        return await live_session(runtime, session_id, start=False)

    return [say, whisper, take_over, hand_back, interrupt, end]


async def _operator(request: Asked) -> Operator:
    principal = await principal_of(request)
    return Operator(principal.id, principal.name)


def _takes_part(principal: Principal) -> bool:
    """Whether it is somebody in the room itself, whose doings are the conversation."""
    return principal.role is not None
