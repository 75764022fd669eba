"""Which voices the installed espeak-ng has, and which of them speaks a language."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

_ROW = re.compile(r"\s*(\d+)\s+(\S+)\s+\S+\s+\S+\s+(\S+)\s*(.*)")
_ALSO = re.compile(r"\((\S+) (\d+)\)")
_VARIANT = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Voices(Collection[str]):
    """The voices by name (espeak-ng's language codes); each also with `+` and a variant behind it."""

    def __init__(self, listing: str) -> None:
        """`listing` is what `espeak-ng --voices` prints."""
        self._files: dict[str, str] = {}
        self._best: dict[str, tuple[int, str]] = {}
        for line in listing.splitlines():
            if row := _ROW.fullmatch(line):
                priority, name, file, others = row.groups()
                self._files[name] = file
                self._offer(name, int(priority), name)
                for other, rank in _ALSO.findall(others):
                    self._offer(other, int(rank), name)
        # The own language of a voice comes before all that it can do besides.
        for name in self._files:
            self._best[name.lower()] = (0, name)

    def _offer(self, language: str, priority: int, name: str) -> None:
        """espeak-ng prefers low numbers."""
        key = language.lower()
        if key not in self._best or priority < self._best[key][0]:
            self._best[key] = (priority, name)

    def speaking(self, language: str) -> str | None:
        """The voice for a language tag (`en-GB`, `zh`); None if there is none."""
        tag = language.lower().replace("_", "-")
        while tag:
            if tag in self._best:
                return self._best[tag][1]
            tag = tag.rpartition("-")[0]
        return None

    def argument(self, name: str) -> str:
        """What the program is to be given for a voice: the code of a language alone may not take a variant."""
        base, plus, variant = name.partition("+")
        return self._files[base] + plus + variant

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        base, plus, variant = name.partition("+")
        return base in self._files and (not plus or _VARIANT.fullmatch(variant) is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
