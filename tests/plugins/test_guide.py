from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoinder.errors import ConfigError, MissingModel, ProviderError, UnknownName
from rejoinder.providers import (
    LlmDelta,
    LlmProvider,
    LlmRequest,
    Message,
    Prefilling,
    ProviderContext,
    ToolCall,
    ToolContext,
    ToolSchema,
)
from rejoinder_plugins.llm import guide
from rejoinder_plugins.llm.guide import NO_ANSWER, Guide, GuideSettings
from rejoinder_plugins.llm.guide.numbers import to_digits, to_expression, to_words
from rejoinder_plugins.llm.guide.places import PLACES
from rejoinder_plugins.llm.guide.rules import normalise
from rejoinder_plugins.tools import builtin
from rejoinder_plugins.tools.arithmetic import calculate

TOOLS = tuple(ToolSchema(name, "", {}) for name in ("clock", "calculator", "last_latency", "end_call"))
SYSTEM = Message("system", "Be brief.")
FALLBACK = "<fallback>"


class Scripted:
    """A fallback that says what it is told to, or fails."""

    def __init__(self, *deltas: LlmDelta | Exception, warm: Exception | None = None) -> None:
        self.deltas = deltas
        self.warm = warm
        self.requests: list[LlmRequest] = []
        self.warmed = False
        self.closed_streams = 0

    async def warm_up(self) -> None:
        if self.warm:
            raise self.warm
        self.warmed = True

    async def stream(self, request: LlmRequest) -> AsyncGenerator[LlmDelta, None]:
        self.requests.append(request)
        try:
            for delta in self.deltas:
                if isinstance(delta, Exception):
                    raise delta
                yield delta
        finally:
            self.closed_streams += 1

    async def close(self) -> None:
        pass


class NoModels:
    def path(self, name: str) -> Path:
        raise MissingModel(f"no model {name}", fix="none")


def make(fallback: LlmProvider | Exception | None = None, name: str | None = "other") -> Guide:
    def llm(wanted: str) -> LlmProvider:
        assert wanted == name
        if fallback is None or isinstance(fallback, Exception):
            raise fallback or UnknownName("llm provider", wanted, [])
        return fallback

    settings = msgspec.convert({"fallback": name}, GuideSettings)
    return Guide(ProviderContext(settings, NoModels(), lambda name, workers: ThreadPoolExecutor(workers), llm))


async def deltas_of(brain: Guide, *messages: Message, tools: tuple[ToolSchema, ...] = TOOLS) -> list[LlmDelta]:
    async with aclosing(brain.stream(LlmRequest((SYSTEM, *messages), tools))) as stream:
        return [delta async for delta in stream]


def user(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("user", text) for text in texts)


def answer(*messages: Message, tools: tuple[ToolSchema, ...] = TOOLS) -> tuple[str, ToolCall | None]:
    """The text and the tool call with which the guide answers."""
    deltas = asyncio.run(deltas_of(make(Scripted(FALLBACK)), *messages, tools=tools))
    calls = [delta for delta in deltas if isinstance(delta, ToolCall)]
    assert len(calls) <= 1
    return "".join(delta for delta in deltas if isinstance(delta, str)), calls[0] if calls else None


def after(call: ToolCall, result: str, *messages: Message) -> str:
    """What the guide says once `call` returned `result`."""
    return answer(*messages, Message("assistant", "", (call,)), Message("tool", result, tool_call_id=call.id))[0]


Called = tuple[str, dict[str, str]]

TIME: Called = ("clock", {})
LATENCY: Called = ("last_latency", {})
BYE: Called = ("end_call", {})


def zone(name: str) -> Called:
    return "clock", {"time_zone": name}


