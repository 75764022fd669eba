"""The chunker: short first, whole sentences later, and never a word lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoinder.stages.chunker import Chunker


def chunks(*deltas: str) -> list[str]:
    chunker = Chunker()
    return [chunk for delta in deltas for chunk in chunker.feed(delta)] + chunker.finish()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Certainly, here it is. And more, of it.", ["Certainly,", "here it is.", "And more, of it."]),
        ("No. Yes.", ["No.", "Yes."]),
        ("Dr. Smith is here. Come in.", ["Dr. Smith is here.", "Come in."]),
        ("It costs 3.50 dollars. Fine.", ["It costs 3.50 dollars.", "Fine."]),
        ("1. First of all", ["1. First of all"]),
        ("Well, I do not know.", ["Well, I do not know."]),
        ("", []),
        ("one\ntwo", ["one", "two"]),
    ],
)
def test_text_is_cut_where_a_speaker_breathes(text: str, expected: list[str]) -> None:
    assert chunks(text) == expected


def test_the_first_chunk_comes_before_the_sentence_is_over() -> None:
    chunker = Chunker()
    assert chunker.feed("Of course, ") == ["Of course,"]
    assert chunker.feed("that is easy, said the") == []
    assert chunker.feed(" model. Next") == ["that is easy, said the model."]


def test_text_without_punctuation_is_cut_at_a_space_in_the_end() -> None:
    first, *rest = chunks("word " * 200)
    assert len(first) <= 400
    assert first.endswith("word")
    assert len(rest) == 2


@given(st.lists(st.text(alphabet="ab ,.!?\n3;", max_size=12), max_size=40))
def test_nothing_is_lost_or_added_however_the_text_is_cut_up(deltas: list[str]) -> None:
    whole = "".join(deltas)
    assert "".join("".join(chunks(*deltas)).split()) == "".join(whole.split())
    assert all(chunk and chunk == chunk.strip() for chunk in chunks(*deltas))
