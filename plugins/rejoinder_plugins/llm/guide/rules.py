"""What the guide says to what: a table of patterns, the first that matches answers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rejoinder.providers import Message
from rejoinder_plugins.llm.guide.numbers import to_digits, to_expression, to_words
from rejoinder_plugins.llm.guide.places import find_place

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
    """A pattern searched in the normalised text, and the answer: fixed text or a handler; None tries the next rule."""

    pattern: re.Pattern[str]
    answer: str | Handler


def reply_to(original: str, earlier: Sequence[Message]) -> Reply | None:
    """The answer of the first rule that matches `original`, said after the messages `earlier`; None if no rule does."""
    if len(original) > MAX_CHARS:
        return None
    text = normalise(original)
    for rule in RULES:
        if found := rule.pattern.search(text):
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
    r"(?:count|say|repeat|tell|stop|calculate|compute|explain|add|help|give|end|hang|be)\b)"
    r"|(?:i want you to|i would like you to|i would like to know|i want to know|do you know)\s+)"
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


def _spoken_time(ask: Ask) -> Reply | None:
    place = find_place(ask.text)
    unknown = re.search(r"\b(?:in|at) ((?!the\b|this\b|my\b|here\b|a\b|all\b)[a-z ]+?)(?: right now| now)?$", ask.text)
    if place:
        name, zone = place
        return _clock({"time_zone": zone}, lambda now: f"It is {now['time']} in {name}.")
    if unknown:
        where = unknown.group(1).title()
        return _clock({}, lambda now: f"Sorry, I do not know the time zone of {where}. Here it is {now['time']}.")
    return _clock({}, lambda now: f"It is {now['time']}.")


def _time_there(ask: Ask) -> Reply | None:
    """Answers e.g. "and in Tokyo?" after a question about the time."""
    place = find_place(ask.text)
    asked = [message.content for message in ask.earlier if message.role == "user"]
    if place is None or not asked or not re.search(r"\btime\b", asked[-1].casefold()):
        return None
    return _spoken_time(ask) if len(ask.text.split()) <= 6 else None


def _spoken_date(ask: Ask) -> Reply | None:
    place = find_place(ask.text)
    return _clock({"time_zone": place[1]} if place else {}, lambda now: f"It is {now['date']}.")


def _clock(arguments: dict[str, Any], phrase: Callable[[dict[str, str]], str]) -> Reply:
    def then(result: str) -> str:
        try:
            return phrase(json.loads(result))
        except (ValueError, KeyError, TypeError):
            return f"Sorry, the clock did not work. {result}"

    return Reply("", "clock", arguments, then, "Sorry, I have no clock here. This agent has not got the clock tool.")


def _arithmetic(ask: Ask) -> Reply | None:
    expression = to_expression(ask.text) if len(ask.text) <= 150 else None
    if expression is None:
        return None

    def then(result: str) -> str:
        value = result.strip()
        if not re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", value):
            return f"Sorry, that does not work. {value}"
        whole, _, decimals = value.partition(".")
        about = "about " if len(decimals) > 4 else ""
        if about:
            value = f"{float(value):.4g}" if whole in ("0", "-0") else f"{float(value):.4f}".rstrip("0").rstrip(".")
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
    answers = [message.content for message in ask.earlier if message.role == "assistant"]
    asked = bool(answers) and ask.earlier[-1].role == "assistant" and answers[-1].strip() == _WHAT_TO_REPEAT
    return _as_sentence(ask.original.strip()) if asked and ask.text else None


def _as_sentence(words: str) -> str:
    return words if words[-1:] in ".!?" else f"{words}."


def _users_words(ask: Ask) -> str:
    earlier = [message.content.strip() for message in ask.earlier if message.role == "user" and message.content.strip()]
    return f"You said: {_as_sentence(earlier[-1])}" if earlier else "Nothing yet. This is the first thing I heard."


def _own_words(ask: Ask) -> str:
    earlier = [
        message.content.strip() for message in ask.earlier if message.role == "assistant" and message.content.strip()
    ]
    return f"I said: {_as_sentence(earlier[-1])}" if earlier else "Nothing yet. I have not said anything before."


_JOKES = (
    "Sure. Why did the packet cross the network? It had no time to wait for the other side.",
    "Okay. I tried to tell a joke about silence, but somebody detected the end of it.",
    "Here is one. A microphone walks into a bar. The barkeeper says: I hear you.",
    "All right. My favourite exercise is the running average, because it never gets tired.",
)


def _joke(ask: Ask) -> str:
    return _JOKES[sum(message.role == "user" for message in ask.earlier) % len(_JOKES)]


def _goodbye(ask: Ask) -> Reply | None:
    if len(ask.text.split()) > 8:
        return None
    return Reply("Goodbye. It was nice talking to you.", "end_call", without="Goodbye. It was nice talking to you.")


# --- the table ------------------------------------------------------------------------------------------------


def _rule(answer: str | Handler, *patterns: str) -> Rule:
    return Rule(re.compile("|".join(patterns)), answer)


# To teach the guide something, add a line: the answer (or a handler above), then patterns of the normalised text.
RULES = [
    _rule(_repeat_as_asked, r""),
    # Turn-taking.
    _rule(
        "Okay.",
        r"^(?:no )*(?:stop|enough|quiet|silence|cancel|pause|wait|hush)"
        r"(?: (?:it|that|this|now|no|counting|talking|there|a moment|a minute|a second|stop|wait))*$",
        r"^(?:no )*(?:be quiet|shut up|never ?mind|forget (?:it|that|about it)|that is enough|hold on|not now)\b",
    ),
    _rule(_users_words, r"\bwhat (?:did|have) i (?:just |last )?(?:say|said|ask|asked)\b"),
    _rule(
        _own_words,
        r"\bwhat (?:did|have) you (?:just |last )?(?:say|said)\b",
        r"^(?:say|repeat) (?:that|it|what you said|yourself|the last \w+)(?: again| once more)?$",
        r"^(?:sorry )?(?:pardon|come again|again|what|once more|say again|repeat)(?: me)?$",
    ),
    # Things to do.
    _rule(_repeat, r"^(?:repeat|say) after me\b", r"^repeat\b", r"^say (?!something|anything)\S"),
    _rule("Hello there. I am Rejoinder. Ask me what I can do.", r"^say (?:something|anything)\b", r"^talk to me\b"),
    _rule(
        _count,
        r"^(?:(?:start|begin|try|let us|go|ahead|and|to) )*count(?:ing)?(?: ?(?:up|down|backwards?|for me|again))*"
        r"(?: from (?P<first>\d+))?(?: (?:up|down|backwards?))*(?: (?:to|2|too|until|till|through) (?P<last>\d+))?"
        r"(?: (?:for me|now|again|out loud|backwards?|slowly|quickly|fast|and|then|stop))*$",
    ),
    _rule(_arithmetic, r"\d", r"\b(?:plus|minus|times|divided by)\b"),
    _rule(
        _latency,
        r"\bhow (?:fast|quick|slow) (?:was|were) (?:that|it|this|you)\b",
        r"\bhow (?:fast|quick|slow) (?:is|was) (?:your|the) (?:last )?(?:answer|response|reply)\b",
        r"\bhow (?:fast|quickly|quick) (?:do|did|can|are) you(?: (?:answer|respond|reply|react|speak|say that))?$",
        r"\bhow long did (?:that|it|this|you|your \w+)(?: \w+)? take\b|\bhow long did you (?:take|need)\b",
        r"\b(?:your|the|last|what is|about) (?:latency|response time|reaction time)\b|^latency$",
        r"\bhow many milliseconds\b|^how (?:fast|quick)$",
    ),
    _rule(
        _spoken_time,
        r"\bwhat time (?:is it|it is|it was|do (?:you|we) have|now)\b|\btime is it\b",
        r"\bwhat is the (?:current |local |exact )?time(?: (?:now|right now|here|today|please|in|at)\b.*)?$",
        r"\btell me (?:what )?(?:the )?(?:current |local )?time(?: (?:it is|now|in|at|here)\b.*)?$",
        r"\b(?:do you have|have you got|got|give me) the time$",
        r"^(?:what |the |current )*time(?: now)?(?: in [a-z ]+)?$",
    ),
    _rule(_time_there, r"^(?:(?:what|how) about |and )?(?:in )?[a-z ]+$"),
    _rule(
        _spoken_date,
        r"\b(?:what|which)(?: is)? (?:the )?(?:current )?(?:date|day)"
        r"(?: (?:is|it|today|now|right now))*(?: in [a-z ]+)?$",
        r"\b(?:what|which) day (?:of the week )?(?:is|do we have)\b|\btoday's (?:date|day)\b|^what is today$",
        r"\bwhat (?:year|month) (?:is (?:it|this)|do we have)\b|\btell me (?:the|today's) date\b|^(?:the )?date$",
    ),
    _rule(_joke, r"\bjokes?\b", r"\bmake me laugh\b", r"\bsomething funny\b"),
    _rule(
        _goodbye,
        r"^(?!how|what|why|do )(?:[a-z]+ ){0,4}(?:good ?bye|bye(?: bye)*|farewell|hang up)(?: rejoinder| now)?$",
        r"^(?:[a-z]+ ){0,3}(?:see you(?: later| soon| tomorrow| around)?|talk to you (?:later|soon))$",
        r"^(?:good ?bye|bye)(?: (?:bye|and|then|for|now|rejoinder|thanks|thank you|see you|later|my friend))*$",
        r"^that is all(?: for now| for today| thanks| thank you)*$",
        r"^i (?:have to|need to|must|have got to) go(?: now)?$",
        r"^(?:end|stop|finish) (?:the|this) (?:call|conversation)(?: now)?$",
    ),
    # About Rejoinder.
    _rule(
        "Yes, open source. Rejoinder is free to use, under the Apache license, version two.",
        r"\bopen ?source\b|\b(?:your|rejoinder's) (?:source|code|licen[cs]e)\b|\bare you free\b|\bdo you cost\b",
        r"\b(?:you|rejoinder) (?:licen[cs]ed|free)\b|\blicen[cs]e (?:do you|does rejoinder|are you|is rejoinder)\b",
    ),
    _rule(
        "That is easy. Set the agent's language model to openai, with the address of any compatible server, "
        "or to llama C P P, with a model file.",
        r"\b(?:use|plug in|connect|configure|switch to|run|add|bring|get)\b.*\b(?:model|llm|brain|openai|ollama|gpt)\b",
    ),
    _rule(
        "Everything is a plugin. Voice detection, speech recognition, the language model, the voice and the tools all "
        "are, and yours load the same way.",
        r"\bplug ?ins?\b|\bextend (?:you|rejoinder)\b",
    ),
    _rule(
        "No person, and no big model. I am a small set of rules, and what they do not know goes to a language model.",
        r"\b(?:what|which) (?:language )?(?:model|llm|brain) (?:are|is|do|does|powers|runs)\b",
        r"\bare you (?:(?:a|an|the|real|actual|human|just|only|really|some) )*"
        r"(?:person|human|robot|bot|machine|ai|a i|computer|chatgpt|gpt|llm|language model|alive|real|program)$",
    ),
    _rule(
        "With the built-in models, everything stays on this machine. No key, no account and no network are needed.",
        r"\b(?:do|are|does|is) (?:you|it|this|rejoinder|my)\b.*"
        r"\b(?:internet|cloud|offline|online|priva(?:te|cy)|record\w*)",
        r"\bwhere do you run\b",
    ),
    _rule(
        "By working ahead. I prepare the answer while you pause, and speak its first words before the last ones exist.",
        r"\b(?:why|how) (?:are|is|can|do|does) (?:you|it|rejoinder|this) "
        r"(?:be |answer |respond |reply )?(?:so|this|that) \w+$",
        r"\bwhat makes you (?:so )?(?:fast|quick)\b",
    ),
    _rule(
        "In short: you speak, and a detector notices when you stop. Your words become text, a language model answers, "
        "and a voice speaks while it still writes.",
        r"\bhow (?:do|does) (?:you|it|this|that|rejoinder|all this|all of this|everything|this thing) (?:all )?work",
        r"\bhow (?:are|were|is|was) (?:you|rejoinder) (?:made|built|done)\b|\bhow you work\b|\bhow rejoinder works\b",
    ),
    _rule(
        "People who like short silences. Rejoinder is an open source project.",
        r"\bwho (?:made|built|wrote|created|developed|invented) (?:you|rejoinder)\b",
    ),
    _rule(
        "I am Rejoinder. A platform for voice agents: you speak, and I answer before the silence gets awkward.",
        r"\b(?:who|what) (?:are you|you are)$|\bwhat is your name\b|\bdo you have a name\b|\bintroduce yourself\b",
        r"\bwho am i (?:talking|speaking) (?:to|with)\b|\b(?:about|describe) (?:yourself|you|rejoinder)$",
        r"\b(?:what|who) is (?:rejoinder|this)\b|\bwhat does rejoinder do\b|\bexplain rejoinder\b|^rejoinder$",
    ),
    _rule(
        "Quite a bit. I tell the time anywhere, do arithmetic, count, repeat after you, and say how fast I answered. "
        "Try: count to thirty, and interrupt me.",
        r"\bwhat (?:else )?(?:can|could|do|should) (?:you|i|we) (?:do|ask|say|talk about|try|know)"
        r"(?: (?:here|now|for me|you|about|with you|to you|all|else))*$",
        r"^help(?: me)?$|\bhow can you help\b|\byour (?:features|commands|abilities|skills|tricks)\b",
        r"\bwhat (?:are you|you are) good at\b",
    ),
    # Small talk.
    _rule(
        "Yes, I hear you. Loud and clear.",
        r"^(?:testing|test|mic check|microphone check)(?: (?:testing|test|check|\d+))*$|\b(?:can|do) you hear me\b",
        r"\bare you (?:still )?(?:there|listening|awake|on)$|\bis (?:anybody|anyone|someone|somebody) there\b",
    ),
    _rule(
        "Fine, thanks. My queues are empty. How can I help?",
        r"\bhow are (?:you|things)(?: (?:doing|today|feeling|now))*$|\bhow is it going\b|\bhow do you (?:do|feel)$",
        r"\bhow have you been\b|^what(?:'s| is) up\b",
    ),
    _rule(
        "Hello there. I am Rejoinder. What can I do for you?",
        r"^(?:hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day))"
        r"(?: (?:hi|hello|hey|there|again|rejoinder|everyone|everybody|you|to you|friend|world))*$",
        r"^nice to meet you",
    ),
    _rule(
        "You are welcome.",
        r"^(?:(?:okay|great|nice|good|perfect|cool) )*(?:many )?(?:thank you|thanks|cheers)"
        r"(?: (?:you|very|so|much|a lot|again|rejoinder|for \w+|that|your|help))*$",
    ),
    _rule(
        "Thank you. I do my best.",
        r"^(?:(?:that|this|it|you|is|are|was|so|very|pretty|really|how|quite|wow) )*"
        r"(?:good|great|nice|cool|awesome|amazing|impressive|perfect|wonderful|excellent|fantastic|funny|wow|well done)"
        r"(?: (?:job|work|one|answer))?$",
    ),
    _rule(
        "Sorry about that. I am only a few rules; ask me again in other words.",
        r"^(?:you|that|this|it) (?:are|is|was) (?:wrong|bad|stupid|not right|not true|incorrect|terrible|slow)$",
    ),
    _rule("No problem. Go on.", r"^(?:i am )?(?:so |very )?sorry$|^(?:my bad|excuse me|my mistake)$"),
    _rule(
        "Good. What would you like to try?",
        r"^(?:yes|yeah|yep|yup|sure|okay|ok|alright|all right|fine|right|of course|absolutely|i see|got it|uh huh)"
        r"(?: (?:yes|yeah|okay|ok|sure|fine|then))*$",
    ),
    _rule(
        "All right. Just ask when you need me.",
        r"^(?:no|nope|nah|not really|nothing|i do not know)(?: (?:no|thanks|thank you|nothing))*$",
    ),
    _rule("That is kind. I like your voice, too.", r"\bi (?:really )?(?:love|like) you$"),
    _rule("Sorry, I did not catch that. Say it again?", r"^$"),
]
