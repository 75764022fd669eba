"""Sortable identifiers: a prefix and a UUIDv7 (RFC 9562) in Crockford base32, e.g. `ses_06bq…`."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def uuid7() -> int:
    """A 128-bit UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then version, variant and 74 random bits."""
    millis = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10), "big")
    return millis << 80 | 0x7 << 76 | (noise >> 68) << 64 | 0b10 << 62 | noise & ((1 << 62) - 1)


def new_id(prefix: str) -> str:
    """A new id: `prefix`, an underscore and 26 characters that sort by creation time (to the millisecond)."""
    value = uuid7()
    digits = [_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
