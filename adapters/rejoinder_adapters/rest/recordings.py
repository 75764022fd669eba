"""The sound of sessions: fetched whole or in part, as peaks for a waveform, deleted alone or with the session."""

from __future__ import annotations

import base64
from typing import Any, cast

import msgspec
from litestar import Request, Response, delete, get
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery
from litestar.types import ASGIApp

from rejoinder.app import Runtime
from rejoinder.errors import ProtocolError, SessionError
from rejoinder.store.recordings import RecordingRecord
from rejoinder.wavfile import PEAKS_PER_SECOND
from rejoinder_adapters.problems import MEDIA_TYPE, of_error
from rejoinder_adapters.security import audit, needs, principal_of
from rejoinder_adapters.sessions import stored_session
from rejoinder_adapters.sound import FileAnswer, asked_range

Asked = Request[Any, Any, State]
_AUDIT_S = 3600
"""A player asks for a recording piece by piece: that somebody hears it is written down once in this time."""
_MOST_HEARD = 10_000


class Recording(msgspec.Struct):
    """The sound of a session: stereo PCM16 at `rate` Hz, left the user, right the agent; times are Unix ms.

    An event's place in it is `at` - `started_at`. `available`: it can be fetched now.
    """

    session_id: str
    rate: int
    started_at: int
    duration_ms: int | None
    bytes: int | None
    expires_at: int | None
    deleted_at: int | None
    available: bool


class Peaks(msgspec.Struct):
    """The loudest sample (0 to 127) of each 10 ms; `user` and `agent` are base64, a byte for each."""

    per_second: int
    duration_ms: int
    user: str
    agent: str


def view(record: RecordingRecord) -> Recording:
    """What is told of a recording."""
    return Recording(
        record.session_id,
        record.rate,
        record.started_at,
        record.duration_ms,
        record.bytes,
        record.expires_at,
        record.deleted_at,
        record.duration_ms is not None and record.deleted_at is None,
    )


async def recording_of(runtime: Runtime, session_id: str) -> Recording | None:
    """The recording of a session, if it has one."""
    record = await runtime.recordings.rows.get(session_id)
    return None if record is None else view(record)


def routes(runtime: Runtime) -> list[Any]:
    """`/v1/sessions/{session_id}/recording` and `DELETE /v1/sessions/{session_id}`."""
    recordings = runtime.recordings
    heard: dict[tuple[str, str], float] = {}

    @get("/v1/sessions/{session_id:str}/recording", guards=[needs("listen")])
    async def get_recording(session_id: FromPath[str], request: Asked, download: FromQuery[bool] = False) -> ASGIApp:
        """The sound of a session that is over, as a WAV file: stereo, left the user, right the agent."""
        record = await _finished(session_id)
        path, size = recordings.path(record), record.bytes or 0
        assert path is not None
        tag = f'"{record.started_at}-{size}"'
        headers = {"content-type": "audio/wav", "etag": tag, "cache-control": "private, no-cache"}
        if download:
            headers["content-disposition"] = f'attachment; filename="{session_id}.wav"'
        if tag in (one.strip() for one in request.headers.get("if-none-match", "").split(",")):
            return Response(b"", status_code=304, headers=headers).to_asgi_response(None, request)
        wanted = None
        if request.headers.get("if-range", tag) == tag:
            wanted = asked_range(request.headers.get("range", ""), size)
        if wanted is not None and not wanted:
            what = f"The recording has {size} bytes."
            error = ProtocolError(what, code="bad_byte_range", fix="Ask for less, or for all.")
            refused = {"content-range": f"bytes */{size}"}
            told = of_error(request, error)
            return Response(told, status_code=416, media_type=cast(Any, MEDIA_TYPE), headers=refused).to_asgi_response(
                None, request
            )
        if not path.is_file():
            raise _lost(session_id)
        await _hear(request, session_id)
        return cast(ASGIApp, FileAnswer(path, size, wanted, headers))

    @get("/v1/sessions/{session_id:str}/recording/peaks", guards=[needs("listen")])
    async def get_recording_peaks(session_id: FromPath[str]) -> Peaks:
        """How loud both sides of a recording are, for a waveform."""
        record = await _finished(session_id)
        path = recordings.path(record)
        assert path is not None
        try:
            user, agent = await recordings.peaks(path)
        except FileNotFoundError:
            raise _lost(session_id) from None
        told = (base64.b64encode(side).decode() for side in (user, agent))
        return Peaks(PEAKS_PER_SECOND, record.duration_ms or 0, *told)

    @delete("/v1/sessions/{session_id:str}/recording", guards=[needs("admin", proof=True)])
    async def delete_recording(session_id: FromPath[str], request: Asked) -> None:
        """Delete the sound of a session for good; what was written down of it stays."""
        await _finished(session_id)
        principal = await principal_of(request)
        await recordings.delete(session_id, principal.id)
        audit(request, "recording.delete", session_id)

    @delete("/v1/sessions/{session_id:str}", guards=[needs("admin", proof=True)])
    async def delete_session(session_id: FromPath[str], request: Asked) -> None:
        """Delete all that is kept of a session that is over, for good: what was said, its sound, its figures."""
        await stored_session(runtime, session_id)
        if session_id in runtime.sessions or recordings.busy(session_id):
            raise SessionError(
                f"The session {session_id!r} goes on.",
                code="session_live",
                fix="End it first: POST /v1/sessions/{session_id}/end.",
                retryable=True,
            )
        principal = await principal_of(request)
        await recordings.delete(session_id, principal.id)
        await recordings.rows.forget_session(session_id)
        audit(request, "session.delete", session_id)

    async def _finished(session_id: str) -> RecordingRecord:
        """The recording of a session, whole and there.

        Raises:
            SessionError: there is no such session, or recording, or it is deleted or still being written.
        """
        await stored_session(runtime, session_id)
        record = await recordings.rows.get(session_id)
        if record is None:
            raise SessionError(
                f"The session {session_id!r} was not recorded.",
                code="no_recording",
                fix="Sessions are recorded whose agent has recording.enabled.",
            )
        if record.deleted_at is not None:
            raise SessionError(f"The recording of {session_id!r} was deleted.", code="recording_deleted")
        if record.duration_ms is None:
            raise SessionError(
                f"The recording of {session_id!r} is still being written.",
                code="recording_unfinished",
                fix="Wait until the session has ended, or listen to it: GET /v1/sessions/{session_id}/listen.",
                retryable=True,
            )
        return record

    async def _hear(request: Asked, session_id: str) -> None:
        principal = await principal_of(request)
        key, now = (principal.id, session_id), runtime.clock.monotonic()
        if now - heard.get(key, -_AUDIT_S) < _AUDIT_S:
            return
        heard.pop(key, None)
        while len(heard) >= _MOST_HEARD:
            del heard[next(iter(heard))]
        heard[key] = now
        audit(request, "recording.fetch", session_id)

    return [get_recording, get_recording_peaks, delete_recording, delete_session]


def _lost(session_id: str) -> SessionError:
    return SessionError(
        f"The file of the recording of {session_id!r} is not here.",
        code="no_recording",
        fix="All processes on a database must share recordings_dir.",
    )
