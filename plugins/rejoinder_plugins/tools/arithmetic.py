"""Evaluates arithmetic written as text, in decimal, with bounds on everything; nothing is executed."""

from __future__ import annotations

import decimal
import re
from decimal import Decimal

from rejoinder.errors import ToolError

MAX_CHARS = 200
MAX_DEPTH = 20
MAX_EXPONENT = 1000
DIGITS = 12
"""Significant digits of a result."""

_LARGEST = Decimal(10) ** 30
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+\.?\d*|\.\d+)|(?P<op>\*\*|[-+*/%()^])|(?P<word>[a-zA-Z]+))")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "√": " sqrt "})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CONTEXT = decimal.Context(
    prec=40, Emax=999, Emin=-999, traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
)


def calculate(expression: str) -> str:
    """The value of `expression` as plain digits, rounded to `DIGITS` significant ones, e.g. `"2 * (3 + 4)"` -> `"14"`.

    Knows `+ - * / % ** ^ ( )`, signs, decimals, commas between thousands and `sqrt(x)`. `%` is the remainder, with the
    sign of the divisor; powers bind from the right.

    Raises:
        ToolError: it is too long, too deep, no arithmetic, or has no (finite, reasonably sized) value.
    """
    if len(expression) > MAX_CHARS:
        raise ToolError(f"The expression has {len(expression)} characters; at most {MAX_CHARS} are allowed.")
    with decimal.localcontext(_CONTEXT):
        try:
            value = _Parser(_THOUSANDS.sub("", expression.translate(_SIGNS))).parse()
            rounded = decimal.Context(prec=DIGITS).plus(value)
        except decimal.DivisionByZero:
            raise ToolError("Division by zero has no result.") from None
        except decimal.Overflow:
            raise ToolError("The result is too large.") from None
        except decimal.InvalidOperation:
            raise ToolError("This has no real result.") from None
    text = f"{rounded:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


class _Parser:
    """Recursive descent, one method per level of precedence; evaluates as it reads."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        self._next = 0
        self._depth = 0
        position = 0
        text = text.rstrip().removesuffix("=").rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise ToolError(
                    f"Unexpected {text[position:].lstrip()[:1]!r}: only numbers, + - * / % ** ( ) and sqrt are known."
                )
            self._tokens.append(found.group().strip())
            position = found.end()

    def parse(self) -> Decimal:
        if not self._tokens:
            raise ToolError('The expression is empty; write for example "12 + 30".')
        value = self._sum()
        if self._peek():
            raise ToolError(f"Unexpected {self._peek()!r} after a complete expression.")
        return value

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _sum(self) -> Decimal:
        value = self._product()
        while self._peek() in ("+", "-"):
            value = _bounded(value + self._product() if self._take() == "+" else value - self._product())
        return value

    def _product(self) -> Decimal:
        value = self._signed()
        while self._peek() in ("*", "/", "%"):
            operator, right = self._take(), self._signed()
            if operator == "*":
                value = value * right
            elif not right:
                raise decimal.DivisionByZero
            elif operator == "/":
                value = value / right
            else:
                value = value % right
                if value and (value < 0) != (right < 0):
                    value += right
            value = _bounded(value)
        return value

    def _signed(self) -> Decimal:
        self._enter()
        if self._peek() in ("+", "-"):
            value = -self._signed() if self._take() == "-" else self._signed()
        else:
            value = self._power()
        self._depth -= 1
        return value

    def _power(self) -> Decimal:
        base = self._atom()
        if self._peek() not in ("**", "^"):
            return base
        self._take()
        exponent = self._signed()
        if abs(exponent) > MAX_EXPONENT:
            raise ToolError(f"The exponent {exponent:f} is too large; at most {MAX_EXPONENT} is allowed.")
        if not base and exponent < 0:
            raise decimal.DivisionByZero
        return _bounded(Decimal(1) if not base and not exponent else base**exponent)

    def _atom(self) -> Decimal:
        token = self._take()
        if token.lower() == "sqrt":
            return self._atom_inside().sqrt()
        if token == "(":
            self._enter()
            value = self._sum()
            self._depth -= 1
            if self._take() != ")":
                raise ToolError('A ")" is missing.')
            return value
        if token[:1].isdigit() or token[:1] == ".":
            return _bounded(Decimal(token))
        if token[:1].isalpha():
            raise ToolError(f"Unknown word {token[:20]!r}: use numbers, + - * / % ** ( ) and sqrt.")
        raise ToolError(f"A number is missing before {token!r}." if token else "The expression ends too early.")

    def _atom_inside(self) -> Decimal:
        self._enter()
        value = self._atom()
        self._depth -= 1
        return value

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError("The expression is nested too deeply; split it.")


def _bounded(value: Decimal) -> Decimal:
    if abs(value) > _LARGEST:
        raise ToolError("The numbers get too large: at most 30 digits are allowed.")
    return value
