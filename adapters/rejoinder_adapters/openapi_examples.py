"""Examples for the OpenAPI document: one caller, Ada, and her conversation; ids and times as they really look."""

from __future__ import annotations

from typing import Any

AT = 1_795_522_167_711
SESSION = "ses_01m86qc0wzfxe86cre7gpypf85"
ROOM = "room_01m86qc0wze18sk236g048eme6"
KEY = "key_01m86q9t3cfh2r4v8w1x5y7z9a"
DOCUMENT = "doc_01m86qb7k2e4t6m8n0p2r4s6v8"
WEBHOOK = "hook_01m86qbd5ze8a0c2e4g6j8k0m2"
NODE = "node_01m86q8w2ze5x7z9b1d3f5h7j9"
DELIVERY = "msg_01m86qdf9we1b3d5f7h9k1m3p5"
USER = "user_01m86qbw5ze8a0c2e4g6j8k0m2"
_TURN = "turn_01m86qc1t3e8wszjedw1kt9fhq"
_REPLY = "reply_01m86qc1wnenz81y1ckap48emn"
_TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoic3BlYWtlciJ9.c2lnbmF0dXJl"
SECRET = "whsec_C2FVsBQIhrscChlQIMV-example"

DEFINITION = {
    "instructions": "You are the receptionist of a dentist. Be brief.",
    "greeting": "Good morning!",
    "voice": None,
}
AGENT: dict[str, Any] = {
    "name": "reception",
    "version": 3,
    "source": "api",
    "created_at": AT,
    "definition": DEFINITION,
}
AGENT_VERSION = {"version": 3, "created_at": AT, "created_by": KEY, "definition": DEFINITION}

AGENT_SCHEMA: dict[str, Any] = {
    "schema": {"type": "object", "properties": {"greeting": {"type": "string", "default": ""}}},
    "profiles": {"normal": {}, "brisk": {"interrupt_ms": 240}},
}

STORED_DOCUMENT = {
    "id": DOCUMENT,
    "collection": "shop",
    "title": "Opening hours",
    "source": None,
    "created_at": AT,
    "characters": 30,
    "passages": 1,
}
FOUND = {
    "document_id": DOCUMENT,
    "collection": "shop",
    "title": "Opening hours",
    "source": None,
    "position": 0,
    "heading": "Opening hours",
    "text": "We are open from nine to five.",
    "score": 3.2,
}

_LINKS = {
    "ws": f"ws://127.0.0.1:8080/v1/sessions/{SESSION}/ws",
    "events": f"http://127.0.0.1:8080/v1/sessions/{SESSION}/events",
}
JOIN = {
    **_LINKS,
    "page": f"http://127.0.0.1:8080/talk#session={SESSION}&token={_TOKEN}",
    "token": _TOKEN,
    "role": "speaker",
    "expires_at": AT + 600_000,
}
A_ROOM = {
    "id": ROOM,
    "agent": "guide",
    "session_id": SESSION,
    "created_at": AT,
    "expires_at": AT + 3_600_000,
    "join": _LINKS,
}

A_SESSION = {
    "id": SESSION,
    "room_id": ROOM,
    "agent": "guide",
    "agent_version": None,
    "started_at": AT,
    "ended_at": AT + 61_000,
    "end_reason": "client_ended",
    "input_rate": 16_000,
    "output_rate": 24_000,
    "metrics": {"turns": 1, "interruptions": 0, "false_interruptions": {}, "nudges": 0},
    "channel": "websocket",
    "client": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "live": False,
    "turns": 1,
    "interruptions": 0,
    "errors": 0,
    "p50_us": 274_000,
    "max_us": 274_000,
    "recorded": False,
    "first_text": "What time is it?",
}
FACETS = {
    "agent": [{"value": "guide", "count": 12}],
    "end_reason": [{"value": "client_ended", "count": 11}, {"value": "idle", "count": 1}],
    "channel": [{"value": "websocket", "count": 12}],
    "agent_version": [],
}
_SPANS = [
    {"name": "endpointing", "us": 272_000, "hidden": False},
    {"name": "stt", "us": 0, "hidden": True},
    {"name": "llm", "us": 0, "hidden": True},
    {"name": "chunk", "us": 0, "hidden": True},
    {"name": "tts", "us": 1_000, "hidden": False},
    {"name": "send", "us": 1_000, "hidden": False},
]
TURN = {
    "id": _TURN,
    "session_id": SESSION,
    "number": 1,
    "user_text": "What time is it?",
    "committed_at": AT + 2_000,
    "reply_id": _REPLY,
    "reply_text": "It is noon.",
    "heard_text": "It is noon.",
    "reply_reason": "completed",
    "played_ms": 840,
    "estimated": False,
    "response_us": 274_000,
    "jitter_us": 210,
    "speculated": True,
    "saved_us": 96_000,
    "discarded": 0,
    "providers": {"stt": "moonshine", "llm": "guide", "tts": "hibari"},
    "hooks": {},
    "spans": _SPANS,
    "tool_calls": [
        {
            "id": "call_01m86qc1x0e4c6e8g0j2k4m6p8",
            "reply_id": _REPLY,
            "turn_id": _TURN,
            "name": "clock",
            "arguments": "{}",
            "status": "ok",
            "result": "12:00",
            "called_at": AT + 2_010,
            "returned_at": AT + 2_011,
        }
    ],
}
MESSAGES = [
    {
        "id": 1,
        "session_id": SESSION,
        "turn_id": _TURN,
        "role": "user",
        "content": "What time is it?",
        "at": AT + 2_000,
        "seq": 4,
    },
    {
        "id": 2,
        "session_id": SESSION,
        "turn_id": _TURN,
        "role": "assistant",
        "content": "It is noon.",
        "at": AT + 3_200,
        "seq": 9,
    },
]
ACCEPTED = {"session_id": SESSION, "turn_id": _TURN}
TAKEOVER = {"session_id": SESSION, "operator": "Grace", "expires_at": AT + 30_000}
CHAT_ANSWER = {
    "session_id": SESSION,
    "turn_id": _TURN,
    "reply_id": _REPLY,
    "text": "It is noon.",
    "reason": "completed",
    "response_ms": 31.4,
}
_COMMITTED = {
    "type": "turn.committed",
    "seq": 4,
    "at": AT + 2_000,
    "session_id": SESSION,
    "turn_id": _TURN,
    "text": "What time is it?",
}
EVENT_PAGE = {"items": [_COMMITTED], "next_cursor": None}
STREAM = {
    "id": "6",
    "data": f'{{"type":"reply.text","seq":6,"at":{AT + 2_020},"session_id":"{SESSION}","reply_id":"{_REPLY}",'
    '"delta":"It is noon."}',
}

