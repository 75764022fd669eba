"""The judge `words`: what people say without meaning to stop somebody, and what always does."""

from __future__ import annotations

import re

import msgspec

from rejoinder.providers import Judgement, Overlap, ProviderContext
from rejoinder_plugins.interruption.echo import Foreign, foreign

NAME = "words"

STOP_PHRASES = (
    "stop",
    "wait",
    "wait a minute",
    "wait a moment",
    "wait a second",
    "hold on",
    "hang on",
    "hold it",
    "one second",
    "one sec",
    "one moment",
    "one minute",
    "just a second",
    "just a moment",
    "just a minute",
    "excuse me",
    "no no",
    "no stop",
    "no wait",
    "shut up",
    "be quiet",
    "quiet",
    "silence",
    "shush",
    "enough",
    "that's enough",
    "cancel",
    "pause",
    "listen",
    "listen to me",
    "let me speak",
    "let me talk",
    "let me finish",
    "never mind",
    "forget it",
    "not that",
    "that's wrong",
    "that's not right",
    "hey",
)
"""At the beginning of what is said they stop the agent, however few words the profile asks for."""
STOP_ANYWHERE = ("stop", "wait", "hold on", "shut up", "be quiet")
"""These do so at any place within the first `EARLY_WORDS` words: "okay okay stop"."""
EARLY_WORDS = 6

_SINGLE = (
    "yeah yep yup ya yes okay ok okey right sure alright cool great nice good fine true exactly correct "
    "absolutely definitely totally indeed really wow oh ah aha uh um mm mmm hm hmm hmmm mhm mmhmm uhhuh huh ha "
    "haha hah hehe heh ooh aw er erm eh yay k kay mkay mhmm uhuh gotcha understood agreed wonderful perfect "
    "awesome amazing interesting mum mama mom"
)
BACKCHANNELS = tuple(_SINGLE.split())
"""Words that say "I am listening", alone or repeated."""
BACKCHANNEL_PHRASES = (
    "mm hm",
    "mm hmm",
    "mm mm",
    "m hm",
    "uh huh",
    "uh uh",
    "ah ha",
    "i see",
    "i know",
    "i understand",
    "i agree",
    "i guess",
    "got it",
    "got you",
    "all right",
    "of course",
    "for sure",
    "makes sense",
    "that makes sense",
    "that's right",
    "that's true",
    "that's good",
    "that's great",
    "thank you",
    "thanks",
    "sounds good",
    "sounds great",
    "very good",
    "no problem",
    "no way",
    "oh my",
    "oh my god",
    "oh wow",
    "is that so",
    "go on",
    "go ahead",
)
MOST_BACKCHANNEL_WORDS = 6
"""A longer row of them is no listening any more."""