def calc(expression: str) -> Called:
    return "calculator", {"expression": expression}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # About Rejoinder.
        ("Who are you?", "I am Rejoinder"),
        ("what are you", "I am Rejoinder"),
        ("What's your name?", "I am Rejoinder"),
        ("What is Rejoinder?", "I am Rejoinder"),
        ("what is re-joinder", "I am Rejoinder"),
        ("What is a rejoin her?", "I am Rejoinder"),
        ("Tell me about yourself.", "I am Rejoinder"),
        ("Who am I talking to?", "I am Rejoinder"),
        ("What can you do?", "count to thirty"),
        ("um, so what can you do for me", "count to thirty"),
        ("Help!", "count to thirty"),
        ("What can I ask you?", "count to thirty"),
        ("How does it work?", "a voice speaks"),
        ("How do you work", "a voice speaks"),
        ("how does rejoinder work", "a voice speaks"),
        ("What about plugins?", "Everything is a plugin"),
        ("Are you open source?", "Apache"),
        ("Which license are you under? what license do you have", "Apache"),
        ("Why are you so fast?", "working ahead"),
        ("Are you a robot?", "No person"),
        ("are you human", "No person"),
        ("What model are you?", "No person"),
        ("How can I use a real language model?", "openai"),
        ("can I plug in OpenAI", "openai"),
        ("Do you need the internet?", "stays on this machine"),
        ("Who made you?", "open source"),
        # Time and date.
        ("What time is it?", TIME),
        ("WHAT TIME IS IT", TIME),
        ("Um, what's the time, please?", TIME),
        ("Could you tell me the time?", TIME),
        ("tell me what time it is", TIME),
        ("Hello, what time is it?", TIME),
        ("What time is it in Tokyo?", zone("Asia/Tokyo")),
        ("what's the time in new york right now", zone("America/New_York")),
        ("okay and what time is it now in san francisco", zone("America/Los_Angeles")),
        ("What time is it in Sydney, Australia?", zone("Australia/Sydney")),
        ("What time is it in Springfield?", TIME),
        ("What's the date?", TIME),
        ("what day is it today", TIME),
        ("What's today's date?", TIME),
        ("What is the date in Sydney?", zone("Australia/Sydney")),
        # Arithmetic.
        ("What is twelve plus thirty?", calc("12 + 30")),
        ("what's 12 + 30", calc("12 + 30")),
        ("Twelve plus thirty equals", calc("12 + 30")),
        ("twenty three times four point five", calc("23 * 4.5")),
        ("Twenty-three times four point five.", calc("23 * 4.5")),
        ("What's 15% of 80?", calc("(15 / 100) * 80")),
        ("what is fifteen percent of eighty", calc("(15 / 100) * 80")),
        ("square root of 81", calc("sqrt(81)")),
        ("What is the square root of eighty one?", calc("sqrt(81)")),
        ("how much is ten divided by four", calc("10 / 4")),
        ("Can you calculate seven minus nine?", calc("7 - 9")),
        ("two to the power of ten", calc("2 ** 10")),
        ("what is to plus to", calc("2 + 2")),
        ("What's 1,200 times 3?", calc("1200 * 3")),
        ("what is one hundred and five minus a thousand", calc("105 - 1000")),
        ("Add five and six", calc("5 + 6")),
        ("hey um what is (2+3)*4", calc("(2+3)*4")),
        ("what's half of ninety", calc("90 / 2")),
        ("nine squared", calc("9 ** 2")),
        # Latency.
        ("How fast was that?", LATENCY),
        ("how quick was that", LATENCY),
        ("How long did that take?", LATENCY),
        ("What's your latency?", LATENCY),
        ("and how fast are you", LATENCY),
        # Counting and repeating.
        ("Count to three.", "Okay. One, two, three. "),
        ("can you count to 3 please", "Okay. One, two, three. "),
        ("count too three", "Okay. One, two, three. "),
        ("Count from five to twelve", "Okay. Five, six, seven, eight, nine, ten, eleven, twelve. "),
        ("count from three down to one", "Okay. Three, two, one. "),
        ("Count backwards from five", "Okay. Five, four, three, two, one. "),
        ("count to a million", "That is a lot"),
        ("Repeat after me: the sky is Blue", "the sky is Blue."),
        ("repeat after me I like tea!", "I like tea!"),
        ("Please say good morning, Vietnam.", "good morning, Vietnam."),
        ("Repeat after me.", "What shall I repeat?"),
        # Small talk.
        ("Hello!", "Hello there."),
        ("hey there", "Hello there."),
        ("good morning", "Hello there."),
        ("How are you?", "Fine, thanks."),
        ("hi, how are you doing today", "Fine, thanks."),
        ("what's up", "Fine, thanks."),
        ("Thanks.", "You are welcome."),
        ("Okay, thank you very much!", "You are welcome."),
        ("Can you hear me?", "Yes, I hear you."),
        ("testing, one, two, three", "Yes, I hear you."),
        ("Tell me a joke.", "Why did the packet"),
        ("That's great!", "I do my best"),
        ("well done", "I do my best"),
        ("Yes.", "What would you like"),
        ("no, thanks", "ask when you need me"),
        ("Sorry.", "No problem"),
        ("", "did not catch that"),
        ("um", "did not catch that"),
        ("...", "did not catch that"),
        # Turn-taking.
        ("Stop.", "Okay."),
        ("stop stop stop", "Okay."),
        ("No, stop it", "Okay."),
        ("never mind", "Okay."),
        ("Okay, that's enough.", "Okay."),
        ("wait", "Okay."),
        # Goodbye.
        ("Goodbye!", BYE),
        ("bye bye", BYE),
        ("Okay, thank you, bye.", BYE),
        ("see you later", BYE),
        ("Please hang up.", BYE),
        # Everything else.
        ("What is the capital of France?", FALLBACK),
        ("how do you say goodbye", FALLBACK),
        ("How do you say goodbye in French?", FALLBACK),
        ("Tell me a story about time.", FALLBACK),
        ("what time do you close", FALLBACK),
        ("I have to go to the doctor tomorrow", FALLBACK),
        ("how fast is a cheetah", FALLBACK),
        ("How long is the Nile?", FALLBACK),
        ("who invented the internet", FALLBACK),
        ("I have 2 dogs and 3 cats", FALLBACK),
        ("I lost count", FALLBACK),
        ("how do I get a driver's license", FALLBACK),
        ("what can we do about climate change", FALLBACK),
        ("stop the war", FALLBACK),
        ("Tokyo", FALLBACK),
        ("Как дела?", FALLBACK),
        ("你好", FALLBACK),
        ("word " * 500, FALLBACK),
    ],
)
def test_what_it_says_to_what(said: str, expected: str | Called) -> None:
    text, call = answer(*user(said))
    if isinstance(expected, str):
        assert expected in text
        assert call is None
        assert (text == FALLBACK) == (expected == FALLBACK)
    else:
        assert call is not None
        assert (call.name, json.loads(call.arguments)) == expected
        assert text == ("Goodbye. It was nice talking to you." if expected == BYE else "")


