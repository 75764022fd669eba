"""Reduces HTML to the text somebody would read: titles, paragraphs and lists, without scripts and markup."""

from __future__ import annotations

import re

from rejoinder.markup import Markup

_HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select", "head"})
# fmt: off
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "legend", "li",
    "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "title", "tr", "ul",
})
# fmt: on
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")


def readable(html: str) -> str:
    """The text of a page, one line for each block; a list item begins with `- `, table cells are parted by ` | `."""
    reader = _Reader()
    reader.read(html)
    text = _LINES.sub("\n", _SPACES.sub(" ", "".join(reader.parts))).strip()
    return "\n".join(line for line in text.split("\n") if line.strip("-| "))


class _Reader(Markup):
    def __init__(self) -> None:
        self.parts: list[str] = []
        self._hidden: list[str] = []
        self._title = False

    def start(self, tag: str) -> None:
        self._title = tag == "title"
        if tag in _HIDDEN:
            # Its first one counts, so the others need not be kept: there may be very many.
            if tag not in self._hidden:
                self._hidden.append(tag)
        elif tag in _BLOCKS:
            # Many pages do not close their head.
            if self._hidden == ["head"] and tag != "title":
                self._hidden.clear()
            self.parts.append("\n- " if tag == "li" else "\n")
        elif tag == "body":
            self._hidden.clear()
        elif tag in ("td", "th"):
            self.parts.append(" | " if self.parts and not self.parts[-1].endswith("\n") else "")

    def end(self, tag: str) -> None:
        self._title = False
        if tag in self._hidden:
            # What was opened inside and not closed ends with it.
            del self._hidden[self._hidden.index(tag) :]
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def text(self, text: str) -> None:
        if not self._hidden or (self._title and self._hidden == ["head"]):
            self.parts.append(text.replace("\n", " "))
