"""How long to wait, in numbers: what a turn detector's probability means for the silence that ends a turn."""

from __future__ import annotations

from rejoinder.settings import TurnPolicy

UNLIKELY = 0.3
"""Below this the turn is taken to go on, and no reply is prepared for it."""


def end_silence_s(policy: TurnPolicy, advice_ms: int, probability: float | None) -> float:
    """Silence after which a turn that is over with `probability` ends, in s.

    From `max_silence_ms` at 0 over `end_silence_ms` (or the VAD's `advice_ms`) at 0.5 to `min_silence_ms` at 1, in
    straight lines. Without an opinion it is the middle one. An `end_silence_ms` beyond the other two moves them.
    """
    least, most = policy.min_silence_ms, policy.max_silence_ms
    middle = policy.end_silence_ms or min(max(advice_ms, least), most)
    least, most = min(least, middle), max(most, middle)
    if probability is None:
        return middle / 1000
    doubt = 1 - 2 * min(max(probability, 0.0), 1.0)
    return (middle + doubt * (most - middle if doubt > 0 else middle - least)) / 1000