# One sentence per line: each has words of a rule in it and asks for something else.
ORDINARY = """
no, don't hang up
wait, don't hang up
Please don't hang up.
never hang up
did you just hang up
Will you hang up?
are you going to hang up
Hi, good to see you.
good to see you
nice to see you
When can I see you?
where can I see you
will I see you
when will I see you
let me see you
I can see you
I can not see you
she said goodbye
he did not say goodbye
I never said goodbye
tell my mom goodbye
translate goodbye
is this goodbye
do you know goodbye
the song bye bye bye
my favourite song is goodbye
can I talk to you later
when will I talk to you soon
forget that, what is the weather
hold on a second, I have a question about prices
not now, but maybe later
can I run this model at home
I need to get a brain scan
bring my model train to the shop
are you free tomorrow
what is your license number
your code is broken
what does your source say
what is this song
who is this actor
what is this thing on my arm
what is your name for this dish
I know what you are
I do not want a joke
my boss is a joke
no more jokes
why is it so cold
is my internet connection down
how many milliseconds are in a minute
do you like the internet
where do you run in the morning
what day is your shop open
which day is it on Christmas
what year is this car from
what time is it when an elephant sits on your fence
what time is it in the movie
repeat the last sentence slower
repeat my order
say that again in German
2024-05-01
24/7
12/24
555-1234
(555) 123-4567
what did you say about refunds
how do you work with customers in Germany
is there a WordPress plugin for that
can you hear me out
thanks for nothing
is this good
what should I do
can you hang up on people
please do not end the call
why did you end the call
he wants to hang up the picture
goodbye yellow brick road
I have to go shopping
do I need to go
see you in court
that is all I wanted to ask about whales
I will talk to you about it later
what is the time limit for this test
what time does the train leave
what time is it when it is noon in Paris
time is money
the time in Paris was lovely
what day is Thanksgiving
what date was the moon landing
what month is the best to visit Japan
what is the day after tomorrow
how long did it take to build the pyramids
how fast can a horse run
how quick is the new iPhone
what is the latency of my network
tell me a joke about cats
are there jokes in Shakespeare
do you get the joke
the joke is on you
something funny happened today
what can I say
what can I do about my back pain
what do you know about France
help me write a letter
I need help with my homework
who are you voting for
what are you wearing
what is your name in Japanese
who is this about
do you like robots
are you a machine learning expert
who made you this angry
who wrote Hamlet
how do plugs work
how does it work out for them
how do you work out
can I bring my brain to work
use the other model of the printer
is my licence expired
do you cost more than a person
open source software is great, right
is the internet down in Berlin
do you like working offline
where do you run to
why is the sky so blue
how can it be so late
say hello in Spanish
say a prayer for me
repeat the order of the planets
count the planets
count on me
stop and think about it
wait for the bus
cancel my subscription
never mind the gap
hold on to your hat
not now but tomorrow
I am sorry for your loss
I love you more than chocolate
this is good news
no I want the other one
yes but why
it is five o'clock somewhere
my phone number is 555-123-4567
555-123-4567
1/2/2024
call me between 5 and 6
ten times better
he is over 18
what is the plus sign
I am two minus the hair
hello darkness my old friend
good morning America how are you
how are you going to fix it
what is up with you and him
can you hear me play the guitar
is anyone there for me
nice try
testing is important
I want to visit London
what about turkey for dinner
how about Paris in spring
stop talking about Paris
tell me what you said to him
what did I say about my sister
hang up your coat
i want to end this conversation about cats
end this nightmare
do not stop the call
you can hang up pictures
bye the way what is love
by the way who won
"""


