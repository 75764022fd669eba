"""Reads HTML, whole or hostile, in one pass: tags and text, in time that grows with its length and no faster.

Python's own parser takes quadratic time for many kinds of broken markup, and fails on some.
"""

from __future__ import annotations

import html
import re

_NAME = re.compile(r"[a-zA-Z][^\s/>]*")
# Nothing here is ever tried a second time (`++`, `*+`).
_ATTRIBUTES = re.compile(r"""(?:[^=>]++|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+""")
_RAW = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}
"""Elements without tags inside, and their end."""


class Markup:
    """Calls its methods for what `read` comes upon; to be overridden. Names of tags are in lower case."""

    def start(self, tag: str) -> None:
        """A tag begins an element; its attributes are left out."""

    def end(self, tag: str) -> None:
        """A tag ends an element, which need not have begun."""

    def text(self, text: str) -> None:
        """A piece of text, with references such as `&amp;` resolved."""

    def read(self, page: str) -> None:
        """Read `page`. A tag that is not finished at its end is left out, as browsers do."""
        at = 0
        while at < len(page):
            opened = page.find("<", at)
            if opened != at:
                self.text(_resolved(page[at:] if opened < 0 else page[at:opened]))
            if opened < 0:
                return
            at = self._markup(page, opened)

    def _markup(self, page: str, at: int) -> int:
        """What begins with the `<` at `at`; returns where it ends."""
        following = page[at + 1 : at + 2]
        if following in ("!", "?"):
            return _after(page, "-->", at + 4) if page.startswith("<!--", at) else _after(page, ">", at)
        if following == "/":
            if name := _NAME.match(page, at + 2):
                after = _after(page, ">", name.end())
                if page[after - 1] == ">":
                    self.end(name[0].lower())
                return after
            return _after(page, ">", at)
        if name := _NAME.match(page, at + 1):
            return self._element(page, name[0].lower(), name.end())
        self.text("<")
        return at + 1

    def _element(self, page: str, tag: str, at: int) -> int:
        rest = _ATTRIBUTES.match(page, at)
        end = rest.end() if rest else at
        if end == len(page):
            return end
        self.start(tag)
        if page[end - 1] == "/" and tag not in _RAW:
            self.end(tag)
        if tag in _RAW:
            found = _RAW[tag].search(page, end)
            return found.start() if found else len(page)
        return end + 1


def _after(page: str, mark: str, at: int) -> int:
    found = page.find(mark, at)
    return len(page) if found < 0 else found + len(mark)


def _resolved(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a reference by a number of thousands of digits
        return text
