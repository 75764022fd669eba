"""The chunker: a few words first, then as much as speech gives time for, and never a word lost."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.linear import within

from rejoinder.stages.chunker import Chunker


def chunks(*deltas: str, chunker: Chunker | None = None) -> list[str]:
    chunker = chunker or Chunker()
    return [chunk for delta in deltas for chunk in chunker.feed(delta)] + chunker.finish()


def tokens(text: str) -> list[str]:
    """As a model streams: words with the space before them."""
    return re.findall(r"\s*\S{1,6}", text)


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
        # The first words do not wait for the end of the clause.
        ("The capital of France is Paris.", ["The capital of France", "is Paris."]),
        ("I'm sorry, but I can not.", ["I'm sorry,", "but I can not."]),
        # They do not end with a word that leans on the next one, as far as one of the next two is better.
        ("We are open from nine until eleven.", ["We are open from nine", "until eleven."]),
        ("It should cost about 25 dollars for you.", ["It should cost about 25 dollars", "for you."]),
        ("Yes, you can find it on the table.", ["Yes, you can find", "it on the table."]),
        # Where none is better, an earlier one is.
        ("We think that it is on the table.", ["We think that it", "is on the table."]),
    ],
)
def test_text_is_cut_where_a_speaker_breathes(text: str, expected: list[str]) -> None:
    assert chunks(*tokens(text)) == expected


@pytest.mark.parametrize("piece", [".", "x", ".x", '."', ". ", " ", "\n ", "a. ", "。", ",", "a, ", " -", "a ", "字"])
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (400_000 // len(piece)) + "x"
    with within():
        cut = chunks(text)
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert max(map(len, cut)) < 1000


def test_what_is_there_at_once_is_not_cut_more_than_needed() -> None:
    assert chunks("Hello, I am Rejoinder. How can I help you today?") == [
        "Hello, I am Rejoinder.",
        "How can I help you today?",
    ]


def test_the_first_chunk_comes_with_the_first_words() -> None:
    chunker = Chunker()
    assert chunker.feed("Of course, ") == ["Of course,"]
    assert chunker.feed("that is easy, said the") == []
    assert chunker.feed(" model. Next") == ["that is easy, said the model."]
    chunker = Chunker()
    assert chunker.feed("The train leaves today") == []  # it may be "today's"
    assert chunker.feed(" from") == ["The train leaves today"]


def test_a_later_chunk_is_there_before_the_one_before_has_been_played() -> None:
    long = "we walk down that road today, then we look around here and there and walk back home again right away"
    first, second, *rest = chunks(*tokens(f"Yes. {long}, {long}."))
    assert first == "Yes."
    assert second == "we walk down that road today,"
    assert [len(chunk.split()) for chunk in rest] == [20, 14]
    assert chunks(*tokens(f"Now we all go. {long}."))[1] == "we walk down that road today,"
    assert chunks(*tokens(f"Now we all go. {long[:57]}."))[1] == f"{long[:57]}."


def test_the_numbers_are_the_callers() -> None:
    text = "alpha " * 30
    lengths = [len(chunk.split()) for chunk in chunks(*tokens(text), chunker=Chunker(2, 3, 2.0, 7))]
    assert lengths == [2, 4, 7, 7, 7, 3]
    assert [len(chunk.split()) for chunk in chunks(*tokens(text))] == [4, 16, 10]


def test_text_without_punctuation_or_spaces_is_cut_in_the_end() -> None:
    assert all(len(chunk.split()) <= 25 for chunk in chunks("word " * 200))
    assert [len(chunk) for chunk in chunks("x" * 1000)] == [400, 400, 200]


DELTAS = st.lists(st.text(alphabet="ab ,.!?\n3;", max_size=12), max_size=40)
WORDS = st.lists(
    st.sampled_from(["the", "of", "I'm", "table", "yes,", "no.", "Well,", "why?", "and", "12", "walks"]), max_size=60
)


@given(DELTAS)
def test_nothing_is_lost_or_added_however_the_text_is_cut_up(deltas: list[str]) -> None:
    whole = "".join(deltas)
    assert "".join("".join(chunks(*deltas)).split()) == "".join(whole.split())
    assert all(chunk and chunk == chunk.strip() for chunk in chunks(*deltas))


@given(WORDS)
def test_joined_with_spaces_the_chunks_are_the_text_and_none_is_too_long(words: list[str]) -> None:
    text = " ".join(words)
    for made in (chunks(text), chunks(*tokens(text))):
        assert " ".join(made) == text
        sizes = [len(chunk.split()) for chunk in made]
        assert all(size <= 6 + (len(sizes) == 1) for size in sizes[:1])
        last = len(sizes) - 2  # the end of the text may have a word more than to be left alone
        assert all(
            after <= max(6, min(25, 4 * before)) + (i == last) for i, (before, after) in enumerate(pairwise(sizes))
        )
        # One short word alone is only spoken where it is the sentence.
        assert all(len(chunk.split()) > 1 or len(chunk) > 6 or chunk[-1] in ".?" for chunk in made[:-1][:1])


@given(WORDS)
def test_the_first_chunk_waits_for_no_more_than_the_word_after_it_may_have(words: list[str]) -> None:
    chunker = Chunker()
    for at, token in enumerate(tokens(" ".join(words))):
        if chunker.feed(token):
            break
        assert len("".join(tokens(" ".join(words))[: at + 1]).split()) <= 7
