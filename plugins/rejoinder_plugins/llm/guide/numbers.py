"""Numbers as people say them: words to digits, digits to words, spoken arithmetic to an expression."""

from __future__ import annotations

import re

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_UNITS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: value for value, word in enumerate(_UNITS)} | {"naught": 0, "nought": 0, "fourty": 40}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS) if value > 1}
_SCALES = {"thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000, "trillion": 1_000_000_000_000}
_MULTIPLIERS = {"hundred": 100, **_SCALES}
_DIGITS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


def to_words(number: int) -> str:
    """`number` (0 to 999,999) in English, e.g. 123 -> "one hundred twenty-three".

    Raises:
        ValueError: it is out of range.
    """
    if not 0 <= number < 1_000_000:
        raise ValueError(f"{number} is not between 0 and 999,999")
    if number < 20:
        return _UNITS[number]
    for size, name in ((1_000, "thousand"), (100, "hundred")):
        if number >= size:
            head, rest = divmod(number, size)
            return f"{to_words(head)} {name}" + (f" {to_words(rest)}" if rest else "")
    tens, unit = divmod(number, 10)
    return _TENS[tens] + (f"-{_UNITS[unit]}" if unit else "")


def to_digits(text: str) -> str:
    """`text` (lower case) with every spoken number as digits: "twenty three times four point five" -> "23 times 4.5".

    Words that stand side by side without forming one number stay apart: "two thirty" -> "2 30".
    """
    words = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text).split()
    out: list[str] = []
    position = 0
    while position < len(words):
        value, end = _cardinal(words, position)
        value, end = _decimals(words, value, position, end)
        if end > position:
            out.append(value)
            position = end
        else:
            out.append(words[position])
            position += 1
    return " ".join(out)


def _cardinal(words: list[str], start: int) -> tuple[str, int]:
    """The number that begins at `start`, and where it ends (`start` if there is none)."""
    total = group = 0
    # What the next word must stay below to be added to the group, and the next scale below which to multiply it.
    group_size = limit = 10**15
    position, seen = start, False
    while position < len(words):
        word = words[position]
        following = words[position + 1] if position + 1 < len(words) else ""
        if word in ("a", "an") and not seen and following in _MULTIPLIERS:
            group, group_size, seen = 1, 1, True
        elif word == "and" and seen and following in _SMALL and words[position - 1] in _MULTIPLIERS:
            pass
        elif word in _SMALL and (value := _SMALL[word]) < group_size:
            if value == 0 and seen:
                break
            group, seen = group + value, True
            # After "twenty" only a unit may follow, after anything else only a multiplier.
            group_size = 10 if value >= 20 else 1
        elif word == "hundred" and seen and 0 < group < 100 and group_size <= 10:
            group, group_size = group * 100, 100
        elif word in _SCALES and seen and group and _SCALES[word] < limit:
            total, limit = total + group * _SCALES[word], _SCALES[word]
            group, group_size = 0, 10**15
        elif not seen and _DIGITS.fullmatch(word):
            if following not in _SCALES and not (following == "hundred" and word.isdigit()):
                return word, position + 1
            if "." in word:
                return f"{float(word) * _SCALES[following]:.0f}", position + 2
            group, group_size, seen = int(word), 1, True
        else:
            break
        position += 1
    return str(total + group), position


def _decimals(words: list[str], value: str, start: int, end: int) -> tuple[str, int]:
    """`value` with the decimals that follow a "point" at `end`, and where they end."""
    if end >= len(words) or words[end] not in ("point", "dot") or "." in value:
        return value, end
    decimals, position = "", end + 1
    while position < len(words):
        word = words[position]
        if word in ("oh", "o"):
            decimals += "0"
        elif word in _SMALL and _SMALL[word] < 10:
            decimals += str(_SMALL[word])
        elif word.isascii() and word.isdigit():
            decimals += word
        elif not decimals and word in _SMALL:
            spoken, position = _cardinal(words, position)
            return f"{value if end > start else '0'}.{spoken}", position
        else:
            break
        position += 1
    if not decimals:
        return value, end
    return f"{value if end > start else '0'}.{decimals}", position


