"""Spans sum to the whole by construction; jitter is RFC 3550's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.metrics import SPANS, Jitter, TurnTimer

moments = st.floats(0, 100)


@given(moments, st.dictionaries(st.sampled_from([mark for _, mark in SPANS]), moments))
def test_spans_are_contiguous_and_sum_to_the_response(start: float, marks: dict[str, float]) -> None:
    timer = TurnTimer(start)
    for name, at in marks.items():
        timer.mark(name, at)  # type: ignore[arg-type]
    spans = timer.spans()
    reached = max([start, *marks.values()])
    assert sum(span.us for span in spans) == round(reached * 1e6) - round(start * 1e6)
    assert [span.name for span in spans] == [name for name, mark in SPANS if mark in marks]
    assert all(span.us == 0 for span in spans if span.hidden)


def test_a_stage_hidden_by_speculation_has_length_zero() -> None:
    timer = TurnTimer(10.0)
    timer.mark("decision", 10.3)
    timer.mark("transcript", 10.2)
    timer.mark("first_token", 10.35)
    assert [(span.name, span.us, span.hidden) for span in timer.spans()] == [
        ("endpointing", 300_000, False),
        ("stt", 0, True),
        ("llm", 50_000, False),
    ]


def test_only_the_first_moment_of_a_kind_counts() -> None:
    timer = TurnTimer(1.0)
    timer.mark("sent", 2.0)
    timer.mark("sent", 3.0)
    assert timer.spans()[0].us == 1_000_000


def test_jitter_is_the_smoothed_difference_of_lateness() -> None:
    jitter = Jitter()
    for late in (0.0, 0.016, 0.016):
        jitter.packet(1.0 + late, 1.0)
    assert jitter.value == pytest.approx(0.001 * 15 / 16)
    jitter.restart()
    jitter.packet(9.0, 1.0)
    assert jitter.value == pytest.approx(0.001 * 15 / 16)