@pytest.mark.parametrize("said", ORDINARY.strip().splitlines())
def test_ordinary_sentences_are_handed_to_the_model(said: str) -> None:
    assert answer(*user(said)) == (FALLBACK, None)
    assert answer(*user("I have no time."), Message("assistant", "Okay."), *user(said)) == (FALLBACK, None)


@pytest.mark.parametrize("said", ["I live in London", "my mother lives in Paris", "I want turkey", "in Paris", "Tokyo"])
def test_a_place_after_a_mention_of_time_is_no_question(said: str) -> None:
    assert answer(*user("I have no time."), Message("assistant", "Okay."), *user(said)) == (FALLBACK, None)


@pytest.mark.parametrize("said", ["I live in London", "my mother lives in Paris", "I want turkey"])
def test_a_sentence_with_a_place_is_no_follow_up(said: str) -> None:
    assert answer(*user("What time is it?"), Message("assistant", "Noon."), *user(said)) == (FALLBACK, None)


def test_follow_ups_may_follow_each_other() -> None:
    history = (
        *user("What time is it?"),
        Message("assistant", "Noon."),
        *user("And in Tokyo?"),
        Message("assistant", "x"),
    )
    _, call = answer(*history, *user("How about Sydney?"))
    assert call is not None
    assert json.loads(call.arguments) == {"time_zone": "Australia/Sydney"}


@pytest.mark.parametrize(
    "said",
    [
        "bye",
        "Goodbye.",
        "Okay, bye.",
        "thanks, bye",
        "no, thanks, bye",
        "I have to go.",
        "Okay, I have to go, bye!",
        "talk to you later",
        "I'll see you tomorrow",
        "Thank you, goodbye for now.",
        "hang up",
        "Hang up now, please.",
        "can you hang up",
        "have a nice day, bye",
        "That's all, thanks.",
        "end the call",
    ],
)
def test_real_goodbyes_end_the_call(said: str) -> None:
    _, call = answer(*user(said))
    assert call is not None
    assert call.name == "end_call"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Never mind, what time is it?", TIME),
        ("hold on, what is two plus two", calc("2 + 2")),
        ("not now, tell me the time instead", TIME),
        ("forget it, tell me a joke", "Why did the packet"),
        ("stop, count to three", "One, two, three."),
        ("Say, what time is it?", TIME),
        ("say what time is it in Tokyo", zone("Asia/Tokyo")),
    ],
)
def test_a_new_wish_in_the_same_sentence_is_answered(said: str, expected: str | Called) -> None:
    text, call = answer(*user(said))
    if isinstance(expected, str):
        assert expected in text
    else:
        assert call is not None
        assert (call.name, json.loads(call.arguments)) == expected