# --- arithmetic -----------------------------------------------------------------------------------------------

_N = r"(-?\d+(?:\.\d+)?)"
_LEAD = re.compile(
    r"^(?:(?:what|how much|how many)(?: is| are| does| do| would be)?|calculate|compute|work out|solve|evaluate|"
    r"(?:do you know|tell me)(?: what)?(?: is)?|the (?:result|answer|value) (?:of|to)|that is|is|the) +"
)
_TAIL = re.compile(r"(?: (?:equals?|is|make|makes|be|equal to|altogether|in total|exactly|then|now|what))+$|[ =?.!,]+$")
_SPOKEN = [
    (rf"(?:add|the sum of|sum of) {_N} (?:and|to|plus) {_N}", r"\1 + \2"),
    (rf"subtract {_N} from {_N}", r"\2 - \1"),
    (rf"(?:the )?difference (?:between|of) {_N} and {_N}", r"\1 - \2"),
    (rf"(?:multiply|the product of|product of) {_N} (?:by|and|with) {_N}", r"\1 * \2"),
    (rf"divide {_N} by {_N}", r"\1 / \2"),
    (rf"{_N} ?(?:percent|per cent|%) of {_N}", r"(\1 / 100) * \2"),
    (rf"(?:a |1 )?half of {_N}", r"\1 / 2"),
    (rf"(?:a |1 )?third of {_N}", r"\1 / 3"),
    (rf"(?:a |1 )?quarter of {_N}", r"\1 / 4"),
    (rf"(?:double|twice) {_N}", r"2 * \1"),
    (rf"(?:the )?square root (?:of )?{_N}", r"sqrt(\1)"),
    (rf"(?:the )?root of {_N}", r"sqrt(\1)"),
    (rf"{_N} squared", r"\1 ** 2"),
    (rf"{_N} cubed", r"\1 ** 3"),
    (rf"{_N} (?:raised )?to the (?:power of )?{_N}(?:th|nd|rd|st)?(?: power)?", r"\1 ** \2"),
    (r"\b(?:multiplied by|times|time)\b", "*"),
    (r"\b(?:divided by|over)\b", "/"),
    (r"\bplus\b", "+"),
    (r"\b(?:minus|less|take away|negative)\b", "-"),
    (r"\b(?:modulo|mod)\b", "%"),
    (r"\b(?:open|left) (?:parenthesis|bracket|paren)\b", "("),
    (r"\b(?:close|right) (?:parenthesis|bracket|paren)\b", ")"),
    (r"(?<=\d) ?x ?(?=[\d(])", " * "),
]
_SPOKEN_RULES = [(re.compile(pattern), replacement) for pattern, replacement in _SPOKEN]
_SOUND_ALIKE = {"to": "2", "too": "2", "for": "4", "ate": "8", "won": "1"}
_EXPRESSION = re.compile(r"[-+*/%^(). 0-9]*(?:sqrt\([^a-z]*)*[-+*/%^(). 0-9]*")
_BINARY = re.compile(r"[\d)] *(?:\*\*|[-+*/%^]) *[-\d(s.]|sqrt")


def to_expression(text: str) -> str | None:
    """The arithmetic that `text` (normalised, numbers as digits) asks for, or None if it asks for none.

    "what is 15 percent of 80" -> "(15 / 100) * 80".
    """
    while (shorter := _LEAD.sub("", text)) != text:
        text = shorter
    while (shorter := _TAIL.sub("", text)) != text:
        text = shorter
    heard_alike = " ".join(_SOUND_ALIKE.get(word, word) for word in text.split())
    for candidate in (text, heard_alike):
        for pattern, replacement in _SPOKEN_RULES:
            candidate = pattern.sub(replacement, candidate)
        candidate = " ".join(candidate.split())
        if _EXPRESSION.fullmatch(candidate) and _BINARY.search(candidate):
            return candidate
    return None
