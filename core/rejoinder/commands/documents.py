"""Files as documents: finds them and turns plain text, Markdown and HTML into a title and a text to be searched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rejoinder.errors import ConfigError
from rejoinder.markup import Markup

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm")
"""What is taken of a folder."""
MAX_BYTES = 20_000_000
"""Of a file. HTML has far more bytes than text."""

_HTML = (".html", ".htm")
_MARKDOWN = (".md", ".markdown")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_TITLE = re.compile(r"^#[ \t]+([^ \t\n].*)", re.MULTILINE)


class ParsedFile(NamedTuple):
    """A file's title and its text, whose headings are written as in Markdown."""

    title: str
    text: str


def find(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and of the folders named all that can be read as text, sorted; hidden ones are left out.

    Raises:
        ConfigError: there is no such file or folder, or a folder has nothing to read.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(f"There is no file or folder {str(path)!r}.", code="no_such_file")
        if not path.is_dir():
            yield path
            continue
        files = list(_walk(path))
        if not files:
            kinds = ", ".join(SUFFIXES)
            raise ConfigError(f"The folder {str(path)!r} has no file ending in {kinds}.", code="no_such_file")
        yield from files


def read(path: Path) -> ParsedFile:
    """What `path` says.

    Raises:
        ConfigError: it cannot be read (`unreadable_file`), or is no text in UTF-8 (`not_text`).
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{str(path)!r} is larger than {MAX_BYTES // 1_000_000} MB.", code="unreadable_file")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error.strerror}.", code="unreadable_file") from None
    text = _decode(path, data)
    suffix = path.suffix.lower()
    if suffix in _HTML:
        return parse_html(text, path.stem)
    title = path.stem
    if suffix in _MARKDOWN:
        text = _FRONT_MATTER.sub("", text)
        found = _TITLE.search(text)
        title = (found[1].rstrip(" \t#") if found else "") or title
    return ParsedFile(title, text)


def parse_html(text: str, title: str) -> ParsedFile:
    """The readable text of a page; `title` is for pages that have none."""
    reader = _Reader()
    reader.read(text)
    body = reader.whole()  # ends a heading that was left open
    return ParsedFile(" ".join(reader.title().split()) or reader.first_heading or title, body)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(parent, name)


def _decode(path: Path, data: bytes) -> str:
    if b"\0" not in data:
        try:
            return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            pass
    raise ConfigError(
        f"{str(path)!r} is not text in UTF-8.",
        code="not_text",
        fix=f"Save it as text ({', '.join(SUFFIXES)}) in UTF-8.",
    )


class _Reader(Markup):
    """Collects what a browser would show, with headings as lines that begin with `#`."""

    _HIDDEN = frozenset(("script", "style", "template", "noscript", "svg", "head", "nav", "select", "iframe"))
    _INLINE = frozenset(
        ("a", "abbr", "b", "bdi", "bdo", "cite", "code", "em", "i", "kbd", "mark", "q", "s", "small", "span", "strong")
    ) | {"sub", "sup", "time", "u", "var", "wbr", "img", "font", "input", "label"}
    _LINE = frozenset(("br", "td", "th", "li", "dt", "dd", "tr"))

    def __init__(self) -> None:
        self._title: list[str] = []
        self.first_heading = ""
        self._parts: list[str] = []
        self._hidden: list[str] = []
        self._in_title = False
        self._heading: list[str] | None = None

    def start(self, tag: str) -> None:
        if tag == "title":
            self._in_title = True
        elif tag == "body":
            self._hidden.clear()  # many pages never close their head
        elif tag in self._HIDDEN:
            # Its first one counts, so the others need not be kept: there may be very many.
            if tag not in self._hidden:
                self._hidden.append(tag)
        elif _is_heading(tag):
            self._heading = []
        elif tag not in self._INLINE:
            self._break(tag)

    def end(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._HIDDEN:
            if tag in self._hidden:
                del self._hidden[self._hidden.index(tag) :]
        elif _is_heading(tag):
            self._end_heading(int(tag[1]))
        elif tag not in self._INLINE:
            self._break(tag)

    def text(self, text: str) -> None:
        if self._in_title:
            self._title.append(text)
        elif self._heading is not None and not self._hidden:
            self._heading.append(text)
        elif not self._hidden:
            self._parts.append(text.replace("\n", " "))

    def whole(self) -> str:
        """All of it."""
        if self._heading is not None:
            self._end_heading(1)
        return "".join(self._parts)

    def title(self) -> str:
        """The title, which may be empty."""
        return "".join(self._title)

    def _break(self, tag: str) -> None:
        if self._heading is not None:
            self._heading.append(" ")
        else:
            self._parts.append("\n" if tag in self._LINE else "\n\n")

    def _end_heading(self, level: int) -> None:
        heading = " ".join("".join(self._heading or ()).split())
        self._heading = None
        if heading:
            self.first_heading = self.first_heading or heading
            self._parts.append(f"\n\n{'#' * level} {heading}\n\n")


def _is_heading(tag: str) -> bool:
    return len(tag) == 2 and tag[0] == "h" and tag[1] in "123456"
