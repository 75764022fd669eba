"""The OpenAPI document: whole, true to the guards and to what the server does with whatever fits or breaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.adapters.conftest import LiveServer, running

from rejoinder.settings import Auth, Limits, WebhookOptions
from rejoinder_adapters.openapi_operations import OPERATIONS

OPERATION_IDS = [
    "add_document",
    "change_user",
    "change_webhook",
    "chat",
    "create_chat_completion",
    "create_key",
    "create_room",
    "create_room_token",
    "create_speech",
    "create_talk_room",
    "create_ticket",
    "create_transcription",
    "create_translation",
    "create_user",
    "create_user_link",
    "create_webhook",
    "delete_agent",
    "delete_recording",
    "delete_session",
    "delete_user",
    "delete_webhook",
    "end_session",
    "get_agent",
    "get_agent_schema",
    "get_document",
    "get_events",
    "get_latency",
    "get_metrics",
    "get_overview",
    "get_recording",
    "get_recording_peaks",
    "get_room",
    "get_session",
    "get_stream",
    "get_transcript",
    "get_webhook",
    "hand_back",
    "interrupt_session",
    "list_agent_versions",
    "list_agents",
    "list_audit",
    "list_deliveries",
    "list_documents",
    "list_keys",
    "list_live",
    "list_llm_requests",
    "list_models",
    "list_nodes",
    "list_plugin_settings",
    "list_plugins",
    "list_rooms",
    "list_sessions",
    "list_settings",
    "list_turns",
    "list_users",
    "list_webhooks",
    "livez",
    "put_agent",
    "put_plugin_settings",
    "readyz",
    "redeliver",
    "remove_document",
    "renew_token",
    "retrieve_model",
    "revoke_key",
    "rotate_key",
    "rotate_webhook_secret",
    "say",
    "search_documents",
    "search_transcripts",
    "send_message",
    "take_over",
    "test_webhook",
    "version",
    "whisper",
]
"""The names of the SDKs' methods: to change one breaks programs."""
METHODS = ("get", "put", "post", "delete", "patch")
Operations = dict[str, tuple[str, str, dict[str, Any]]]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, str]]:
    """A server that asks for keys, and one that may do everything."""
    folder = tmp_path_factory.mktemp("openapi")
    limits = Limits(requests_per_minute=1_000_000, idle_s=1, chat_idle_s=1)
    auth, hooks = Auth(mode="keys", dev_key_file=folder / "dev-key"), WebhookOptions(allow_private=True)
    with running(folder / "test.db", {}, auth=auth, limits=limits, webhooks=hooks) as live:
        _, key = live.call(live.runtime.gate.keys.create("test", ["admin"]))
        yield live, key


