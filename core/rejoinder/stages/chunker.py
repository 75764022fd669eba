"""Cuts a stream of text into speakable chunks: the first a few words, the later ones as long as speech gives time for.

Defaults are in words, because words are what time is made of here: one plays for about 300 ms, and a small model on one
core makes one in 25 ms (in 90 ms beside other work).
"""

from __future__ import annotations

import re

_ABBREVIATIONS = frozenset(
    ("dr", "mr", "mrs", "ms", "prof", "st", "vs", "etc", "e.g", "i.e", "a.m", "p.m", "approx", "jr", "sr")
)
# Each run (of dots, of letters) is tried from its start only: from every place in it takes quadratic time.
_SENTENCE_END = re.compile(r"(?<![.!?…。！？])[.!?…。！？]+[\"'”’)\]]*(?=\s|$)|[。！？]|\n+")
_CLAUSE_END = re.compile(r"[,;:—–](?=\s)|\s-(?=\s)")
_WHOLE_WORD = re.compile(r"(?<!\S)\S+(?=\s)")
_LEANING_WORDS = """
a an the this that these those my your his her its our their some any no every each
about above across after against along around as at before behind below between by during for from in into
like near of off on over per since than through to toward towards under until up via with within without
and but or nor so because if though although unless when where whether while which who whose what how why
am is are was were be been being isn't aren't wasn't weren't have has had haven't hasn't hadn't
do does did don't doesn't didn't can could can't couldn't will would won't wouldn't shall should shouldn't
may might must i you he she we they i'm you're he's she's it's we're they're that's there's what's let's
i've you've we've they've i'll you'll he'll she'll it'll we'll they'll i'd you'd he'd she'd we'd they'd
not very too more most quite really just mr mrs ms dr prof st
"""
"""Articles and determiners, prepositions, conjunctions, forms of be, have and do, modal verbs, subject pronouns."""
_LEANING = frozenset(_LEANING_WORDS.split())
"""Words that are said in one breath with the next: cut off from it, they sound torn."""
_MOST_CHARACTERS = 400
"""Text without spaces or punctuation is cut here."""
_AT_ONCE = 400
"""Of a longer piece of text so many characters are looked at: each chunk is searched for in all that is there."""
_LONG_WORD = 6
"""Characters from which a single word before a comma can stand alone ("Certainly,", but not "Yes,")."""


class Chunker:
    """Feed text, get chunks. A chunk is stripped and never empty; joined with spaces they are the text again.

    The first chunk decides when the answer is heard. It ends with the first clause, or else after `first_words` words;
    not after a word that leans on the next one ("the", "of", "I'm") if one of the words up to `first_most` is better.
    4 words play for about 1.2 s, and the fewer they are the more they sound like a sentence of their own.

    Each later chunk is a sentence, but at most `growth` times as many words as the one before, or `most_words`: then it
    is cut at a clause, or else between words. So it is there before the one before has been played, even at a
    quarter of the speed of speech: four times as many words in 1.2 s are 75 ms for each. More than `most_words` would
    only make the text queue in the synthesis.
    """

    def __init__(self, first_words: int = 4, first_most: int = 6, growth: float = 4.0, most_words: int = 25) -> None:
        self._first_words = max(1, first_words)
        self._first_most = max(self._first_words, first_most)
        self._growth = growth
        self._most_words = most_words
        self._text = ""
        self._before = 0
        """Words of the chunk before; 0 for none."""

    def feed(self, delta: str) -> list[str]:
        """The chunks that `delta` completes."""
        chunks: list[str] = []
        for at in range(0, len(delta), _AT_ONCE):
            self._text += delta[at : at + _AT_ONCE]
            while (end := self._boundary()) is not None:
                self._take(end, chunks)
        return chunks

    def finish(self) -> list[str]:
        """What is left, at the end of the text."""
        chunks: list[str] = []
        self._text = self._text.rstrip()
        while len(self._text.split()) > self._most() and (end := self._boundary()) is not None:
            self._take(end, chunks)
        self._take(len(self._text), chunks)
        return chunks

    def _take(self, end: int, chunks: list[str]) -> None:
        chunk = self._text[:end].strip()
        self._text = self._text[end:]
        if chunk:
            chunks.append(chunk)
            self._before = len(chunk.split())

    def _boundary(self) -> int | None:
        """Where the next chunk ends, or None if more text is needed to tell."""
        text, first, most = self._text, self._before == 0, self._most()
        sentence = _sentence_end(text)
        whole = len(text) if sentence is None else sentence
        # Where its words end: those that are surely whole, that is, followed by a space.
        words = [match.end() for match in _WHOLE_WORD.finditer(text) if match.end() <= whole]
        if sentence is not None and len(words) <= most:
            return sentence
        room = words[most - 1] if len(words) > most or (first and len(words) == most) else None
        clauses = [m.end() for m in _CLAUSE_END.finditer(text) if m.end() <= (whole if room is None else room)]
        if first:
            for end in clauses:
                if " " in text[:end].strip() or len(text[:end].strip()) > _LONG_WORD:
                    return end
            for end in words[self._first_words - 1 : most]:
                if not _leans(text[:end]):
                    return end
        if room is not None:
            return self._cut(words[:most], clauses)
        if sentence is None and len(text) > _MOST_CHARACTERS:
            return text.rfind(" ", 1, _MOST_CHARACTERS) + 1 or _MOST_CHARACTERS
        return None

    def _most(self) -> int:
        """Words that the next chunk may have."""
        if self._before == 0:
            return self._first_most
        return max(self._first_most, min(self._most_words, int(self._growth * self._before)))

    def _cut(self, words: list[int], clauses: list[int]) -> int:
        """Where a sentence is cut that is longer than there is time for: as late as is good, but not torn."""
        if clauses and clauses[-1] >= words[(len(words) - 1) // 3]:
            return clauses[-1]
        for end in reversed(words[len(words) // 3 :]):
            if not _leans(self._text[:end]):
                return end
        return words[-1]


def _sentence_end(text: str) -> int | None:
    for match in _SENTENCE_END.finditer(text):
        # At the very end of the text so far a full stop may be the middle of "3.5" or "...".
        if (match.end() < len(text) or "\n" in match.group()) and not _is_abbreviation(text, match):
            return match.end()
    return None


def _leans(text: str) -> bool:
    """Whether the last word of `text` belongs to the next one, as an article, a preposition or a number does."""
    word = text.split()[-1].lower().strip("\"'“”‘’()[]*_").replace("’", "'")
    return word in _LEANING or word[-1:].isdigit()


def _is_abbreviation(text: str, match: re.Match[str]) -> bool:
    if match.group() != ".":
        return False
    words = text[: match.start()].split()
    word = words[-1].lower().lstrip("(\"'") if words else ""
    initial = len(word) == 1 and word.isalpha() and word != "i"
    list_number = len(words) == 1 and word.isdigit()
    return word in _ABBREVIATIONS or initial or list_number
