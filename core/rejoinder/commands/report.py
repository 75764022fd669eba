"""Figures for people: percentiles that say how many values they rest on, and plain tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MIN_COUNT = {50: 1, 90: 10, 95: 20, 99: 100}
"""A percentile of fewer values than this is hardly more than their maximum, and is not shown."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `percent` % of `values` do not exceed."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Percentiles of `n` values, in their unit; None where `n` is too small to say."""

    n: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution:
        """The distribution of `values`."""
        known = sorted(values)
        shown = {p: percentile(known, p) if len(known) >= least else None for p, least in MIN_COUNT.items()}
        return cls(len(known), shown[50], shown[90], shown[95], shown[99], known[-1] if known else None)

    def json(self) -> dict[str, float | int | None]:
        """As a JSON object, rounded to 0.01."""
        figures = {"p50": self.p50, "p90": self.p90, "p95": self.p95, "p99": self.p99, "max": self.max}
        return {"n": self.n, **{name: None if v is None else round(v, 2) for name, v in figures.items()}}


def figure(value: float | None, digits: int = 0) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table of text: the first `words` columns to the left, the others (numbers) to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