@pytest.fixture(scope="module")
def document(keyed: tuple[LiveServer, str]) -> dict[str, Any]:
    answer = httpx.get(f"{keyed[0].http}/openapi.json", timeout=30)
    assert answer.status_code == 200, "nobody needs a key for it"
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> Operations:
    return {
        operation["operationId"]: (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()


def test_operation_ids_are_unique_and_stay(document: dict[str, Any], operations: Operations) -> None:
    assert len(operations) == sum(len(item) for item in document["paths"].values())
    assert sorted(operations) == OPERATION_IDS
    assert not OPERATIONS.keys() - operations.keys(), "described, but not there"


def test_each_operation_says_what_it_is_and_what_it_refuses(operations: Operations) -> None:
    for name, (method, path, operation) in operations.items():
        assert 2 <= len(operation["summary"]) <= 120, name
        assert operation["description"], name
        assert operation["tags"], name
        assert "500" in operation["responses"], name
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), (name, parameter["name"])
        if "requestBody" in operation:
            assert all(_has_example(media) for media in operation["requestBody"]["content"].values()), name
            assert operation["responses"].keys() >= {"400", "413"}, name
        if operation["security"]:
            assert operation["responses"].keys() >= {"401", "403", "429", "503"}, name
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            assert "X-Request-Id" in response["headers"], (name, status)
            if status == "204":
                assert "content" not in response, name
            elif status >= "400" and "/v1/" in path and not _is_openai(path):
                assert list(response["content"]) == ["application/problem+json"], (name, status)
            elif status < "300" and status != "202" and name != "create_translation":
                first = next(iter(response["content"].values()))
                assert _has_example(first) or _is_openai(path), (name, status)
        assert method in METHODS


def _has_example(media: dict[str, Any]) -> bool:
    return "example" in media or "examples" in media


def _is_openai(path: str) -> bool:
    return path.startswith(("/v1/models", "/v1/chat/completions", "/v1/audio"))


def test_the_examples_fit_their_schemas(document: dict[str, Any], operations: Operations) -> None:
    checked = 0
    for name, (_, _, operation) in operations.items():
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for body in bodies:
            for kind, media in body.get("content", {}).items():
                given = [media["example"]] if "example" in media else []
                given += [one["value"] for one in media.get("examples", {}).values()]
                for example in given if "json" in kind else ():
                    whole = {**media["schema"], "components": document["components"]}
                    wrong = list(jsonschema.Draft202012Validator(whole).iter_errors(example))
                    assert not wrong, (name, kind, wrong[0])
                    checked += 1
    assert checked > 200


def test_what_needs_a_key_says_so_and_nothing_else(keyed: tuple[LiveServer, str], operations: Operations) -> None:
    with httpx.Client(base_url=keyed[0].http, headers={"accept": "application/json"}) as client:
        for name, (method, path, operation) in operations.items():
            url = path.replace("{", "").replace("}", "")
            status = client.request(method, url).status_code
            assert (status == 401) == bool(operation["security"]), (name, status)
            schemes = {scheme for one in operation["security"] for scheme in one}
            assert schemes <= {"apiKey", "ticket", "roomToken", "accessToken"}


def test_room_tokens_are_good_where_it_says_so(keyed: tuple[LiveServer, str], operations: Operations) -> None:
    server, key = keyed
    made = httpx.post(f"{server.http}/v1/rooms", headers={"authorization": f"Bearer {key}"}, json={"role": "operator"})
    token, session_id = made.json()["join"]["token"], made.json()["session_id"]
    with httpx.Client(base_url=server.http, headers={"accept": "application/json"}) as client:
        client.headers["authorization"] = f"Bearer {token}"
        for name, (method, path, operation) in operations.items():
            if operation["security"]:
                status = client.request(method, path.replace("{session_id}", session_id)).status_code
                allowed = any("roomToken" in one for one in operation["security"])
                assert (status != 403) == allowed, (name, status)


def test_streams_are_described_by_the_events_they_carry(document: dict[str, Any], operations: Operations) -> None:
    schemas = document["components"]["schemas"]
    carried = schemas["EventStream"]["properties"]["data"]["contentSchema"]
    assert carried == {"$ref": "#/components/schemas/Event"}
    tags = set(schemas["Event"]["discriminator"]["mapping"])
    assert {"session.started", "reply.text", "turn.metrics", "error", "session.ended"} <= tags
    for name in ("get_events", "chat"):
        content = operations[name][2]["responses"]["200"]["content"]
        assert list(content) == ["text/event-stream", "application/json"]
        assert content["text/event-stream"]["schema"] == {"$ref": "#/components/schemas/EventStream"}


# --- whatever fits it or breaks it ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(keyed: tuple[LiveServer, str], document: dict[str, Any]) -> Any:
    """The document, in which ids are those of things that are there, or others."""
    server, key = keyed
    known = json.loads(json.dumps(document))
    with httpx.Client(base_url=server.http, headers={"authorization": f"Bearer {key}"}, timeout=20) as client:
        over = client.post("/v1/chat", json={"text": "hello"}, headers={"accept": "application/json"}).json()
        client.post(f"/v1/sessions/{over['session_id']}/end")
        room = client.post("/v1/rooms", json={}).json()
        ids = {
            "room_id": [room["id"]],
            "session_id": [over["session_id"], room["session_id"]],
            "key_id": [client.post("/v1/keys", json={"name": "x", "scopes": ["read"]}).json()["record"]["id"]],
            "document_id": [client.post("/v1/documents", json={"title": "T", "text": "Soup."}).json()["id"]],
            "webhook_id": [client.post("/v1/webhooks", json={"url": server.http}).json()["webhook"]["id"]],
            "name": ["scripted", "mine"],
            "model": ["scripted"],
        }
        for path, item in known["paths"].items():
            for operation in item.values():
                # All comes with the one key here; other tests are about the other ways in, and about that header.
                operation["security"] = [one for one in operation["security"] if "apiKey" in one]
                parameters = operation.get("parameters", [])
                parameters[:] = [one for one in parameters if one["name"] != "Idempotency-Key"]
                for parameter in parameters:
                    if parameter["in"] == "path":
                        there = ids.get(parameter["name"], [])
                        if path.endswith("/events"):
                            # The stream of one that is live does not end.
                            there = there[:1]
                        parameter["schema"] = {"enum": [*there, "nobody", "\u00fc \x00%"]}
    for parameter in known["paths"]["/v1/stream"]["get"]["parameters"]:
        if parameter["name"] == "topics":
            # It has no end; what is in it, its own tests say.
            parameter |= {"required": True, "schema": {"enum": ["weather", "", "session:\u00fc \x00%"]}}
    for name in ("NewWebhook", "WebhookChange"):
        # No name of a host, which would be looked up.
        known["components"]["schemas"][name]["properties"]["url"] = {
            "enum": [server.http, "ftp://127.0.0.1", "http://"]
        }
    config = SchemathesisConfig.from_dict(
        {
            "base-url": server.http,
            "headers": {"Authorization": f"Bearer {key}"},
            "phases": {"coverage": {"enabled": False}},
        }
    )
    return schemathesis.openapi.from_dict(known, config=config)


ENDINGS = ("delete_agent", "delete_webhook", "end_session", "remove_document", "revoke_key")
"""These come last: the others need what they end."""
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("name", sorted(OPERATION_IDS, key=lambda name: name in ENDINGS))
def test_the_server_does_what_it_says(api: Any, name: str) -> None:
    @given(case=api.find_operation_by_id(name).as_strategy())
    @settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=CHECKS, timeout=20)

    check()