_MADE_UP = "you so the i a and but it is he she they we or thank bye to in no's what who that this there then me now"
MADE_UP = frozenset(_MADE_UP.split())
"""Single words that recognisers hear in a cough or in laughter."""
MADE_UP_MS = 700
"""A made-up word in shorter speech is none."""
FASTEST_MS = 100
"""Nobody speaks a word in less, on average; recognisers make more words up of a cough."""
SHORTEST_MS = 200
"""Shorter speech is no word at all, unless it is one the judge knows."""
UNSURE_MS = 500
UNSURE_WORDS = 3
"""Fewer words in shorter speech that goes on may be the beginning of anything, also of "oh, really?"."""
ECHOED_WORDS = 2
"""Words needed among those of the agent's own echo, of which some are always misheard."""
LONG_MS = 700
"""Speech of unknown words that is longer than a cough or an "mm-hm"."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def _is_made_up(words: tuple[str, ...], speech_ms: float) -> bool:
    """Whether a recogniser is likely to have made up `words`: too much for the time, or its usual mistakes."""
    if speech_ms < max(SHORTEST_MS, FASTEST_MS * len(words)):
        return True
    if len(words) > 1 and len(set(words)) == 1:  # laughter
        return True
    known = (len(words) == 1 and words[0] in MADE_UP) or all(len(word) == 1 for word in words)
    return known and speech_ms < MADE_UP_MS


class Language(msgspec.Struct, forbid_unknown_fields=True):
    """Phrases of one language, in lower case; punctuation and hyphens do not count."""

    stop: tuple[str, ...] = ()
    backchannel: tuple[str, ...] = ()


class WordsSettings(msgspec.Struct, forbid_unknown_fields=True):
    """`stop` and `backchannel` are added to the English phrases; `languages` has those of others, such as "de".

    `replace` leaves the built-in English ones out.
    """

    stop: tuple[str, ...] = ()
    backchannel: tuple[str, ...] = ()
    languages: dict[str, Language] = {}
    replace: bool = False


def split(text: str) -> tuple[str, ...]:
    """The words of `text`, in lower case; what a hyphen joins is two."""
    return tuple(part for word in _WORD.findall(text.lower().replace("’", "'")) for part in word.split("-"))


class _Table:
    """The phrases of one language."""

    def __init__(self, stop: tuple[str, ...], anywhere: tuple[str, ...], backchannel: tuple[str, ...]) -> None:
        self.stop = {split(phrase) for phrase in stop}
        self.anywhere = {split(phrase) for phrase in anywhere}
        self.backchannel = {split(phrase) for phrase in backchannel}
        self.longest = max((len(phrase) for phrase in (*self.stop, *self.anywhere, *self.backchannel)), default=1)

    def is_stop(self, words: tuple[str, ...]) -> bool:
        """Whether `words` begin with a stop phrase (after backchannels), or have a strong one near the beginning."""
        start = 0
        while step := self._match(words, start, self.backchannel):
            if self._match(words, start, self.stop):
                break
            start += step
        if self._match(words, start, self.stop):
            return True
        return any(self._match(words, at, self.anywhere) for at in range(min(len(words), EARLY_WORDS)))

    def is_backchannel(self, words: tuple[str, ...]) -> bool:
        """Whether `words` are nothing but backchannels, and not too many."""
        return 0 < len(words) <= MOST_BACKCHANNEL_WORDS and not self.others(words)

    def others(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """`words` without backchannels."""
        left: list[str] = []
        at = 0
        while at < len(words):
            step = self._match(words, at, self.backchannel)
            left += words[at : at + 1] if not step else ()
            at += step or 1
        return tuple(left)

    def _match(self, words: tuple[str, ...], at: int, phrases: set[tuple[str, ...]]) -> int:
        """Words of the longest of `phrases` that stands at `at`; 0: none."""
        return next((n for n in range(min(self.longest, len(words) - at), 0, -1) if words[at : at + n] in phrases), 0)


class Words:
    """See `rejoinder.providers.InterruptionJudge`."""

    def __init__(self, context: ProviderContext) -> None:
        settings: WordsSettings = context.settings
        builtin = not settings.replace
        self._english = _Table(
            (*(STOP_PHRASES if builtin else ()), *settings.stop),
            (*(STOP_ANYWHERE if builtin else ()), *settings.stop),
            (*((*BACKCHANNELS, *BACKCHANNEL_PHRASES) if builtin else ()), *settings.backchannel),
        )
        self._tables = {
            name.lower(): _Table(table.stop, table.stop, table.backchannel)
            for name, table in settings.languages.items()
        }

    async def warm_up(self) -> None:
        """Nothing to load."""

    def judge(self, overlap: Overlap) -> Judgement | None:
        """Stop words stop at once, backchannels and noise never, other words once there are enough of them."""
        if overlap.text is None:
            if overlap.final:
                return Judgement(stop=overlap.speech_ms >= LONG_MS, cause="no_transcript")
            return None
        words = split(overlap.text)
        if not words:
            return Judgement(stop=False, cause="noise") if overlap.final else None
        language = overlap.language.lower()
        table = self._tables.get(language) or self._tables.get(language.partition("-")[0]) or self._english
        among = foreign(overlap.text, overlap.agent_text)
        if among is not None:
            return self._judge_among(among, table, overlap)
        if table.is_stop(words):
            return Judgement(stop=True, cause="stop_word")
        if table.is_backchannel(words):
            return Judgement(stop=False, cause="backchannel")
        if _is_made_up(words, overlap.speech_ms):
            return Judgement(stop=False, cause="noise") if overlap.final else None
        if len(words) < overlap.min_words:
            return Judgement(stop=False, cause="few_words") if overlap.final else None
        unsure = overlap.speech_ms < UNSURE_MS if len(words) < UNSURE_WORDS else False
        return None if unsure and not overlap.final else Judgement(stop=True, cause="words")

    def _judge_among(self, among: Foreign, table: _Table, overlap: Overlap) -> Judgement:
        """What is said among the agent's own echo, of which some words are always misheard."""
        if table.is_stop(among.between) or table.is_stop(among.others):
            return Judgement(stop=True, cause="stop_word")
        if len(table.others(among.others)) >= max(overlap.min_words, ECHOED_WORDS):
            return Judgement(stop=True, cause="words")
        return Judgement(stop=False, cause="backchannel" if among.others else "echo")

    async def close(self) -> None:
        """Nothing to free."""