A_LIVE_SESSION = {
    "id": SESSION,
    "agent": "guide",
    "started_at": AT,
    "channel": "websocket",
    "client": "Mozilla/5.0",
    "node": NODE,
    "doing": "speaking",
    "last_user": "What time is it?",
    "last_agent": "It is noon.",
    "turns": 1,
    "interruptions": 0,
    "errors": 0,
    "last_response_us": 274_000,
    "operator": None,
    "listeners": 0,
}
A_NODE = {
    "id": NODE,
    "host": "voice-1",
    "pid": 4711,
    "version": "0.1.0",
    "started_at": AT,
    "seen_at": AT + 60_000,
    "here": True,
    "lost": False,
    "stats": {
        "sessions": 3,
        "capacity": 1000,
        "cpu_percent": 12.5,
        "rss_bytes": 412_000_000,
        "loop_lag_p99_ms": 1.8,
        "rows_waiting": 4,
        "draining": False,
        "loaded": {"stt:moonshine": 1.7, "tts:hibari": 0.6},
    },
}
A_SETTING = {
    "key": "limits.sessions",
    "value": 200,
    "origin": "env",
    "secret": False,
    "description": "Live sessions in this process.",
}
A_SECTION = {
    "name": "openai",
    "plugin": "openai",
    "schema": {"title": "OpenAISettings", "type": "object", "properties": {"voice": {"type": "string"}}},
    "values": {"voice": "alloy", "api_key": True},
    "origins": {"voice": "default", "api_key": "panel"},
    "restart": False,
    "updated_at": AT,
    "updated_by": "ada",
}
LIVE_STREAM = {"data": f'{{"topic":"live","reset":false,"changed":[],"gone":["{SESSION}"]}}'}

A_KEY = {
    "id": KEY,
    "name": "website",
    "prefix": "rj_h5Vd02aQ",
    "scopes": ["talk"],
    "dev": False,
    "created_at": AT,
    "expires_at": AT + 7_776_000_000,
    "revoked_at": None,
    "last_used_at": None,
}
MADE_KEY = {"key": "rj_h5Vd02aQ-this-is-an-example-and-no-key", "record": A_KEY}

A_USER = {
    "id": USER,
    "name": "ada",
    "role": "operator",
    "created_at": AT,
    "created_by": KEY,
    "disabled_at": None,
    "last_login_at": None,
    "has_password": False,
}
MADE_USER = {
    "user": A_USER,
    "link": "http://127.0.0.1:8080/admin/login#token=this-is-an-example-and-no-token",
    "expires_at": AT + 86_400_000,
}
AN_AUDIT_ROW = {
    "id": 17,
    "at": AT,
    "actor": USER,
    "actor_name": "ada",
    "action": "session.say",
    "subject": SESSION,
    "detail": {"text": "Your taxi is here."},
    "address": "127.0.0.1",
}