@pytest.mark.parametrize(
    ("said", "spoken"),
    [
        ("1 divided by 300000", "That makes about 0.000003333."),
        ("0 minus 1 divided by 300000", "That makes about minus 0.000003333."),
        ("1 divided by 30000000000", "That makes about 0.00000000003333."),
        ("100000 divided by 3", "That makes about 33333.3333."),
    ],
)
def test_small_results_are_spoken_as_plain_decimals(said: str, spoken: str) -> None:
    _, call = answer(*user(said))
    assert call is not None
    assert after(call, calculate(json.loads(call.arguments)["expression"]), *user(said)) == spoken


@pytest.mark.parametrize(
    ("said", "result", "expected"),
    [
        ("what time is it", {"time": "2:05 PM", "date": "Monday"}, "It is 2:05 PM."),
        ("what time is it in tokyo", {"time": "2:05 PM"}, "It is 2:05 PM in Tokyo."),
        ("what time is it in springfield now", {"time": "9:00 AM"}, "time zone of Springfield. Here it is 9:00 AM."),
        ("what's the date", {"date": "Friday, May 1, 2026"}, "It is Friday, May 1, 2026."),
        ("what time is it", "clock is broken", "Sorry, the clock did not work. clock is broken"),
        ("what is 12 plus 30", "42", "That makes 42."),
        ("7 minus 9", "-2", "That makes minus 2."),
        ("10 divided by 3", "3.33333333333", "That makes about 3.3333."),
        ("1 divided by 3000", "0.000333333333333", "That makes about 0.0003333."),
        ("1 divided by 0", "Division by zero has no result.", "Sorry, that does not work. Division by zero"),
        ("how fast was that", "The last answer took 5 milliseconds.", "The last answer took 5 milliseconds."),
        ("goodbye", "The call ends after this answer.", ""),
    ],
)
def test_puts_the_result_of_a_tool_into_words(said: str, result: Any, expected: str) -> None:
    _, call = answer(*user(said))
    assert call is not None
    text = after(call, result if isinstance(result, str) else json.dumps(result), *user(said))
    assert (expected in text) if expected else not text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("What is twenty three times four point five?", r"That makes 103\.5\."),
        ("what's fifteen percent of eighty", r"That makes 12\."),
        ("the square root of two", r"That makes about 1\.4142\."),
        ("What time is it in Tokyo?", r"It is \d+:\d\d [AP]M in Tokyo\."),
        ("what day is it", r"It is \w+day, \w+ \d+, \d{4}\."),
        (
            "how fast was that",
            r"The last answer took 640 milliseconds\. The biggest parts: 640 for the language model\.",
        ),
    ],
)
def test_the_built_in_tools_and_the_guide_understand_each_other(said: str, expected: str) -> None:
    tools = {tool.name: tool for tool in builtin.register_tools()}
    context = ToolContext("ses_1", lambda: {"response_ms": 640, "spans": {"llm": 640}}, lambda reason: None)
    _, call = answer(*user(said))
    assert call is not None

    async def run() -> str:
        return await tools[call.name].run(json.loads(call.arguments), context)

    assert re.fullmatch(expected, after(call, asyncio.run(run()), *user(said)))


def test_the_result_of_a_tool_it_never_called_is_said_as_it_is() -> None:
    assert after(ToolCall("x", "weather", "{}"), "It rains.", *user("hello")) == "It rains."
    orphan = Message("tool", "It rains.", tool_call_id="gone")
    assert answer(orphan)[0] == "It rains."


