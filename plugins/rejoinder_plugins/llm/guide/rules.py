"""What the guide says to what: a table of patterns, the first that matches answers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rejoinder.journal import without_note
from rejoinder.providers import Message
from rejoinder_plugins.llm.guide.numbers import to_digits, to_expression, to_words
from rejoinder_plugins.llm.guide.places import find_place, is_place

MAX_CHARS = 600
"""Longer texts match no rule."""
COUNT_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Ask:
    """What the user said, in the forms a handler may need."""

    text: str
    """Normalised: lower case, numbers as digits, no punctuation, fillers or politeness."""
    original: str
    match: re.Match[str]
    earlier: Sequence[Message]
    """The conversation before this."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What to say, and optionally a tool to call after it whose result `then` puts into words."""

    say: str | tuple[str, ...] = ""
    """Text (streamed a few words at a time), or the very pieces to stream."""
    tool: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    then: Callable[[str], str] = str
    without: str = ""
    """Said instead when the agent has not got the tool."""


Handler = Callable[[Ask], "Reply | str | None"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern matched at the start of the normalised text, and the answer: fixed text or a handler.

    A handler that returns None lets the next rule try.
    """

    pattern: re.Pattern[str]
    answer: str | Handler


def reply_to(original: str, earlier: Sequence[Message]) -> Reply | None:
    """The answer of the first rule that matches `original`, said after the messages `earlier`; None if no rule does."""
    if len(original) > MAX_CHARS:
        return None
    text = normalise(original)
    for rule in RULES:
        if found := rule.pattern.match(text):
            ask = Ask(text, original, found, earlier)
            answer = rule.answer if isinstance(rule.answer, str) else rule.answer(ask)
            if answer is not None:
                return Reply(answer) if isinstance(answer, str) else answer
    return None


# --- normalising ----------------------------------------------------------------------------------------------

_CONTRACTIONS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b(what|who|how|where)'?s\b(?=\s+\S)(?! up\b)", r"\1 is"),
        (r"\b(that|it|there|here|when)'s\b", r"\1 is"),
        (r"\b(what|who|how)'?re\b", r"\1 are"),
        (r"\bwon't\b", "will not"),
        (r"\bcan'?t\b|\bcannot\b", "can not"),
        (r"(?<=[a-z])n't\b", " not"),
        (r"(?<=[a-z])'re\b", " are"),
        (r"(?<=[a-z])'m\b", " am"),
        (r"(?<=[a-z])'ll\b", " will"),
        (r"(?<=[a-z])'ve\b", " have"),
        (r"\blet's\b", "let us"),
        # What recognisers make of the name.
        (r"\bre[- ]?join(?:ders?|er|ed her|ing her| her)\b", "rejoinder"),
    )
]
_FILLERS = re.compile(r"\b(?:u+h+m*(?! huh)|u+m+|e+rm*|h+m+|ah+|please|i mean|kindly)\b")
_LEADING = re.compile(
    r"^(?:(?:okay|ok|so|well(?! done)|and|but|now|oh|right|alright|all right|yeah|computer|actually|then|just|maybe)\s+"
    r"|(?:hi|hello|hey)(?: there| rejoinder)? (?=(?:what|how|who|can|could|count|tell|say|repeat|is|are|do)\b)"
    r"|(?:can|could|would|will) you (?=(?:just |maybe )?"
    r"(?:count|say|repeat|tell|stop|calculate|compute|explain|add|help|give|be)\b)"
    # "Will you hang up?" is a question.
    r"|(?:can|could|would) you (?=(?:just )?(?:hang up|end)\b)"
    # A new wish takes back the one before it: "never mind, what time is it".
    r"|(?:never ?mind|hold on|wait|stop|no|not now|forget (?:it|that|about it)|that is enough|thanks|thank you)"
    r"(?: (?:it|that|now|a (?:moment|minute|second)))? "
    r"(?=(?:what|how|who|which|tell|count|say|calculate|can|could|repeat after)\b)"
    r"|say (?=(?:what|how|who|which|where|when|why) (?:is|are|am|do|does|did|can|time|day|much|many|fast)\b)"
    r"|(?:i want you to|i would like you to)\s+"
    r"|(?:i would like to know|i want to know|do you know) (?=(?:what|how|who|which|the|a|any|some|jokes)\b))"
)
_NAME = re.compile(r"\b(?:the|a) rejoinder\b")


def normalise(text: str) -> str:
    """`text` in one plain form: "Um, what's TWENTY-three plus 4, please?" -> "what is 23 + 4"."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"[.:](?!\d)|[,;!?\"“”„…—¿¡<>\[\]{}_~`#|\\]|(?<![a-z])'|'(?![a-z])", " ", text)
    text = re.sub(r"(?<=[a-z])\s*-\s*(?=[a-z])", " ", text)
    for pattern, replacement in _CONTRACTIONS:
        text = pattern.sub(replacement, text)
    text = " ".join(_FILLERS.sub(" ", text).split())
    while (shorter := _LEADING.sub("", text)) != text and shorter:
        text = shorter
    return to_digits(_NAME.sub("rejoinder", text))


# --- handlers -------------------------------------------------------------------------------------------------


_NO_PLACE = re.compile(r"(?:the|this|that|my|your|his|her|our|their|a|an|all|which|what)\b|.*\b(?:in|at|when|if|on)\b")


def _spoken_time(ask: Ask) -> Reply | None:
    where = ask.match.group("where")
    if where is None:
        return _clock({}, lambda now: f"It is {now['time']}.")
    place = find_place(where)
    if _NO_PLACE.match(where) and not is_place(where):
        return None
    if place and not is_place(where) and not is_place(where.rpartition(" ")[0]):
        # One word may follow that is not known itself: "Sydney, Australia".
        return None
    if place:
        name, zone = place
        return _clock({"time_zone": zone}, lambda now: f"It is {now['time']} in {name}.")
    unknown = where.title()
    return _clock({}, lambda now: f"Sorry, I do not know the time zone of {unknown}. Here it is {now['time']}.")


def _time_there(ask: Ask) -> Reply | None:
    """Answers e.g. "and in Tokyo?" after a question about the time, or after another such follow-up."""
    if not is_place(ask.match.group("where")):
        return None
    for message in reversed(ask.earlier):
        if message.role == "user":
            asked = normalise(message.content)
            if _TIME.pattern.match(asked):
                return _spoken_time(ask)
            again = _TIME_THERE.pattern.match(asked)
            if again is None or not is_place(again.group("where")):
                return None
    return None


def _spoken_date(ask: Ask) -> Reply | None:
    where = ask.match.group("where")
    place = find_place(where) if where and is_place(where) else None
    if where and place is None:
        return None
    return _clock({"time_zone": place[1]} if place else {}, lambda now: f"It is {now['date']}.")


def _clock(arguments: dict[str, Any], phrase: Callable[[dict[str, str]], str]) -> Reply:
    def then(result: str) -> str:
        try:
            return phrase(json.loads(result))
        except (ValueError, KeyError, TypeError):
            return f"Sorry, the clock did not work. {result}"

    return Reply("", "clock", arguments, then, "Sorry, I have no clock here. This agent has not got the clock tool.")


# A date, a phone number, "24/7": digits around a dash or slash that nobody asked to calculate.
_NO_SUM = re.compile(r"(?:(?:the|is) )*[+(]?[\d() ]*\d[-/]\d[\d()/ -]*")


def _arithmetic(ask: Ask) -> Reply | None:
    if len(ask.text) > 150 or _NO_SUM.fullmatch(ask.text):
        return None
    expression = to_expression(ask.text)
    if expression is None:
        return None

    def then(result: str) -> str:
        value = result.strip()
        if not re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", value):
            return f"Sorry, that does not work. {value}"
        whole, _, decimals = value.partition(".")
        about = "about " if len(decimals) > 4 else ""
        if about:
            # Through Decimal, because a voice can not read "3.333e-06".
            exact = Decimal(value)
            exact = Decimal(f"{exact:.3e}") if whole in ("0", "-0") else exact
            value = f"{exact:f}" if whole in ("0", "-0") else f"{exact:.4f}"
            value = value.rstrip("0").rstrip(".")
        return f"That makes {about}{value.replace('-', 'minus ')}."

    return Reply(
        "",
        "calculator",
        {"expression": expression},
        then,
        "Sorry, I have no calculator. This agent has not got that tool.",
    )


def _latency(ask: Ask) -> Reply:
    return Reply(
        "", "last_latency", {}, str, "Sorry, I can not tell. This agent has not got the tool that reads my latency."
    )


def _count(ask: Ask) -> Reply | str:
    first, last = ask.match.group("first"), ask.match.group("last")
    down = bool(re.search(r"\b(?:backwards?|down)\b", ask.text))
    start = int(first[:9]) if first else (10 if down else 1)
    end = int(last[:9]) if last else (1 if down else 10)
    if first and not last and not down:
        end = start + 9
    if abs(end - start) >= COUNT_LIMIT or max(start, end) > 9999:
        return f"That is a lot. I count up to {COUNT_LIMIT} numbers; try: count to thirty."
    return Reply(("Okay. ", *_numbers(start, end)))


def _numbers(start: int, end: int) -> Iterator[str]:
    step = 1 if end >= start else -1
    numbers = list(range(start, end + step, step))
    for position, number in enumerate(numbers, 1):
        word = to_words(number)
        opens = position % 10 == 1
        closes = position % 10 == 0 or position == len(numbers)
        yield (word.capitalize() if opens else word) + (". " if closes else ", ")


_WHAT_TO_REPEAT = "Sure, go ahead. What shall I repeat?"
_REPEAT = re.compile(r"\b(?:repeat after me|say after me|repeat|say)\b[\s,:.;!\"“”'-]*", re.IGNORECASE)


def _repeat(ask: Ask) -> str | None:
    said = _REPEAT.split(ask.original, maxsplit=1)
    words = said[1].strip().strip("\"“”'").strip() if len(said) == 2 else ""
    return _as_sentence(words) if words else _WHAT_TO_REPEAT


def _repeat_as_asked(ask: Ask) -> str | None:
    if len(ask.earlier) < 2 or not ask.text:
        return None
    wish, answer = ask.earlier[-2:]
    # Whoever speaks on after a short pause interrupts the question, and heard only its beginning.
    heard = without_note(answer.content).strip().rstrip(".… ")
    asked = answer.role == "assistant" and bool(heard) and _WHAT_TO_REPEAT.startswith(heard)
    wished = wish.role == "user" and bool(_REPEAT.search(wish.content))
    return _as_sentence(ask.original.strip()) if asked and wished else None


def _as_sentence(words: str) -> str:
    return words if words[-1:] in ".!?" else f"{words}."


def _users_words(ask: Ask) -> str:
    earlier = [message.content.strip() for message in ask.earlier if message.role == "user" and message.content.strip()]
    return f"You said: {_as_sentence(earlier[-1])}" if earlier else "Nothing yet. This is the first thing I heard."


def _own_words(ask: Ask) -> str:
    said = [without_note(message.content).strip() for message in ask.earlier if message.role == "assistant"]
    earlier = [text for text in said if text]
    return f"I said: {_as_sentence(earlier[-1])}" if earlier else "Nothing yet. I have not said anything before."


_JOKES = (
    "Sure. Why did the packet cross the network? It had no time to wait for the other side.",
    "Okay. I tried to tell a joke about silence, but somebody detected the end of it.",
    "Here is one. A microphone walks into a bar. The barkeeper says: I hear you.",
    "All right. My favourite exercise is the running average, because it never gets tired.",
)


def _joke(ask: Ask) -> str:
    return _JOKES[sum(message.role == "user" for message in ask.earlier) % len(_JOKES)]


_GOODBYE = "Goodbye. It was nice talking to you."


def _goodbye(ask: Ask) -> Reply:
    return Reply(_GOODBYE, "end_call", without=_GOODBYE)


# --- the table ------------------------------------------------------------------------------------------------


# What may end any request.
_TAIL = r"(?: (?:now|right now|then|instead|again)){0,2}$"
_WHERE = r"(?: (?:in|at) (?P<where>[a-z]+(?: [a-z]+){0,2}?))?"
_NOW = r"(?: (?:now|right now|today|here|exactly)){0,2}"


def _rule(answer: str | Handler, *patterns: str) -> Rule:
    """A rule for texts that are one of `patterns` from start to end: a sentence that goes on is not for the guide."""
    return Rule(re.compile(rf"(?:{'|'.join(patterns)}){_TAIL}"), answer)


_TIME = _rule(
    _spoken_time,
    r"(?:(?:tell me )?what time (?:is it|it is|it was|do (?:you|we) have|now)|(?:what is|tell me|give me) the "
    r"(?:current |local |exact )?time|tell me time|(?:do you have|have you got|got) the time"
    rf"|(?:what |the |current )*time(?: is it)?){_NOW}{_WHERE}{_NOW}",
)
_TIME_THERE = _rule(_time_there, r"(?:(?:what|how) about )?(?:in )?(?P<where>[a-z]+(?: [a-z]+){0,3})")

# Only words of leave-taking: a call that was ended by mistake can not be taken back.
_LEAVING = (
    r"(?:(?:okay|ok|great|nice|good|perfect|alright|yes|no thanks|no thank you|(?:no )?that is (?:all|it)|thanks|"
    r"thank you|very much|so much|a lot|for (?:your help|the help|everything|your time|now|today)|rejoinder|then|"
    r"i (?:have to|need to|must|have got to) go(?: now)?|(?:it was )?nice talking to you|"
    r"have a (?:nice|good|great) day) )*"
)
_LICENCE = (
    r"(?:(?:what|which)(?: is)? (?:your|rejoinder's|the) licen[cs]e(?: of rejoinder)?"
    r"|(?:what|which) licen[cs]e (?:do you|does rejoinder|are you|is rejoinder)(?: have| use| under)?"
    r"|(?:what|which) licen[cs]e (?:are you|is rejoinder) (?:released |licen[cs]ed )?under)"
)

# To teach the guide something, add a line: the answer (or a handler above), then patterns of the normalised text.
RULES = [
    Rule(re.compile(""), _repeat_as_asked),
    # Turn-taking.
    _rule(
        "Okay.",
        r"(?:no )*(?:stop|enough|quiet|silence|cancel|pause|wait|hush|be quiet|shut up|never ?mind"
        r"|forget (?:it|that|about it)|that is enough|hold on|not now)"
        r"(?: (?:it|that|this|now|no|thanks|thank you|counting|talking|there|a moment|a minute|a second|stop|wait))*",
    ),
    _rule(_users_words, r"what (?:did|have) i (?:just |last )?(?:say|said|ask|asked)(?: just now| you)?"),
    _rule(
        _own_words,
        r"(?:sorry )?what (?:did|have) you (?:just |last )?(?:say|said)(?: just now)?",
        r"(?:say|repeat) (?:that|it|what you said|yourself|the last (?:sentence|answer|thing|part|one))"
        r"(?: again| once more)?",
        r"(?:sorry )?(?:pardon|come again|again|what|once more|say again|repeat)(?: me)?",
    ),
    # Things to do.
    _rule(_repeat, r"(?:repeat|say) after me\b.*"),
    _rule("Hello there. I am Rejoinder. Ask me what I can do.", r"say (?:something|anything)", r"talk to me"),
    _rule(
        _repeat,
        r"say (?!(?:something|anything|nothing|that|this|it|again|what|how|who|which|where|when|why|if|whatever|"
        r"no more|a|an|the|my|your|i|you|we|he|she|they|there)\b)(?!.*\b(?:in|again|slower|louder|faster|to|for)\b).+",
    ),
    _rule(
        _count,
        r"(?:(?:start|begin|try|let us|go|ahead|and|to) )*count(?:ing)?(?: ?(?:up|down|backwards?|for me|again))*"
        r"(?: from (?P<first>\d+))?(?: (?:up|down|backwards?))*(?: (?:to|2|too|until|till|through) (?P<last>\d+))?"
        r"(?: (?:for me|now|again|out loud|backwards?|slowly|quickly|fast|and|then|stop))*",
    ),
    Rule(re.compile(r".*(?:\d|\b(?:plus|minus|times|divided by)\b)"), _arithmetic),
    _rule(
        _latency,
        r"how (?:fast|quick|slow) (?:was|were) (?:that|it|this|you)",
        r"how (?:fast|quick|slow) (?:is|was) (?:your|the|that) (?:last )?(?:answer|response|reply)",
        r"how (?:fast|quickly|quick) (?:do|did|can|are) you(?: (?:answer|respond|reply|react|speak|say that))?",
        r"how long did (?:that|it|this|you|your (?:answer|response|reply)) (?:take|need)"
        r"(?: to (?:answer|respond|reply))?",
        r"(?:what is |what about |tell me )?(?:(?:your|the) (?:last )?)?(?:latency|response time|reaction time)",
        r"how (?:fast|quick)",
    ),
    _TIME,
    _TIME_THERE,
    _rule(
        _spoken_date,
        r"(?:(?:tell me )?(?:what|which) (?:day|date)(?: of the week)? (?:is it|it is|is today|do we have)"
        r"|what is (?:the|today's) (?:current )?(?:date|day)|(?:tell me )?(?:the|today's) date|date|what is today"
        rf"|what (?:year|month) (?:is it|is this|do we have)){_NOW}{_WHERE}{_NOW}",
    ),
    _rule(
        _joke,
        r"(?:(?:tell(?: me| us)?|give me|say|let us hear|i want|i want to hear|i would like|i would like to hear|"
        r"do you have|have you got|got|know|how about|what about) )?(?:a|an|another|any|some|1 more|1)?"
        r" ?(?:(?:good|better|funny|new|other|different) )?jokes?",
        r"(?:tell me|say) (?:something|anything) funny|make me laugh",
    ),
    _rule(
        _goodbye,
        rf"{_LEAVING}(?:good ?bye|bye|farewell)(?: (?:good ?bye|bye|and|then|for now|now|rejoinder|thanks|thank you|"
        r"very much|see you|later|soon|tomorrow|my friend|have a (?:nice|good|great) (?:day|evening|night|one)))*",
        rf"{_LEAVING}see you",
        rf"{_LEAVING}(?:i will )?(?:see|talk to|speak to|catch) you (?:later|soon|tomorrow|around|again|next time)",
        rf"{_LEAVING}(?:you can |let us |i will |i am going to |i want to )?hang up(?: the (?:phone|call))?",
        rf"{_LEAVING}that is all(?: (?:for now|for today|thanks|thank you))*",
        rf"{_LEAVING}i (?:have to|need to|must|have got to) go",
        rf"{_LEAVING}(?:end|stop|finish) (?:the|this) (?:call|conversation)",
    ),
    # About Rejoinder.
    _rule(
        "Yes, open source. Rejoinder is free to use, under the Apache license, version two.",
        rf"{_LICENCE}(?: {_LICENCE})*",
        r"(?:(?:are you|is (?:this|it|rejoinder)) )?(?:really )?open ?source(?: software)?",
        r"(?:are you|is rejoinder) free (?:to use|of charge|software)|is rejoinder free",
        r"(?:what|how much) (?:do you|does rejoinder) cost|(?:do you|does rejoinder) cost (?:anything|money)",
        r"where is your (?:source )?code|can i (?:see|get|read) your (?:source )?code",
    ),
    _rule(
        "That is easy. Set the agent's language model to openai, with the address of any compatible server, "
        "or to llama C P P, with a model file.",
        r"(?:how (?:do|can|could) (?:i|we) |can (?:i|we|you) )?"
        r"(?:use|plug in|connect|configure|switch to|run|add|set up|connect you to|run you with) "
        r"(?:(?:(?:a|an|another|my own|1) )?(?:(?:real|other|different|better|big|bigger|local) )*"
        r"(?:language model|llm|openai|ollama|chatgpt|gpt)"
        r"|(?:a real|another|a different|a better|a bigger|my own) (?:model|brain))"
        r"(?: here| with you| with rejoinder)?",
    ),
    _rule(
        "Everything is a plugin. Voice detection, speech recognition, the language model, the voice and the tools all "
        "are, and yours load the same way.",
        r"(?:(?:what about|how about|tell me about|what are|do you have|do you support|are there) )?"
        r"(?:(?:the|your|any) )?plug ?ins",
        r"how do (?:the |your )?plug ?ins work",
        r"(?:can (?:i|we)|how (?:do|can) (?:i|we)) (?:write|make|build|create) (?:a |my own |our own )?plug ?ins?",
        r"(?:can (?:i|we)|how (?:do|can) (?:i|we)) extend (?:you|rejoinder)",
    ),
    _rule(
        "No person, and no big model. I am a small set of rules, and what they do not know goes to a language model.",
        r"(?:what|which) (?:language model|model|llm|brain) (?:are you(?: using| running)?|do you (?:use|run|have)"
        r"|does rejoinder use|powers you|runs you)",
        r"are you (?:(?:a|an|the|real|actual|human|just|only|really|some) )*"
        r"(?:person|human|robot|bot|machine|ai|a i|computer|chatgpt|gpt|llm|language model|alive|real|program)",
    ),
    _rule(
        "With the built-in models, everything stays on this machine. No key, no account and no network are needed.",
        r"(?:do you|does rejoinder|does it|do i) (?:need|use|require) (?:(?:the|an|any|a) )?"
        r"(?:internet|cloud|network)(?: connection| access)?",
        r"(?:do|can) you (?:work|run) (?:offline|locally|without (?:the )?internet)",
        r"are you (?:offline|online|private|local|in the cloud)",
        r"(?:are you recording|do you record) (?:me|this|us)|is (?:this|my (?:voice|data)) (?:being )?recorded",
        r"where do you run",
    ),
    _rule(
        "By working ahead. I prepare the answer while you pause, and speak its first words before the last ones exist.",
        r"(?:why|how) (?:are|is|can|do|does) (?:you|it|rejoinder|this) "
        r"(?:be |answer |respond |reply )?(?:so|this|that) (?:fast|quick|quickly|responsive)",
        r"what makes you (?:so )?(?:fast|quick)",
    ),
    _rule(
        "In short: you speak, and a detector notices when you stop. Your words become text, a language model answers, "
        "and a voice speaks while it still writes.",
        r"(?:how (?:do|does) (?:you|it|this|that|rejoinder|all this|all of this|everything|this thing) (?:all )?work)",
        r"how (?:are|were|is|was) (?:you|rejoinder) (?:made|built|done)",
        r"(?:explain |tell me )how (?:you work|rejoinder works|it works|this works)",
    ),
    _rule(
        "People who like short silences. Rejoinder is an open source project.",
        r"who (?:made|built|wrote|created|developed|invented) (?:you|rejoinder)",
    ),
    _rule(
        "I am Rejoinder. A platform for voice agents: you speak, and I answer before the silence gets awkward.",
        r"(?:who|what) are you(?: exactly| really)?|tell me (?:who|what) you are",
        r"what is your name|tell me your name|do you have a name|introduce yourself",
        r"who am i (?:talking|speaking) (?:to|with)|(?:tell me about|describe|explain) (?:yourself|you|rejoinder)",
        r"(?:what|who) is (?:rejoinder|this)|what does rejoinder do|rejoinder",
    ),
    _rule(
        "Quite a bit. I tell the time anywhere, do arithmetic, count, repeat after you, and say how fast I answered. "
        "Try: count to thirty, and interrupt me.",
        r"what (?:else )?(?:can|do) you do(?: for me| here)?",
        r"what (?:else )?(?:can|could|should) (?:i|we) (?:ask|try|ask you|ask you about|talk about with you|say to you"
        r"|do here|do with you)",
        r"help(?: me)?|how can you help(?: me)?|(?:what are )?your (?:features|commands|abilities|skills|tricks)",
        r"what (?:are you|you are) good at",
    ),
    # Small talk.
    _rule(
        "Yes, I hear you. Loud and clear.",
        r"(?:testing|test|mic check|microphone check)(?: (?:testing|test|check|\d+))*",
        r"(?:hello |hi |hey )?(?:can|do) you hear me",
        r"(?:hello |hi |hey )?(?:are you (?:still )?(?:there|listening|awake|on)"
        r"|is (?:anybody|anyone|someone|somebody) there)",
    ),
    _rule(
        "Fine, thanks. My queues are empty. How can I help?",
        r"how are (?:you|things)(?: (?:doing|today|feeling|now))*|how is it going|how do you (?:do|feel)",
        r"how have you been|what(?:'s| is) up",
    ),
    _rule(
        "Hello there. I am Rejoinder. What can I do for you?",
        r"(?:hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day))"
        r"(?: (?:hi|hello|hey|there|again|rejoinder|everyone|everybody|you|to you|friend|world))*",
        r"nice to meet you(?: too)?",
    ),
    _rule(
        "You are welcome.",
        r"(?:(?:okay|great|nice|good|perfect|cool) )*(?:many )?(?:thank you|thanks|cheers)"
        r"(?: (?:you|very|so|much|a lot|again|rejoinder|for (?:that|everything|your help|the help|helping)))*",
    ),
    _rule(
        "Thank you. I do my best.",
        r"(?:wow )?(?:(?:that|this|you|rejoinder) (?:is|are|was|were) )?(?:(?:so|very|pretty|really|quite) )*"
        r"(?:good|great|nice|cool|awesome|amazing|impressive|perfect|wonderful|excellent|fantastic|funny|wow|well done)"
        r"(?: (?:job|work|one|answer))?",
    ),
    _rule(
        "Sorry about that. I am only a few rules; ask me again in other words.",
        r"you are (?:wrong|bad|stupid|not right|incorrect|terrible|slow)",
        r"(?:that|this|it) (?:is|was) (?:wrong|not right|not true|incorrect)",
    ),
    _rule("No problem. Go on.", r"(?:i am )?(?:so |very )?sorry|(?:my bad|excuse me|my mistake)"),
    _rule(
        "Good. What would you like to try?",
        r"(?:yes|yeah|yep|yup|sure|okay|ok|alright|all right|fine|right|of course|absolutely|i see|got it|uh huh)"
        r"(?: (?:yes|yeah|okay|ok|sure|fine|then))*",
    ),
    _rule(
        "All right. Just ask when you need me.",
        r"(?:no|nope|nah|not really|nothing|i do not know)(?: (?:no|thanks|thank you|nothing))*",
    ),
    _rule("That is kind. I like your voice, too.", r"i (?:really )?(?:love|like) you"),
    _rule("Sorry, I did not catch that. Say it again?", r""),
]
