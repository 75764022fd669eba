"""`POST /v1/audio/transcriptions`: an audio file as text, as a whole or piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import msgspec
from litestar import Request, post
from litestar.datastructures import UploadFile
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from rejoinder.app import Runtime
from rejoinder.breaker import Breaker
from rejoinder.errors import RejoinderError
from rejoinder.stages.chain import SttChain
from rejoinder_adapters.openai_api.chat_routes import untold
from rejoinder_adapters.openai_api.codecs import decode
from rejoinder_adapters.openai_api.errors import ApiError, bad
from rejoinder_adapters.openai_api.models import Hearing, hearing
from rejoinder_adapters.openai_api.segments import Segment, Transcription
from rejoinder_adapters.openai_api.streaming import Events, Started, event, failure, start, unless_gone

MAX_UPLOAD = 25 * 1024 * 1024
"""Bytes of a request, as OpenAI takes them."""
RESPONSE_FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
_TRANSCRIPT_MS = 60_000
"""Nobody waits in a conversation here: a recogniser has at least this long for each piece of some 25 s."""


class Wanted(NamedTuple):
    """What of the form counts here; everything else is accepted and ignored."""

    file: bytes
    model: str
    language: str
    response_format: str
    stream: bool


def make_routes(runtime: Runtime, breaker: Breaker) -> list[HTTPRouteHandler]:
    """The routes; `breaker` knows which providers fail at the moment."""

    @post("/audio/transcriptions", status_code=200, request_max_body_size=MAX_UPLOAD)
    async def create_transcription(request: Request[Any, Any, Any]) -> ASGIApp:
        """Transcribe a recording as an agent or an STT provider hears it."""
        wanted = await _wanted(request)
        hearer = await hearing(runtime, wanted.model)
        language = wanted.language or hearer.agent.language
        work = _transcription(hearer, language, breaker, wanted.file)
        if wanted.stream:
            started = await start(request, _checked(work))
            return Events(_events(work, started), started)
        segments = await unless_gone(request, _all(work))
        body, media_type = render(wanted.response_format, segments, work.duration_s, language)
        return ASGIResponse(body=body, media_type=media_type)

    @post("/audio/translations", status_code=200, request_max_body_size=MAX_UPLOAD)
    async def create_translation() -> None:
        """Refused."""
        raise ApiError(
            404, "Translations are not supported; /v1/audio/transcriptions keeps the language.", code="unsupported"
        )

    return [create_transcription, create_translation]


async def _wanted(request: Request[Any, Any, Any]) -> Wanted:
    missing = bad("file", "Send the audio as the file `file` of a multipart/form-data request.", "missing_file")
    if request.content_type[0] != "multipart/form-data":
        raise missing
    try:
        form = await request.form()
    except (UnicodeDecodeError, LookupError):
        raise bad(None, "The form is not valid text.", "invalid_request") from None
    upload = form.get("file")
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    try:
        if not isinstance(upload, UploadFile):
            raise missing
        data = await upload.read()
    finally:
        for file in files:
            await file.close()

    def field(name: str) -> str:
        value = form.get(name)
        return value.strip() if isinstance(value, str) else ""

    response_format = field("response_format") or "json"
    if response_format not in RESPONSE_FORMATS:
        raise bad("response_format", f"response_format must be one of {', '.join(RESPONSE_FORMATS)}.")
    stream = field("stream").lower() in ("true", "1")
    return Wanted(data, field("model"), field("language"), response_format, stream)


def _transcription(hearer: Hearing, language: str, breaker: Breaker, upload: bytes) -> Transcription:
    deadlines = hearer.agent.deadlines
    patient = deadlines.model_copy(update={"transcript_ms": max(_TRANSCRIPT_MS, deadlines.transcript_ms)})
    chain = SttChain(hearer.stt, patient, untold, breaker)
    vad = hearer.services.vad
    stt = chain.open(language=language, on_partial=lambda text: None)
    return Transcription(decode(upload), vad.open(), vad.advice, stt)


async def _checked(work: Transcription) -> AsyncGenerator[Segment, None]:
    """The segments; that the recogniser lacks the language is the request's fault."""
    try:
        async for segment in work.segments():
            yield segment
    except RejoinderError as error:
        if error.code != "unsupported_language":
            raise
        raise bad("language", error.message, error.code) from None


async def _all(work: Transcription) -> list[Segment]:
    return [segment async for segment in _checked(work)]


async def _events(work: Transcription, segments: Started[Segment]) -> AsyncGenerator[bytes, None]:
    texts: list[str] = []
    try:
        async for segment in segments:
            delta = f" {segment.text}" if texts else segment.text
            texts.append(segment.text)
            yield event({"type": "transcript.text.delta", "delta": delta})
    except Exception as error:  # noqa: BLE001 - told to the client, in the only way that is left
        yield failure(error)
        return
    yield event({"type": "transcript.text.done", "text": " ".join(texts), "usage": _usage(work.duration_s)})
    yield b"data: [DONE]\n\n"


def _usage(duration_s: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(duration_s, 3)}


# --- what comes back ------------------------------------------------------------------------------------------


def render(response_format: str, segments: Sequence[Segment], duration_s: float, language: str) -> tuple[bytes, str]:
    """The transcript in one of `RESPONSE_FORMATS`, and its media type."""
    text = " ".join(segment.text for segment in segments)
    if response_format == "text":
        return f"{text}\n".encode(), "text/plain; charset=utf-8"
    if response_format == "srt":
        cues = [f"{at}\n{_span(segment, ',')}\n{segment.text}\n" for at, segment in enumerate(segments, 1)]
        return "\n".join(cues).encode(), "text/plain; charset=utf-8"
    if response_format == "vtt":
        cues = [f"{_span(segment, '.')}\n{segment.text}\n" for segment in segments]
        return "\n".join(["WEBVTT\n", *cues]).encode(), "text/vtt; charset=utf-8"
    body: dict[str, Any] = {"text": text, "usage": _usage(duration_s)}
    if response_format == "verbose_json":
        described = [_described(at, segment) for at, segment in enumerate(segments)]
        body |= {"task": "transcribe", "language": language, "duration": round(duration_s, 3), "segments": described}
    return msgspec.json.encode(body), "application/json"


def _described(at: int, segment: Segment) -> dict[str, Any]:
    # The recognisers tell no probabilities; clients expect the fields.
    unknown = {"avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0}
    return {
        "id": at,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        **unknown,
    }


def _span(segment: Segment, mark: str) -> str:
    return f"{_time(segment.start, mark)} --> {_time(segment.end, mark)}"


def _time(seconds: float, mark: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"
