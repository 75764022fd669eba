"""The browser client's types say what the server's events are: the same names, fields and ones that may be missing."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
import pytest
from tests.web.webbuild import web_build

from rejoinder.events import Event, ServerEvent, Span

SOURCE = (web_build.SOURCES / "client" / "src" / "events.ts").read_text("utf-8")
FIELD = re.compile(r"(\w+)(\??):")
BASE = {field.name for field in msgspec.structs.fields(Event)}


def fields_in(body: str) -> dict[str, bool]:
    """The fields, and whether each may be missing."""
    code = re.sub(r"/\*\*.*?\*/", "", body, flags=re.DOTALL)
    return {name: bool(mark) for name, mark in FIELD.findall(code)}


def interfaces() -> dict[str, dict[str, bool]]:
    found = re.findall(r'extends Base<"([^"]+)"> \{(.*?)\}\n', SOURCE, flags=re.DOTALL)
    return {tag: fields_in(body) for tag, body in found}


def fields_of(struct: type[msgspec.Struct]) -> dict[str, bool]:
    return {field.name: not field.required for field in msgspec.structs.fields(struct) if field.name not in BASE}


def test_every_event_has_a_type() -> None:
    assert set(interfaces()) == {event.__struct_config__.tag for event in get_args(ServerEvent)}


@pytest.mark.parametrize("event", get_args(ServerEvent), ids=lambda event: event.__name__)
def test_a_type_has_the_fields_of_its_event(event: type[msgspec.Struct]) -> None:
    assert interfaces()[str(event.__struct_config__.tag)] == fields_of(event)


def test_so_have_spans() -> None:
    body = re.search(r"interface Span \{(.*?)\}\n", SOURCE)
    assert body
    assert fields_in(body[1]) == fields_of(Span)
