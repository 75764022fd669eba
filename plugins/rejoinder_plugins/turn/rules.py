"""The turn detector `rules`: reads in the transcript whether a sentence is finished. English; free of charge.

The tables below are what it knows, the constants what it answers. `judge_text` asks, in this order: is it a whole short
answer, is a number being dictated, is the phrase unfinished, is it surely complete. Nothing of that: no opinion.

A full stop says next to nothing: Moonshine wrote one (or a question mark) at 98 % of the ends of recorded speech, and
at 92 % of the pauses inside it. Its absence, from a recogniser that capitalises, does say something.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from rejoinder.hookspecs import hookimpl
from rejoinder.providers import Provider, ProviderContext, TurnSoFar

NAME = "rules"

HOLDING = 0.02
"""They asked for time: "hold on", "let me see", "um"."""
DICTATING = 0.1
"""A number has fewer digits than it needs."""
UNFINISHED = 0.1
"""The phrase lacks its end: "I would like to", "because", "well"."""
OPEN = 0.35
"""It may go on: a comma, a condition without its consequence, a number of unknown length."""
SENTENCE = 0.55
"""A sentence of a few words that the recogniser ended with a full stop; another one may follow."""
SHORT = 0.8
"""A whole answer that often only begins a longer one: "yes", "thank you", "hello"."""
QUESTION = 0.9
"""It ends with a question mark."""
COMPLETE = 0.95
"""Said in full: a farewell, a command, a whole number, a question with its question word."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(phrase.split()) for phrase in text.split(","))


# --- unfinished -----------------------------------------------------------------------------------------------

FILLERS = _words("um uh er erm hmm hm mm umm uhh uhm ah eh")
"""Sounds that keep the floor, at the end of a phrase."""
HOLDS = _phrases(
    "hold on, wait, wait a minute, wait a second, wait a moment, one moment, one second, one minute, just a moment,"
    "just a second, just a minute, just a sec, a second, a moment, give me a second, give me a moment,"
    "give me a minute, let me see, let me think, let me check, let me look, let's see, hang on, bear with me,"
    "how do i say, what's it called, how should i put it, where was i, i'm thinking"
)
"""Ends of a phrase that ask for time."""
CONJUNCTIONS = _words(
    "and or but nor because cause cuz if unless until although though whereas whether than while when whenever where"
    " wherever since as except plus that which who whose"
)
PREPOSITIONS = _words(
    "of from with at by for to into onto about between among during without within against per via towards toward"
    " regarding concerning despite including following like under after before near behind beside"
)
PARTICLES = _words("in on up off out over down through around along across")
"""Prepositions that end many a sentence ("log in", "turn it off"): unfinished only after one of `PARTICLE_OPENERS`."""
PARTICLE_OPENERS = _words("is are was were be been am live lives living interested located based born arriving leaving")
DETERMINERS = _words("a an the my your our their his every each another whose very quite")
AUXILIARIES = _words(
    "is are was were am be been being will would can could should shall must may might has had have does do did"
    " isn't aren't wasn't won't wouldn't couldn't shouldn't doesn't didn't hasn't haven't don't can't"
    " get gets getting enter lasts means says called named"
)
SUBJECTS = _words("i we they he she you it this that there those these who")
"""An auxiliary right after one of them may be a whole answer ("yes it is", "I don't")."""
CONTRACTIONS = _words(
    "i'm i've i'll i'd we're we've we'll we'd they're they've they'll they'd you're you've you'll you'd he's she's"
    " it's there's that's what's where's who's how's it'll that'll let's he'll she'll name's"
)
PRONOUNS = _words("i we they he she")
VERBS = _words("want need wanted needed prefer gonna wanna gotta trying maybe currently probably otherwise therefore")
"""Words after which more has to come."""
LINKS = _phrases(
    "i'd like, i would like, we'd like, we would like, going to, want to, such as, kind of, sort of, a lot of,"
    "at least, more than, less than, as well as, in order to, due to, instead of, because of,"
    " in the, at the, on the, and then,"
    "so that, even if, as soon as, the first, the second, the next, the last, the other, the one that, i think,"
    "i guess, i believe, i wonder, i mean, you know, do you, can you, could you, would you, can i, could i, may i,"
    "what is, what are, where is, how do, how much is, how many, how much, what about, how about, who is, when is,"
    "or the, for the, with the, my name is, the number is, my number is, it says, it's called, followed by,"
    "if this is correct press, is set, is set to, press"
)
"""Endings of several words (or one) that call for more."""
OPENERS = _words("so well actually anyway basically also then first firstly oh look listen")
"""Words that, said alone, announce a sentence."""
LONE = _phrases(
    "i mean, you know, the thing is, by the way, oh and, oh so, okay so, ok so, so yeah, yeah so, yeah and, yeah but,"
    "no but, yes but, yes and, no and, well yeah, oh well, all right so, alright so, and, but, or, because, if, i, the,"
    "my, yes i, no i, well i, so i, um i, please, can you please, could you please, hi i'm, hello i'm, hi my name,"
    "i was wondering, i have a question, i've got a question, quick question, first of all, in that case, to be honest"
)
"""Whole texts that announce one."""
CONDITIONS = _words("if when once after before unless because since although while as")
"""A text that begins with one of these has a second part."""
MAIN_CLAUSE = _words("please press say then will would can could should must may i'll i'd i'm we'll you'll let's let")
"""Words that show that the second part has begun, where the recogniser wrote no comma."""
FRONTS = _words("at in on after before with from using during by for about regarding")
NOUNS = _words("the this that these those my your our their a an please")
"""A short text that begins with one of these and has no verb is an answer, or else half a sentence."""
FRONT_WORDS = 6

