"""Text as it is searched: cuts documents into passages, and texts and queries into the same words; no database here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

LONGEST = 900
"""Characters of a passage, at most."""
ENOUGH = 600
"""A passage this long ends with its paragraph."""
OVERLAP = 150
"""A passage that ends within a paragraph gives its last sentence to the next one too, if it is no longer than this."""
MOST_WORDS = 32
"""Words of a query that count; people do not ask longer questions, and each one costs."""

# What ends a heading is stripped from it afterwards: a pattern for it takes quadratic time to find that there is none.
_HEADING = re.compile(r"#{1,6}[ \t]+(.*)")
_FENCE = re.compile(r"[ \t]{0,3}(?:```|~~~)")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")
_DIACRITICS = re.compile("[\u0300-\u036f]")
# Marks (and more) of which no writing has so many in a row. Python sorts them one by one, in quadratic time.
_PILE = re.compile(r"([^\w\s\x00-\x7f]{30})[^\w\s\x00-\x7f]+")
# A letter or digit of any script, with the marks that belong to it: Python's \w leaves out the vowels of many.
_WORD = re.compile(
    r"[^\W_](?:[^\W_]|[\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e])*"
)

_STOP_WORDS = (
    "a about am an and any are as at be been but by can could d did do does for from had has have he her his how i if "
    "in into is it its ll m me my no not of on or our please re s she so some t tell than that the their them then "
    "there these they this to up us ve was we were what when where which who why will with would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that say nothing about what a query is after."""


class Passage(NamedTuple):
    """A piece of a document: the heading that it stands under (may be empty), and its text."""

    heading: str
    text: str


def clean(text: str) -> str:
    """`text` as every database can store it: without NUL and lone surrogates, lines ending in a line feed."""
    text = text.replace("\x00", " ").encode("utf-8", "replace").decode()
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split(text: str) -> list[Passage]:
    """The passages of `text`, at most `LONGEST` characters each, cut at headings, paragraphs and sentences.

    Lines that begin with one to six `#` are headings. Every word of the text is in a passage or in a heading.
    """
    passages: list[Passage] = []
    for heading, paragraphs in _sections(text):
        bodies = list(_pack(paragraphs))
        # A heading with nothing beneath it still says something.
        passages += [Passage(heading, body) for body in bodies or ([heading[:LONGEST]] if heading else [])]
    return passages


def words_of(text: str) -> list[str]:
    """The words of `text` in their order, without case, diacritics and punctuation.

    The index holds these, and queries are made of them, so that both databases take the same things for words and a
    query can never be anything else than words to them.
    """
    text = _PILE.sub(r"\1", text.casefold())
    plain = _DIACRITICS.sub("", unicodedata.normalize("NFKD", text))
    # Some letters only show their lower case once they are taken apart.
    return _WORD.findall(unicodedata.normalize("NFC", plain.casefold()))


def query_words(query: str) -> list[str]:
    """The words of `query` that are worth looking for, each once, at most `MOST_WORDS`."""
    words = list(dict.fromkeys(words_of(query)))
    return ([word for word in words if word not in STOP_WORDS] or words)[:MOST_WORDS]


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    heading, paragraphs, lines, code = "", list[str](), list[str](), False

    def end() -> None:
        if lines:
            paragraphs.append(" ".join(lines))
            lines.clear()

    for line in clean(text).split("\n"):
        if _FENCE.match(line):
            code = not code  # in there, a line that begins with # is a comment
            lines += line.strip("`~").split()
        elif not code and (found := _HEADING.match(line)):
            end()
            if heading or paragraphs:
                yield heading, paragraphs
            heading, paragraphs = " ".join(found[1].rstrip(" \t#").split()), []
        elif words := line.split():
            lines.append(" ".join(words))
        else:
            end()
    end()
    if heading or paragraphs:
        yield heading, paragraphs


def _pack(paragraphs: list[str]) -> Iterator[str]:
    """Passages of whole sentences; a paragraph begins on a line of its own."""
    passage = ""
    for paragraph in paragraphs:
        if passage and (len(passage) >= ENOUGH or len(passage) + 1 + len(paragraph) > LONGEST):
            yield passage
            passage = ""
        joint, last = "\n", ""
        for sentence in _sentences(paragraph):
            if passage and len(passage) + 1 + len(sentence) > LONGEST:
                yield passage
                overlaps = last and len(last) <= OVERLAP and len(last) + 1 + len(sentence) <= LONGEST
                passage = f"{last} {sentence}" if overlaps else sentence
            else:
                passage = f"{passage}{joint}{sentence}" if passage else sentence
            joint, last = " ", sentence
    if passage:
        yield passage


def _sentences(paragraph: str) -> Iterator[str]:
    """The sentences, none longer than `LONGEST`."""
    for sentence in _SENTENCE.split(paragraph):
        start = 0
        while len(sentence) - start > LONGEST:
            end = sentence.rfind(" ", start + 1, start + LONGEST + 1)
            end = start + LONGEST if end < 0 else end
            yield sentence[start:end]
            # Words are parted by single spaces here.
            start = end + (sentence[end] == " ")
        if start < len(sentence):
            yield sentence[start:]
