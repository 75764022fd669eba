"""The OpenAPI document: what Litestar knows of the routes, with what they need, refuse and look like beside it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.routes import HTTPRoute

from rejoinder import __version__
from rejoinder.events import ServerEvent
from rejoinder_adapters.explorer import Explorer, make_router
from rejoinder_adapters.idempotency import SECRETS
from rejoinder_adapters.openai_api.errors import ApiError
from rejoinder_adapters.openapi_operations import IDEMPOTENCY_KEY, OPERATIONS, PARAMETERS, TAGS, Operation
from rejoinder_adapters.openapi_parts import (
    DESCRIPTION,
    EVENT_PAGE,
    HEADERS,
    OPENAI_ERROR,
    READINESS,
    SECURITY_SCHEMES,
    STREAM,
    Json,
    openai_refusals,
    refusals,
)
from rejoinder_adapters.problems import Problem
from rejoinder_adapters.security import Needs
from rejoinder_adapters.sse import ChatAnswer

_METHODS = ("get", "put", "post", "delete", "patch")
_IN_A_ROOM = ("read", "talk", "control")
"""Scopes that a room token may have."""
_SENTENCE = re.compile(r"(.+?[a-z)\]`\"])(?:[.;:](?: |\Z)|\Z)", re.DOTALL)
_NOISE = ("deprecated", "allowEmptyValue", "allowReserved")
IDEMPOTENCY_CODES = (
    "bad_idempotency_key",
    "idempotency_too_large",
    "idempotency_mismatch",
    "idempotency_in_progress",
    "idempotency_streamed",
)
_STATE = "openapi_document"


def config() -> OpenAPIConfig:
    """Litestar's part of it: what it collects, and the pages under /docs."""
    return OpenAPIConfig(
        title="Rejoinder",
        version=__version__,
        description=DESCRIPTION,
        use_handler_docstrings=True,
        operation_id_creator=_operation_id,
        render_plugins=[Explorer()],
        openapi_router=make_router(),
    )


def _operation_id(handler: HTTPRouteHandler, method: str, path: Sequence[Any]) -> str:
    """The name of a function of ours; of others', which may be called like one, where it is: `get_acme_door`."""
    if str(getattr(handler.fn, "__module__", "")).startswith("rejoinder_adapters."):
        return handler.handler_name
    names = [part if isinstance(part, str) else part.name for part in path]
    return re.sub(r"\W+", "_", "_".join([method.lower(), *names]))