# --- complete -------------------------------------------------------------------------------------------------

ANSWERS = _phrases(
    "yes, yeah, yep, yup, no, nope, nah, okay, ok, sure, sure thing, right, correct, exactly, absolutely, definitely,"
    "of course, certainly, fine, good, great, perfect, cool, awesome, never, always, maybe, perhaps, nothing, none,"
    "yes please, no thanks, no thank you, thanks, thank you, thank you very much, thank you so much, thanks a lot,"
    "many thanks, thanks so much, hello, hi, hey, hi there, hello there, hey there, good morning, good afternoon,"
    "good evening,"
    "that's all, that's it, that's right, that's correct, that is correct, that's fine, that's wrong, that works,"
    "sounds good, got it, i see, i understand, i agree, i don't know, i do not know, no idea, not sure, i'm not sure,"
    "not really, not yet, not at all, not now, never mind, nevermind, forget it, no problem, you're welcome,"
    "all right, alright, very good, very well, go ahead, go on, please do, yes i do, yes i am, yes it is, yes i did,"
    "yes i have, yes i can, yes we do, yes that's right, yes that's correct, no i don't, no i'm not, no it isn't,"
    "no i didn't, no i haven't, no that's all, no that's it, no that's not right, no that's wrong, me too, why not,"
    "why, what, who, where, when, how, which one, what's that, pardon, sorry what,"
    "yes of course, yes sure, oh okay, oh i see, okay thanks, okay thank you, okay great, okay bye, okay goodbye,"
    "great thanks, thanks bye, thank you bye, thank you goodbye, operator, agent, representative, help, i'm here,"
    "how are you, how are you doing, how's it going, i'm fine, i'm good, i'm fine thanks, i'm good thanks, both,"
    "neither, the first one, the second one, the last one, the other one, this one, that one,"
    " today, tomorrow, yesterday"
)
"""Whole texts (without commas, in lower case) that need nothing more, though more may come."""
FAREWELLS = _phrases(
    "bye, bye bye, goodbye, good bye, good night, see you, see you later, take care, have a nice day, have a good day,"
    "that's all, that's it, no that's all, no that's it, that's all thanks, that's all thank you, never mind"
)
"""Ends of a text after which nobody goes on."""
COMMANDS = _words("stop cancel quit exit repeat help skip pause continue resume restart undo reset next back hang")
"""Commands: complete when the text is one of them, with up to `COMMAND_WORDS` words and no unfinished end."""
COMMAND_WORDS = 4
QUESTION_WORDS = _words(
    "what where when who whom whose why how which what's where's when's who's how's is are was were do does did can"
    " could will would should shall may have has am isn't aren't don't doesn't didn't can't couldn't won't wouldn't"
)
POLITE = _words("please so and okay ok well but yes no yeah um uh oh thanks sorry hey hi hello then now")
"""Words that may stand before what a sentence really begins with, or (please, then, now, thanks) after it."""
SENTENCE_WORDS = 3
"""A shorter text with a full stop is no sentence: recognisers write one after any word."""

