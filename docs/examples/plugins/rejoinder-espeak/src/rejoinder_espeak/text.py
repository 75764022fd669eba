"""Text as a language model writes it, made into what is read out."""

from __future__ import annotations

import re
import unicodedata

_REPLACEMENTS = (
    (re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*\)"), r"\1"),  # links and images: their text
    (re.compile(r"https?://(?:www\.)?([\w.-]+)\S*"), r"\1"),  # addresses: their host
    (re.compile(r"^\s*(?:#{1,6}|>|[-*+•])\s+", re.MULTILINE), ""),  # headings, quotes, list items
    # Code and emphasis; single brackets, too: [[...]] would be read as phonemes.
    (re.compile(r"```\w*|[`~\[\]{}<>|]+|\*{2,}|(?<!\w)[*_]+(?=\w)|(?<=\w)[*_]+(?!\w)"), " "),
    (re.compile(r"\s+"), " "),
)
_SILENT = ("So", "Sk", "Cc", "Cf", "Cn", "Co", "Cs")
"""Categories of what nobody says: emoji are "other symbols", the rest are modifiers, controls and holes of Unicode."""
_JOINERS = "\u200c\u200d"
"""Part of the spelling of some scripts."""


def speakable(text: str) -> str:
    """`text` without markup, emoji and control characters; "" if no letter or digit is left."""
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    kept = (c for c in text if c in _JOINERS or c == "°" or unicodedata.category(c) not in _SILENT)
    text = "".join(kept).replace("\ufe0f", "").strip()
    return text if any(character.isalnum() for character in text) else ""
