from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rejoinder.manager import load_plugins
from rejoinder.providers import NoSettings, ProviderContext, TurnDetector, TurnSoFar
from rejoinder_plugins.turn.rules import Rules, judge_text

LIKELY, UNLIKELY = 0.75, 0.2
PHONE = "Sure. What is your phone number?"


@pytest.mark.parametrize(
    "text",
    [
        "I would like to",
        "I would like to.",  # recognisers end anything with a full stop
        "Could you tell me the",
        "I need a table for",
        "My name is.",
        "I was late because",
        "There are currently.",
        "Hello, I'm",
        "I live in",
        "It depends on whether they",
        "So",
        "Well.",
        "I mean...",
        "Yeah, but",
        "I think it's the, uh...",
        "Um.",
        "Hold on.",
        "Let me see.",
        "one two three",
    ],
)
def test_somebody_in_the_middle_of_a_phrase_is_not_done(text: str) -> None:
    assert (judge_text(text) or 1) <= UNLIKELY


@pytest.mark.parametrize(
    "text",
    [
        "Yes.",
        "no",
        "Yes, it is.",
        "Okay, thank you.",
        "Thanks, bye!",
        "Hello.",
        "Stop.",
        "cancel my order",
        "What time is it?",
        "Who are you going with?",
        "And when does it open?",
        "Never mind.",
        "I don't know.",
    ],
)
def test_a_whole_answer_question_or_command_is_done(text: str) -> None:
    assert (judge_text(text) or 0) >= LIKELY


@pytest.mark.parametrize("text", ["I went home.", "Turn it off.", "I'd like that one.", "The answer is in the book."])
def test_a_full_stop_alone_says_little(text: str) -> None:
    said = judge_text(text)
    assert said is not None
    assert 0.5 <= said < 0.7


@pytest.mark.parametrize("text", ["", "  ", "the weather is nice today", "turn it off", "?"])
def test_no_opinion_without_a_sign(text: str) -> None:
    assert judge_text(text) is None


def test_a_recogniser_that_writes_full_stops_and_left_it_out_heard_no_end() -> None:
    said = judge_text("The weather is nice")
    assert said is not None
    assert said < 0.5
    assert judge_text("the weather is nice") is None  # this one writes none


@pytest.mark.parametrize(
    ("text", "asked", "done"),
    [
        ("555 1234", PHONE, False),
        ("Five five five, one two", PHONE, False),
        ("It's 555-123-4567.", PHONE, True),
        ("Five five five, one two three, four five six seven.", PHONE, True),
        ("double five seven, one two three, four five six seven", PHONE, True),
        ("4 2 1 7", "What are the last four digits of your card?", True),
        ("4 2 1", "What are the last four digits of your card?", False),
        ("4111 1111 1111", "Please tell me your credit card number.", False),
        ("4111 1111 1111 1111", "Please tell me your credit card number.", True),
        ("90210", "And the ZIP code?", True),
        ("nine oh two", "And the ZIP code?", False),
        ("My number is five five five", "", False),
    ],
)
def test_a_number_is_done_when_it_has_its_digits(text: str, asked: str, done: bool) -> None:
    said = judge_text(text, asked)
    assert said is not None
    assert said >= LIKELY if done else said <= UNLIKELY


@pytest.mark.parametrize(
    "text", ["Book a table for two.", "I moved here in twenty twenty four.", "It is at 5:30.", "It's 4."]
)
def test_an_everyday_number_is_no_dictation(text: str) -> None:
    assert (judge_text(text) or 0.5) >= 0.5


def test_only_the_last_question_says_what_the_number_is() -> None:
    asked = "Your phone number is saved. How many people will come?"
    assert judge_text("4", asked) != judge_text("4", PHONE)


def test_half_a_sentence_may_be_a_whole_answer() -> None:
    for text in ("To leave a message.", "Because I was late.", "In the morning.", "The blue one."):
        assert (judge_text(text) or 0.5) < (judge_text(text, "What would you like?") or 0.5), text


@pytest.mark.parametrize("text", ["If it rains.", "When I come home.", "To leave a message."])
def test_a_condition_lacks_its_consequence(text: str) -> None:
    assert (judge_text(text) or 1) < 0.5
    assert (judge_text(f"{text[:-1]}, please call me.") or 0) > 0.5


def test_is_offered_and_speaks_english_only() -> None:
    unused: Any = None
    provider = load_plugins().provider("turn", "rules")
    detector = provider.create(ProviderContext(NoSettings(), unused, unused, unused))
    assert isinstance(detector, Rules)
    rules: TurnDetector = detector
    assert rules.wants_text

    async def judge(text: str, language: str) -> float | None:
        return await rules.judge(TurnSoFar(text, b"", 60, "", language))

    assert asyncio.run(judge("I would like to", "en-GB")) == judge_text("I would like to")
    assert asyncio.run(judge("I would like to", "de")) is None