# --- numbers --------------------------------------------------------------------------------------------------

UNITS = _words("zero oh o one two three four five six seven eight nine")
"""Spoken digits; "nought" and the like are rare enough."""
TEENS = _words("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
"""These and the teens are two digits each; "forty two" is two as well."""
REPEATS = {"double": 1, "triple": 2}
"""More digits than the one that follows."""
PHONE = (10, 11, 12)
CARD = (15, 16)
NUMBERS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"last (four|4)( digits)?|\bpin\b", (4,)),
    (r"security code|\bcvc\b|\bcvv\b", (3, 4)),
    (r"zip|postal code|postcode", (5, 9)),
    (
        r"(phone|mobile|cell|telephone|callback|contact|fax) ?number|number to call|reach you|call you back",
        PHONE,
    ),
    (r"(credit|debit|card).{0,20}number|card number|number on (the|your) card", CARD),
    (r"social security", (9,)),
)
"""What the agent asked for, as a pattern, and how many digits it has when complete."""
ANY_NUMBER = re.compile(r"\b(number|digits?|code|account|extension|\bid\b|password|passcode|reference|serial)\b")
"""The agent asked for a number of unknown length."""
ANNOUNCED = re.compile(r"\b(number|code|pin|zip|account|extension|phone|card|id)('s| is)\b")
"""The user announced one."""
DICTATED = 3
"""So many digits one by one are a number being dictated, whatever was asked."""
LEAST = 4
"""A number of unknown length has at least so many, when it is dictated."""

_SENTENCES = re.compile(r"[.!?]")
_TOKEN = re.compile(r"[a-z]+(?:['’][a-z]+)*|\d+(?:[.,:]\d+)*")
_BREAK = re.compile(r"[.,;:!?]\s")
_END = re.compile(r"(\.\.\.|…|[.!?,;:]|[-–—])[\s\"')\]]*$")


class Text(NamedTuple):
    """A transcript, taken apart."""

    words: tuple[str, ...]
    """In lower case."""
    end: str
    """The punctuation at its end, or ""."""
    parts: bool
    """There is a comma or an end of a sentence inside."""
    cased: bool
    """It begins with a capital, so its recogniser writes punctuation, too."""


def read(text: str) -> Text:
    """Take a transcript apart."""
    stripped = text.strip()
    lowered = stripped.lower().replace("’", "'")
    found = _END.search(lowered)
    inside = lowered[: found.start()] if found else lowered
    words = tuple(_TOKEN.findall(lowered))
    return Text(words, found.group(1) if found else "", bool(_BREAK.search(inside)), stripped[:1].isupper())


def judge_text(text: str, asked: str = "") -> float | None:
    """Probability (0 to 1) that somebody who said `text` after the agent had `asked` is done; None: no opinion."""
    said = read(text)
    if not said.words:
        return None
    if said.words in ANSWERS:
        return SHORT
    number = _dictation(said.words, asked.lower())
    if number is not None:
        return number
    unfinished = _unfinished(said, asked)
    return _complete(said) if unfinished is None else unfinished


def _ends_with(words: tuple[str, ...], endings: frozenset[tuple[str, ...]]) -> bool:
    return any(words[-length:] in endings for length in range(1, min(len(words), 6) + 1))


def _begin(words: tuple[str, ...]) -> tuple[str, ...]:
    """`words` without what may stand before a sentence."""
    start = next((i for i, word in enumerate(words) if word not in POLITE), len(words) - 1)
    return words[start:]


def _unfinished(said: Text, asked: str) -> float | None:
    words, end = said.words, said.end
    if words[-1] in FILLERS or _ends_with(words, HOLDS):
        return HOLDING
    if end in ("...", "…", "-", "–", "—"):
        return UNFINISHED
    if words in LONE or (len(words) == 1 and words[0] in OPENERS):
        return UNFINISHED
    if _lacks_more(words, end == "?" and _begin(words)[0] in QUESTION_WORDS):
        return UNFINISHED
    if end in (",", ":", ";") or (not end and said.cased and len(words) > 1):
        return OPEN
    if end != "?" and not said.parts and _is_first_part(words, asked):
        return OPEN
    return None


