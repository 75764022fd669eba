"""Cuts a stream of text into speakable chunks: the first as short as a clause, the later ones whole sentences."""

from __future__ import annotations

import re

_ABBREVIATIONS = frozenset(
    ("dr", "mr", "mrs", "ms", "prof", "st", "vs", "etc", "e.g", "i.e", "a.m", "p.m", "approx", "jr", "sr")
)
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)\]]*(?=\s|$)|[。！？]|\n+")
_CLAUSE_END = re.compile(r"[,;:—–](?=\s)|\s-(?=\s)")
_FIRST_MIN = 6
"""Characters a first clause needs: a chunk of one short word sounds torn off."""
_CLAUSE_FROM = 140
"""A sentence longer than this is cut at a clause."""
_HARD_LIMIT = 400
"""Text without any punctuation is cut at a space here."""


class Chunker:
    """Feed text, get chunks. A chunk is stripped and never empty; joined with spaces they are the text again."""

    def __init__(self) -> None:
        self._text = ""
        self._first = True

    def feed(self, delta: str) -> list[str]:
        """The chunks that `delta` completes."""
        self._text += delta
        chunks: list[str] = []
        while (end := self._boundary()) is not None:
            self._take(end, chunks)
        return chunks

    def finish(self) -> list[str]:
        """What is left, at the end of the text."""
        chunks: list[str] = []
        while (end := self._boundary()) is not None:
            self._take(end, chunks)
        self._take(len(self._text), chunks)
        return chunks

    def _take(self, end: int, chunks: list[str]) -> None:
        chunk = self._text[:end].strip()
        self._text = self._text[end:]
        if chunk:
            chunks.append(chunk)
            self._first = False

    def _boundary(self) -> int | None:
        """Where the next chunk ends, or None if more text is needed to tell."""
        text = self._text
        for match in _SENTENCE_END.finditer(text):
            # At the very end of the text so far a full stop may be the middle of "3.5" or "...".
            if (match.end() < len(text) or "\n" in match.group()) and not _is_abbreviation(text, match):
                sentence = match.end()
                break
        else:
            sentence = None
        if self._first or len(text) > _CLAUSE_FROM:
            least = _FIRST_MIN if self._first else _CLAUSE_FROM // 2
            for match in _CLAUSE_END.finditer(text, 0, sentence or len(text)):
                too_long = sentence is None or sentence > _CLAUSE_FROM
                if len(text[: match.end()].strip()) >= least and (self._first or too_long):
                    return match.end()
        if sentence is None and len(text) > _HARD_LIMIT:
            return text.rfind(" ", 1, _HARD_LIMIT) + 1 or _HARD_LIMIT
        return sentence


def _is_abbreviation(text: str, match: re.Match[str]) -> bool:
    if match.group() != ".":
        return False
    words = text[: match.start()].split()
    word = words[-1].lower().lstrip("(\"'") if words else ""
    initial = len(word) == 1 and word.isalpha() and word != "i"
    list_number = len(words) == 1 and word.isdigit()
    return word in _ABBREVIATIONS or initial or list_number
