"""Knows who fails at the moment, so that not everybody has to wait for them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_FORGET_S = 300.0
"""Failures further apart than this are not in a row."""


@dataclass(slots=True)
class _Record:
    failures: int = 0
    failed_at: float = 0.0
    rest_began_at: float = 0.0
    rests_until: float = 0.0
    rest_s: float = 0.0
    benched: bool = False
    """It rests for what it did to others, so that it works meanwhile means nothing."""


class Breaker:
    """Knows which providers fail at the moment, so that not every request waits for them again.

    One that failed `failures` times in a row rests: it is asked last, for `least_s`, twice as long after every
    further failure, at most `most_s`. Then one request tries it again in its place. May be shared by all sessions of
    a process. `now` is a monotonic clock in seconds; None takes the running loop's. `told(kind, name, error)` hears of
    every failure, and with None of one that works again.
    """

    def __init__(
        self,
        failures: int = 2,
        least_s: float = 5.0,
        most_s: float = 60.0,
        now: Callable[[], float] | None = None,
        told: Callable[[str, str, Exception | None], None] = lambda kind, name, error: None,
    ) -> None:
        self._failures = failures
        self._least_s = least_s
        self._most_s = most_s
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._told = told
        self._records: dict[tuple[str, str], _Record] = {}

    def order(self, kind: str, names: Iterable[str]) -> list[str]:
        """`names` in the order in which they are to be asked: those that rest go to the end."""
        now = self._now()
        return sorted(names, key=lambda name: self._rests(kind, name, now))

    def rests(self, kind: str, name: str) -> bool:
        """Whether `name` is not to be asked now."""
        return bool(self._records) and self._rests(kind, name, self._now())

    def _rests(self, kind: str, name: str, now: float) -> bool:
        record = self._records.get((kind, name))
        return record is not None and now < record.rests_until

    def asked(self, kind: str, name: str) -> None:
        """`name` is asked now. If that is a trial after a rest, nobody else tries until it is known how it went."""
        record = self._records.get((kind, name))
        if record is not None and record.failures >= self._failures and self._now() >= record.rests_until:
            record.benched = False
            record.rests_until = self._now() + record.rest_s

    def failed(self, kind: str, name: str, error: Exception | None = None, since: float | None = None) -> None:
        """`name` failed or was late, with that `error`. It was asked at `since`: what began before a rest is over."""
        if error is not None:
            self._told(kind, name, error)
        now = self._now()
        record = self._records.setdefault((kind, name), _Record())
        if since is not None and since < record.rest_began_at:
            return
        self._forgive(record)
        record.failures += 1
        record.failed_at = now
        if record.failures >= self._failures:
            self._rest(record, min(self._most_s, 2 * record.rest_s or self._least_s))

    def _forgive(self, record: _Record) -> None:
        if self._now() - max(record.failed_at, record.rests_until) > _FORGET_S:
            record.failures = 0
            record.rest_s = 0.0

    def _rest(self, record: _Record, rest_s: float) -> None:
        record.rest_s = rest_s
        record.rest_began_at = self._now()
        record.rests_until = record.rest_began_at + rest_s

    def bench(self, kind: str, name: str, rest_s: float) -> None:
        """`name` did something so bad that it rests at once: for `rest_s`, then twice as long each time."""
        record = self._records.setdefault((kind, name), _Record())
        self._forgive(record)
        record.failures = max(record.failures, self._failures)
        record.failed_at = self._now()
        record.benched = True
        self._rest(record, max(rest_s, min(self._most_s, 2 * record.rest_s)))

    def worked(self, kind: str, name: str, since: float | None = None) -> None:
        """`name` did what it was asked for (`since`: as in `failed`)."""
        record = self._records.get((kind, name))
        if record is None or (record.benched and self._now() < record.rests_until):
            return
        if since is None or since >= record.rest_began_at:
            del self._records[kind, name]
            self._told(kind, name, None)