def _lacks_more(words: tuple[str, ...], question: bool) -> bool:
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in DETERMINERS or last in CONTRACTIONS or last in PRONOUNS:
        return True
    if question:  # "what is it about?", "who are you?", "how is it?"
        return False
    if last in AUXILIARIES:
        return before not in SUBJECTS or before in ("there", "who")
    if last.endswith("ly") and before in AUXILIARIES:  # "you are currently"
        return True
    if last in PARTICLES:
        return before in PARTICLE_OPENERS
    if last in ("that", "like"):  # "I want that", "what is it like"
        return before in ("say", "said", "think", "know", "is", "was", "so", "something", "just", "it's")
    if last == "to" and words[0] in ("yes", "no", "sure"):  # "yes, I'd love to"
        return before in ("going", "listen", "talk", "speak")
    return last in CONJUNCTIONS or last in PREPOSITIONS or last in VERBS or _ends_with(words, LINKS)


def _is_first_part(words: tuple[str, ...], asked: str) -> bool:
    """Whether it is a condition, a purpose ("to leave a message"), a time or a thing, without what is said of it."""
    answering = asked.rstrip().endswith("?")
    if answering and words[0] in ("to", "because"):
        return False
    if not answering and len(words) <= FRONT_WORDS and (words[0] in FRONTS or (words[0] in NOUNS and len(words) <= 3)):
        return not MAIN_CLAUSE.intersection(words) and not AUXILIARIES.intersection(words)
    return words[0] in (*CONDITIONS, "to") and not MAIN_CLAUSE.intersection(words[2:])


def _complete(said: Text) -> float | None:
    words, end = said.words, said.end
    if _ends_with(words, FAREWELLS):
        return COMPLETE
    while len(words) > 1 and words[-1] in ("please", "then", "now", "thanks", "though"):
        words = words[:-1]
    if words in ANSWERS or words[-2:] == ("thank", "you"):
        return SHORT
    begin = _begin(words)
    if begin[0] in COMMANDS and len(begin) <= COMMAND_WORDS:
        return COMPLETE
    if end == "?":
        return COMPLETE if begin[0] in QUESTION_WORDS and len(begin) > 2 else QUESTION
    if end in (".", "!") and len(words) >= SENTENCE_WORDS:
        return SENTENCE
    return None


def _dictation(words: tuple[str, ...], asked: str) -> float | None:
    """How likely a number that ends the text is whole; None: it does not end with one, or not with a dictated one."""
    digits, singles = _digits(words)
    if not digits:
        return None
    question = next((part for part in reversed(_SENTENCES.split(asked)) if part.strip()), "")
    for pattern, lengths in NUMBERS:
        if re.search(pattern, question):
            return COMPLETE if digits in lengths else DICTATING if digits < max(lengths) else None
    if digits in PHONE or digits in CARD:
        return COMPLETE
    if ANY_NUMBER.search(question) or ANNOUNCED.search(" ".join(words)):
        return DICTATING if singles and digits < LEAST else OPEN
    return DICTATING if singles >= DICTATED else None


def _digits(words: tuple[str, ...]) -> tuple[int, int]:
    """How many digits the text ends with, and how many of them were said (or written) one by one."""
    digits = singles = 0
    for at in range(len(words) - 1, -1, -1):
        word = words[at].replace(",", "").replace(".", "")
        if word.isdigit():
            digits += len(word)
            singles += len(word) == 1
        elif word in REPEATS and digits:
            digits += REPEATS[word]
            singles += REPEATS[word]
        elif word in UNITS:
            if at == 0 or words[at - 1] not in TENS or word in ("zero", "oh", "o"):
                digits += 1
                singles += 1
        elif word in TENS or word in TEENS:
            digits += 2
        else:
            break
    return digits, singles


class Rules:
    """See `rejoinder.providers.TurnDetector`."""

    wants_text = True

    def __init__(self, context: ProviderContext) -> None:
        pass

    async def warm_up(self) -> None:
        """Nothing to load."""

    async def judge(self, turn: TurnSoFar) -> float | None:
        """What the words say; of another language than English nothing."""
        if turn.language.partition("-")[0].lower() != "en":
            return None
        return judge_text(turn.text, turn.asked)

    async def close(self) -> None:
        """Nothing to free."""


@hookimpl
def register_providers() -> Iterable[Provider]:
    """Offer `rules`."""
    return [Provider("turn", NAME, "Rules on the transcript: unfinished phrases, dictated digits", Rules)]