@pytest.mark.parametrize("said", ["what time is it", "2 plus 2", "how fast was that"])
def test_without_the_tool_it_says_so(said: str) -> None:
    text, call = answer(*user(said), tools=())
    assert call is None
    assert text.startswith("Sorry, ")


def test_goodbye_needs_no_tool() -> None:
    assert answer(*user("bye"), tools=()) == ("Goodbye. It was nice talking to you.", None)


def test_counting_streams_one_number_per_delta_in_sentences_of_ten() -> None:
    deltas = asyncio.run(deltas_of(make(), *user("count to thirty")))
    assert len(deltas) == 31
    text = "".join(str(delta) for delta in deltas)
    sentences = text.removeprefix("Okay. ").rstrip(". ").split(". ")
    numbers = [sentence.lower().split(", ") for sentence in sentences]
    assert [len(part) for part in numbers] == [10, 10, 10]
    assert [to_digits(word) for part in numbers for word in part] == [str(n) for n in range(1, 31)]


def test_text_streams_a_few_words_at_a_time() -> None:
    deltas = [str(delta) for delta in asyncio.run(deltas_of(make(), *user("what can you do")))]
    assert len(deltas) > 5
    assert all(len(delta.split()) <= 3 for delta in deltas)
    assert "".join(deltas).startswith("Quite a bit. I tell")


def test_it_reads_the_history() -> None:
    history = (*user("I like tea."), Message("assistant", "Do you?"))
    assert answer(*history, *user("What did I just say?"))[0] == "You said: I like tea."
    assert answer(*history, *user("what did you say"))[0] == "I said: Do you?"
    assert answer(*history, *user("say that again"))[0] == "I said: Do you?"
    assert answer(*user("what did i say"))[0].startswith("Nothing yet.")
    assert answer(*user("pardon"))[0].startswith("Nothing yet.")


def test_it_repeats_for_who_speaks_on_and_hears_only_the_beginning_of_the_question() -> None:
    history = (*user("Repeat after me."), Message("assistant", "Sure,... [interrupted by the user]"))
    assert answer(*history, *user("The quick brown fox"))[0] == "The quick brown fox."


def test_it_does_not_read_out_that_it_was_interrupted() -> None:
    history = (*user("Tell me a story."), Message("assistant", "Once upon... [interrupted by the user]"))
    assert answer(*history, *user("What did you say?"))[0] == "I said: Once upon."


def test_it_repeats_what_comes_after_it_asked() -> None:
    asked, _ = answer(*user("repeat after me"))
    history = (*user("repeat after me"), Message("assistant", asked))
    assert answer(*history, *user("Stop the press"))[0] == "Stop the press."
    assert answer(*history, *user("one"), Message("assistant", "one."), *user("Stop."))[0] == "Okay."


def test_jokes_change() -> None:
    history: list[Message] = []
    jokes = set()
    for _ in range(3):
        history += user("tell me another joke")
        text, _call = answer(*history)
        history.append(Message("assistant", text))
        jokes.add(text)
    assert len(jokes) == 3


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("What time is it", "in Tokyo?"), zone("Asia/Tokyo")),
        (("what is twelve", "plus thirty"), calc("12 + 30")),
        (("what is twelve plus", "thirty", "times two"), calc("12 + 30 * 2")),
        (("count to", "three"), "One, two, three. "),
        (("repeat after me", "the sky"), "the sky."),
        # A new wish is not mixed up with the old one.
        (("count to thirty", "stop"), "Okay."),
        (("what time is it", "what is two plus two"), calc("2 + 2")),
        (("tell me about whales", "and their songs"), FALLBACK),
    ],
)
def test_going_on_after_an_interruption(texts: tuple[str, ...], expected: str | Called) -> None:
    text, call = answer(*user("hello"), Message("assistant", "Hello"), *user(*texts))
    if isinstance(expected, str):
        assert text.endswith(expected)
    else:
        assert call is not None
        assert (call.name, json.loads(call.arguments)) == expected
        answered = after(call, "42", *user(*texts))
        assert answered.startswith("That makes 42." if call.name == "calculator" else "Sorry, the clock")


