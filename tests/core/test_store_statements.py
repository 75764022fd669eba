"""The statements that write fit both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Dialect, make_url

from rejoinder.store.statements import Write, compile_writes, describe


def dialect_of(url: str, paramstyle: str) -> Dialect:
    kind: Any = make_url(url).get_dialect()
    dialect: Dialect = kind(paramstyle=paramstyle)
    return dialect


DIALECTS = [dialect_of("sqlite+aiosqlite://", "qmark"), dialect_of("postgresql+asyncpg://", "numeric_dollar")]


@pytest.mark.parametrize("dialect", DIALECTS, ids=["sqlite", "postgresql"])
@pytest.mark.parametrize("repeat", [False, True])
def test_each_write_has_its_statement(dialect: Dialect, repeat: bool) -> None:
    compiled = compile_writes(dialect, repeat=repeat)
    assert len(compiled) == len(Write)
    for write, sql in zip(Write, compiled, strict=True):
        assert "RETURNING" not in sql
        if sql.startswith("INSERT"):
            assert ("ON CONFLICT DO NOTHING" in sql) == (repeat or write is Write.SESSION)


def test_inserts_come_before_updates_and_parents_before_children() -> None:
    kinds = [sql.split()[0] for sql in compile_writes(DIALECTS[0], repeat=False)]
    assert kinds == sorted(kinds)
    parents = (Write.ROOM, Write.SESSION, Write.TURN)
    children = (Write.TOOL_CALL, Write.MESSAGE, Write.EVENT, Write.SPAN, Write.INTERRUPTION)
    assert list(parents) == sorted(parents)
    assert max(parents) < min(children)


def test_a_row_is_named_by_its_key_and_not_by_what_was_said() -> None:
    named = describe(Write.TURN_FINISHED, ("rep_1", "secret", "secret", "completed", 1, False, "turn_1"))
    assert named == "turns (reply_id='rep_1', id='turn_1')"
