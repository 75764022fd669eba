"""Events and commands: their JSON, and the page that documents them."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.bus import Bus
from rejoinder.clock import SystemClock
from rejoinder.errors import ProtocolError
from rejoinder.events import (
    COMMAND_TYPES,
    ClientCommand,
    ReplyText,
    ServerEvent,
    Span,
    TurnMetrics,
    decode_command,
    decode_event,
    encode,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"


def tag(kind: type) -> str:
    return str(msgspec.inspect.type_info(kind).tag)  # type: ignore[attr-defined]


def fields(kind: type) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)} - {"seq", "at", "session_id"}


@pytest.mark.parametrize("kind", [*get_args(ServerEvent), *get_args(ClientCommand)], ids=lambda kind: kind.__name__)
def test_every_event_is_documented_with_all_its_fields(kind: type) -> None:
    row = re.search(rf"^\| `{re.escape(tag(kind))}` \|([^|]*)\|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row, f"{tag(kind)} is missing in {PAGE.name}"
    assert fields(kind) == set(re.findall(r"`([a-z_]+)`", row.group(1))) - {"audio", "text"} | (
        fields(kind) & {"audio", "text"}
    )


def test_an_event_survives_the_wire() -> None:
    event = TurnMetrics(turn_id="t", reply_id="r", response_us=5, spans=[Span("llm", 5, hidden=True)])
    assert decode_event(encode(event)) == event


def test_the_bus_numbers_without_gaps() -> None:
    seen: list[int] = []
    bus = Bus("ses_1", SystemClock())
    stop = bus.subscribe(lambda event, data: seen.append(decode_event(data).seq))
    for _ in range(3):
        bus.publish(ReplyText(reply_id="r", delta="x"))
    stop()
    stop()
    bus.publish(ReplyText(reply_id="r", delta="unseen"))
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"hello", "bad_json"),
        (b"\xff\xfe", "bad_json"),
        (b"", "bad_json"),
        (b"[1]", "bad_message"),
        (b"{}", "bad_message"),
        (b'{"type": "dance"}', "unknown_event"),
        (b'{"type": 7}', "unknown_event"),
        (b'{"type": "text"}', "bad_message"),
        (b'{"type": "text", "text": 7}', "bad_message"),
        (b'{"type": "text", "text": "a", "volume": 3}', "bad_message"),
        (b'{"type": "playback", "reply_id": "r", "played_ms": "much"}', "bad_message"),
    ],
)
def test_a_bad_message_is_refused_with_what_why_and_what_to_do(data: bytes, code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_command(data)
    assert caught.value.code == code
    assert caught.value.fix


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(msgspec.json.encode),
    )
)
def test_nothing_a_client_sends_raises_anything_else(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_command(data)


def test_the_list_of_command_types_is_complete() -> None:
    assert sorted(COMMAND_TYPES) == sorted(tag(kind) for kind in get_args(ClientCommand))