def test_follow_up_about_another_place() -> None:
    call = ToolCall("c", "clock", "{}")
    history = (*user("What time is it?"), Message("assistant", "", (call,)), Message("tool", "{}", tool_call_id="c"))
    history += (Message("assistant", "It is noon."),)
    _, follow_up = answer(*history, *user("And in Tokyo?"))
    assert follow_up is not None
    assert json.loads(follow_up.arguments) == {"time_zone": "Asia/Tokyo"}


@pytest.mark.parametrize("messages", [(), (SYSTEM,), (*user("hi"), Message("assistant", "Hel"))])
def test_when_nobody_asked_it_still_says_something(messages: tuple[Message, ...]) -> None:
    assert answer(*messages)[0] == "I am here. What can I do for you?"


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text_gets_an_answer(said: str, before: str) -> None:
    text, call = answer(*user(before), Message("assistant", before), *user(said))
    assert text or call
    text, call = answer(*user(before, said))
    assert text or call


@settings(deadline=None)
@given(st.text(alphabet="0123456789 .-+*/%()'twopluscountofsayand", max_size=60))
def test_any_babble_of_numbers_gets_an_answer(said: str) -> None:
    text, call = answer(*user(said))
    assert text or call


@pytest.mark.parametrize(
    "text", ["a " * 299, "1" * 600, "((" * 300, "what is " * 75, "is is " * 99, "1 + " * 149, "x" * 600]
)
def test_long_texts_are_read_quickly(text: str) -> None:
    # A pattern that backtracks without bound would not come back at all.
    assert answer(*user(text)) == (FALLBACK, None)


# --- numbers and places ---------------------------------------------------------------------------------------


def test_number_words_round_trip() -> None:
    for number in range(10_000):
        words = to_words(number)
        assert to_digits(words) == str(number)
        assert to_digits(words.replace("-", " ")) == str(number)
        assert to_digits(words.replace("hundred ", "hundred and ")) == str(number)


@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_words_for_small_numbers_only(number: int) -> None:
    with pytest.raises(ValueError, match="not between"):
        to_words(number)


@pytest.mark.parametrize(
    ("said", "digits"),
    [
        ("three million two hundred thousand and six", "3200006"),
        ("2.5 million", "2500000"),
        ("3 hundred", "300"),
        ("twelve hundred", "1200"),
        ("a hundred and a half", "100 and a half"),
        ("two thirty", "2 30"),
        ("one two three", "1 2 3"),
        ("twenty and five", "20 and 5"),
        ("point five", "0.5"),
        ("three point one four", "3.14"),
        ("three point fourteen", "3.14"),
        ("zero point oh five", "0.05"),
        ("the point is five", "the point is 5"),
        ("a dog and an apple", "a dog and an apple"),
        ("9" * 30 + " thousand", "9" * 30 + " 1000"),
    ],
)
def test_numbers_inside_text(said: str, digits: str) -> None:
    assert to_digits(said) == (digits if not said.startswith("999") else said)


@settings(deadline=None)
@given(st.integers(0, 999_999), st.integers(1, 999_999), st.sampled_from(["plus", "minus", "times", "divided by"]))
def test_spoken_arithmetic_is_calculated_right(left: int, right: int, operator: str) -> None:
    expression = to_expression(to_digits(normalise(f"What is {to_words(left)} {operator} {to_words(right)}?")))
    assert expression is not None
    value = {"plus": left + right, "minus": left - right, "times": left * right, "divided by": left / right}[operator]
    assert float(calculate(expression)) == pytest.approx(value)


def test_every_place_has_a_zone_that_exists() -> None:
    import zoneinfo

    assert set(PLACES.values()) <= zoneinfo.available_timezones()


# --- the fallback ---------------------------------------------------------------------------------------------


def test_the_fallback_gets_the_conversation_without_tools_and_is_passed_through() -> None:
    fallback = Scripted("Whales ", "sing.", ToolCall("x", "clock", "{}"))
    call = ToolCall("c", "clock", "{}")
    history = (
        *user("What time is it?"),
        Message("assistant", "", (call,)),
        Message("tool", "noon", tool_call_id="c"),
        Message("assistant", "It is noon."),
        *user("Why do whales sing?"),
    )

    async def body() -> None:
        brain = make(fallback)
        await brain.warm_up()
        assert fallback.warmed
        assert await deltas_of(brain, *history) == ["Whales ", "sing."]
        await brain.close()
        await brain.close()

    asyncio.run(body())
    (request,) = fallback.requests
    assert request.tools == ()
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "What time is it?"),
        ("assistant", "It is noon."),
        ("user", "Why do whales sing?"),
    ]
    assert not any(message.tool_calls for message in request.messages)