A_WEBHOOK = {
    "id": WEBHOOK,
    "url": "https://example.com/hooks",
    "events": ["session.ended"],
    "description": "",
    "enabled": True,
    "created_at": AT,
    "failing_since": None,
    "disabled_at": None,
    "disabled_reason": None,
}
A_DELIVERY = {
    "id": DELIVERY,
    "type": "session.ended",
    "state": "delivered",
    "created_at": AT + 61_000,
    "next_attempt_at": None,
    "attempts": 1,
    "delivered_at": AT + 61_140,
    "status": 204,
    "error": None,
    "payload": {"type": "session.ended", "timestamp": "2026-11-24T12:10:28.711Z", "data": {"reason": "client_ended"}},
}

OFFER = {
    "plugins": [
        {
            "name": "acme",
            "distribution": "rejoinder-acme",
            "version": "0.1.0",
            "state": "degraded",
            "hooks": ["register_providers"],
            "error": "acme: was not ready within 120 s. See limits.warm_up_s.",
            "problems": [
                {
                    "stage": "warm_up",
                    "subject": "tts:acme",
                    "what": "acme: was not ready within 120 s. See limits.warm_up_s.",
                    "details": "",
                    "at": 1764000000000,
                    "count": 2,
                }
            ],
            "health": None,
        }
    ],
    "providers": [
        {
            "kind": "tts",
            "name": "acme",
            "summary": "Acme's voices.",
            "plugin": "acme",
            "capabilities": {"streaming": True, "languages": ["en"], "sample_rates": [24000], "word_times": False},
            "settings": {"title": "AcmeSettings", "type": "object", "properties": {}, "required": []},
        }
    ],
    "tools": [
        {
            "name": "clock",
            "description": "The time and the date.",
            "side_effects": False,
            "plugin": "tools",
            "parameters": {"type": "object", "properties": {}},
        }
    ],
}
READY = {"status": "ok", "draining": False, "sessions": 3, "store": "ok"}
NOT_READY = {"status": "not ready", "draining": True, "sessions": 1, "store": "ok"}

MODEL = {"id": "guide", "object": "model", "created": 1_795_522_167, "owned_by": "rejoinder"}
COMPLETION = {
    "id": "chatcmpl-01m86qc1wnenz81y1ckap48emn",
    "object": "chat.completion",
    "created": 1_795_522_167,
    "model": "guide",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "It is noon.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
    "system_fingerprint": None,
}
_TIMES = {"n": 1, "p50_us": 274_000, "p95_us": None, "p99_us": None}
LATENCY = {
    "since": AT,
    "until": AT + 120_000,
    "slot_ms": 60_000,
    "all": _TIMES,
    "slots": [{"at": AT, **_TIMES}, {"at": AT + 60_000, "n": 0, "p50_us": None, "p95_us": None, "p99_us": None}],
    "heatmap": {"edges_us": [200_000, 250_000, 312_500], "cells": [[0, 2, 1]]},
    "stages": [{"name": "endpointing", "hidden": 0, "n": 1, "p50_us": 272_000, "p95_us": None, "p99_us": None}],
    "groups": [{"value": "guide", **_TIMES}],
    "slowest": [
        {
            "session_id": SESSION,
            "turn_id": _TURN,
            "number": 1,
            "agent": "guide",
            "at": AT + 2_000,
            "response_us": 274_000,
            "user_text": "What time is it?",
            "spans": _SPANS,
            "providers": {"stt": "moonshine", "llm": "guide", "tts": "hibari"},
        }
    ],
}
_PART = {"sessions": 1, "turns": 1, "response": _TIMES, "errors": 0, "interrupted": 0}
OVERVIEW = {
    "since": AT,
    "until": AT + 120_000,
    "now": _PART,
    "before": {**_PART, "sessions": 0, "turns": 0, "response": {**_TIMES, "n": 0, "p50_us": None}},
    "bad": [{**A_SESSION, "end_reason": "vad_failed", "why": "ended: vad_failed"}],
    "slots": LATENCY["slots"],
    "slot_ms": 60_000,
}
SAID = {
    "session_id": SESSION,
    "agent": "guide",
    "turn_id": _TURN,
    "role": "user",
    "content": "What time is it?",
    "at": AT + 2_000,
}
RECORDING = {
    "session_id": SESSION,
    "rate": 16_000,
    "started_at": AT,
    "duration_ms": 61_000,
    "bytes": 3_904_044,
    "expires_at": AT + 30 * 86_400_000,
    "deleted_at": None,
    "available": True,
}
PEAKS = {"per_second": 100, "duration_ms": 60, "user": "AAAAAAAA", "agent": "AAQVIxgC"}
LLM_REQUEST = {
    "reply_id": _REPLY,
    "turn_id": _TURN,
    "position": 0,
    "at": AT + 1_900,
    "provider": "guide",
    "messages": [
        {"role": "system", "content": "You are a helpful voice assistant."},
        {"role": "user", "content": "What time is it?"},
    ],
    "tools": [{"name": "clock", "description": "The time now.", "parameters": {"type": "object", "properties": {}}}],
    "max_tokens": 300,
    "temperature": 0.3,
}