@get("/openapi.json", include_in_schema=False)
async def serve_document(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The document."""
    state = request.app.state
    if (body := state.get(_STATE)) is None:
        # Beside the event loop: it takes some hundred ms, and others are talking.
        body = state[_STATE] = await asyncio.to_thread(lambda: msgspec.json.encode(document(request.app)))
    return Response(body, media_type="application/json", headers={"cache-control": "no-cache"})


def document(app: Litestar) -> Json:
    """The OpenAPI document of `app` (3.1)."""
    made: Json = app.openapi_schema.to_schema()
    made["openapi"] = "3.1.1"
    made["tags"] = [{"name": name, "description": text} for name, text in TAGS.values()]
    handlers = dict(_handlers(app))
    for path, item in made["paths"].items():
        for method in _METHODS:
            if (operation := item.get(method)) is not None:
                _complete(path, method, operation, handlers[path, method])
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    schemas |= _schemas_of(Problem, "Problem", "Problem{name}")
    schemas |= _schemas_of(ServerEvent, "Event", "Event{name}")
    schemas |= _schemas_of(ChatAnswer, "ChatAnswer", "{name}")
    schemas |= {"EventStream": STREAM, "EventPage": EVENT_PAGE, "Readiness": READINESS, "OpenAIError": OPENAI_ERROR}
    made["components"] |= {"securitySchemes": SECURITY_SCHEMES, "headers": HEADERS}
    cleaned: Json = _without_noise(made)
    return cleaned


def _handlers(app: Litestar) -> Iterator[tuple[tuple[str, str], HTTPRouteHandler]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, _) in route.route_handler_map.items():
                yield (route.path_format or "/", method.lower()), handler


def _schemas_of(kind: Any, name: str, template: str) -> Json:
    """JSON Schemas of `kind`, called `name`, and of all that it is made of."""
    (schema,), parts = msgspec.json.schema_components([kind], ref_template=f"#/components/schemas/{template}")
    found = {template.format(name=part): made for part, made in parts.items()}
    itself = schema.get("$ref", "").rpartition("/")[2]
    return {**found, name: found.pop(itself) if itself else schema}


def _complete(path: str, method: str, operation: Json, handler: HTTPRouteHandler) -> None:
    """Add to what Litestar wrote of an operation."""
    known = OPERATIONS.get(operation["operationId"], Operation())
    text = " ".join(str(operation.get("description") or operation["summary"]).split())
    sentence = _SENTENCE.match(text)
    operation["summary"] = (sentence[1] if sentence else text).rstrip(".")
    operation["description"] = text
    operation["tags"] = operation.get("tags") or [_tag(path)]
    guard = next((guard for guard in handler.resolve_guards() if isinstance(guard, Needs)), None)
    operation["security"] = _security(path, guard)
    if guard is not None:
        who = f"the scope `{guard.scope}`" if guard.scope else "a key, token or ticket that is good"
        operation["description"] += f" Needs {who}."
    may_repeat = method == "post" and path.startswith("/v1/") and not SECRETS.fullmatch(path)
    _describe_parameters(operation, known, (IDEMPOTENCY_KEY,) if may_repeat else ())
    if (body := operation.get("requestBody")) is not None:
        _describe_body(body, known)
    elif known.body is not None:
        operation["requestBody"] = known.body
    operation["responses"] = _responses(operation, known, handler, guard)


def _tag(path: str) -> str:
    fits = [prefix for prefix in TAGS if path == prefix or path.startswith(f"{prefix}/")]
    return TAGS[max(fits, key=len)][0] if fits else "Plugins"


def _security(path: str, guard: Needs | None) -> list[Json]:
    if guard is None:
        return []
    scopes = [guard.scope] if guard.scope else []
    ways = ["apiKey", "ticket"]
    in_session = guard.session_in_body or "{session_id}" in path
    if guard.scope is None or (guard.scope in _IN_A_ROOM and in_session):
        ways += ["roomToken", "accessToken"]
    return [{way: scopes} for way in ways]


def _describe_parameters(operation: Json, known: Operation, more: tuple[Json, ...]) -> None:
    listed = operation.get("parameters", [])
    own = {parameter["name"]: dict(parameter) for parameter in (*known.parameters, *more)}
    for parameter in listed:
        schema = parameter["schema"]
        if "oneOf" in schema:
            # In a URL there is no null: one leaves it out.
            choices = [choice for choice in schema["oneOf"] if choice != {"type": "null"}]
            if len(choices) == 1:
                parameter["schema"] = choices[0]
        parameter |= PARAMETERS.get(parameter["name"], {})
        parameter |= own.pop(parameter["name"], {})
        if parameter["in"] == "query":
            # The explorer would send it, and find nothing.
            parameter.pop("example", None)
    if listed or own:
        operation["parameters"] = [*listed, *own.values()]


def _describe_body(body: Json, known: Operation) -> None:
    media: Json | None = body["content"].get("application/json")
    if media is None:
        # A plugin's route may take a form.
        return
    choices = media["schema"].get("oneOf", [])
    if {"type": "null"} in choices:
        body["required"] = False
        media["schema"] = next(choice for choice in choices if choice != {"type": "null"})
    if known.request is not None:
        media["example"] = known.request


def _responses(operation: Json, known: Operation, handler: HTTPRouteHandler, guard: Needs | None) -> Json:
    found: Json = {}
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            content = response.get("content", {})
            if known.answer is not None and "application/json" in content:
                content["application/json"]["example"] = known.answer
            found[status] = {
                "description": _PHRASES.get(status, "It worked."),
                **({"content": content} if content else {}),
            }
    found |= {status: dict(response) for status, response in known.responses.items()}
    for response in found.values():
        response["headers"] = {**response.get("headers", {}), **_links(guard)}
    if ApiError in handler.resolve_exception_handlers():
        return found | openai_refusals()
    has_input = "requestBody" in operation or "parameters" in operation
    codes = [*known.errors, *(["bad_request"] if has_input else []), "internal"]
    if "requestBody" in operation:
        codes += ["bad_json", "too_large"]
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
        codes.append("not_found")
    if IDEMPOTENCY_KEY["name"] in (parameter["name"] for parameter in operation.get("parameters", ())):
        codes += IDEMPOTENCY_CODES
    if guard is not None:
        codes += ["unauthorized", "rate_limited", "store_unavailable", *(["forbidden"] if guard.scope else [])]
    made = refusals(codes, guarded=guard is not None)
    for status, response in found.items():
        # The same status may tell two things, each in its media type.
        if status in made:
            made[status]["content"] |= response["content"]
            made[status]["description"] = f"{response['description']} {made[status]['description']}"
    return found | made


_PHRASES = {"200": "Here it is.", "201": "It was made.", "202": "It is under way.", "204": "It is done."}


def _links(guard: Needs | None) -> Json:
    names = ["X-Request-Id"]
    if guard is not None:
        names += ["RateLimit-Policy", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _without_noise(node: Any) -> Any:
    """`node` without what only says that something is as usual."""
    if isinstance(node, dict):
        return {
            key: _without_noise(value)
            for key, value in node.items()
            if not (key in _NOISE and value is False) and not (key == "headers" and value == {})
        }
    return [_without_noise(value) for value in node] if isinstance(node, list) else node