def test_closing_the_stream_closes_the_fallbacks() -> None:
    fallback = Scripted("One", "two", "three")

    async def body() -> None:
        async with aclosing(make(fallback).stream(LlmRequest(user("Why do whales sing?")))) as stream:
            assert await anext(stream) == "One"
        assert fallback.closed_streams == 1

    asyncio.run(body())


@pytest.mark.parametrize(
    ("fallback", "name"),
    [
        (None, None),
        (Scripted("unused", warm=MissingModel("no file", fix="pull it")), "other"),
        (Scripted(ProviderError("other", "broken")), "other"),
        (Scripted(), "other"),
    ],
)
def test_without_a_working_fallback_it_is_honest(
    fallback: Scripted | None, name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> str:
        brain = make(fallback, name)
        await brain.warm_up()
        return "".join(str(delta) for delta in await deltas_of(brain, *user("Why do whales sing?")))

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(body()) == NO_ANSWER
    if fallback and fallback.warm:
        assert "pull it" in caplog.text
        assert not fallback.requests


def test_it_can_not_be_its_own_fallback() -> None:
    with pytest.raises(UnknownName):
        asyncio.run(make(None, "missing").warm_up())
    with pytest.raises(ConfigError, match="its own fallback"):
        make(name="guide")


def test_a_fallback_that_breaks_after_its_first_word_is_an_error() -> None:
    brain = make(Scripted("Whales", ProviderError("other", "broken")))
    with pytest.raises(ProviderError, match="broken"):
        asyncio.run(deltas_of(brain, *user("Why do whales sing?")))


def test_other_failures_of_the_warm_up_are_told() -> None:
    with pytest.raises(ProviderError, match="broken"):
        asyncio.run(make(Scripted(warm=ProviderError("other", "broken"))).warm_up())


def test_it_is_registered() -> None:
    (offer,) = guide.register_providers()
    assert (offer.kind, offer.name, offer.settings().fallback) == ("llm", "guide", "llamacpp")  # type: ignore[attr-defined]


class Reading(Scripted):
    """A fallback that can read ahead."""

    def __init__(self) -> None:
        super().__init__(FALLBACK)
        self.read: list[LlmRequest] = []

    async def prefill(self, request: LlmRequest) -> None:
        self.read.append(request)


def test_what_no_rule_answers_is_prefilled_by_the_fallback() -> None:
    async def run() -> None:
        fallback = Reading()
        brain = make(fallback)
        await brain.warm_up()
        assert isinstance(brain, Prefilling)
        call = ToolCall("c1", "clock", "{}")
        past = (*user("what time is it"), Message("assistant", "", (call,)), Message("tool", "noon", tool_call_id="c1"))
        for text in ("", "why is", "what time is it", "why is the sky"):
            await brain.prefill(LlmRequest((SYSTEM, *past, *user(text)), TOOLS, 20, 0.5))
        await brain.prefill(LlmRequest((SYSTEM, *past), TOOLS))
        await brain.prefill(LlmRequest(()))
        assert [request.messages[-1].content for request in fallback.read] == ["", "why is", "why is the sky"]
        async with aclosing(
            brain.stream(LlmRequest((SYSTEM, *past, *user("why is the sky")), TOOLS, 20, 0.5))
        ) as stream:
            assert [delta async for delta in stream] == [FALLBACK]
        assert fallback.read[-1] == fallback.requests[-1]

    asyncio.run(run())


def test_a_fallback_that_cannot_prefill_is_not_asked_to() -> None:
    async def run() -> None:
        for brain in (make(Scripted(FALLBACK)), make(name=None)):
            await brain.warm_up()
            await brain.prefill(LlmRequest((SYSTEM, *user("why is")), TOOLS))

    asyncio.run(run())
