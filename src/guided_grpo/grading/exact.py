r"""Exact rational arithmetic on short answers: what the maths verifier trusts before any algebra system.

`exact_value` reads a number expression (`3/4`, `\frac56`, `2^{-99}`, `27.0`, `0.\overline{3}`, `50\%`, `2\frac12`) as a
`Fraction` and answers None for everything else, so `1/2^99` and `1/2^98` can never be confused by rounding.
`check_limits` rejects, before anything is computed, what would stall or swell the process.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_CHARS = 512
MAX_DEPTH = 40  # nested brackets
MAX_EXPONENT = 9_999
MAX_BITS = 50_000  # of a numerator or denominator
MAX_FACTORIAL = 1_000
MAX_SYMBOLIC_POWER = 30  # of a bracketed expression with variables or functions

_NUMBER = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\\overline\{(\d+)\})?")
_MIXED = re.compile(r"(\d+)(?:\s+(\d+)\s*/\s*(\d+)(?![\d.^/])|\s*(?=\\frac))")
_TIMES = re.compile(r"\*|\\cdot(?![a-zA-Z])|\\times(?![a-zA-Z])")
_OVER = re.compile(r"/|\\div(?![a-zA-Z])")
_PERCENT = re.compile(r"\\?%")
_COSTLY = re.compile(r"\\(?:[dt]?binom|prod|sum|int)(?![a-zA-Z])|!")
_POWER_OF_NUMBER = re.compile(r"\d\}?\s*\^(?!\s*(?:[a-z]|\{\s*[a-z]\s*\})(?!\s*\}*\s*[\^!]))")  # 2^k is small, as k is
_BOUNDS = re.compile(r"_(?:\{[^{}]*\}|\w)\s*\^\s*")  # "_{k=1}^" is no power


class LimitError(Exception):
    """An expression is over a declared limit; the message says which."""


class UnparseableError(Exception):
    """A declared answer that is neither mathematics nor a few words."""


class TimeLimitError(Exception):
    """An algebra system did not finish in time."""


class _NotExact(Exception):
    """Not a rational number expression."""


def exact_value(text: str) -> Fraction | None:
    """The value of a number expression, or None when it is none.

    Raises LimitError when an exponent, a factorial or the value itself is over its limit.
    """
    if not re.search(r"\d", text):
        return None
    check_depth(text)
    parser = _Parser(text)
    try:
        value = parser.sum()
    except _NotExact:
        return None
    except RecursionError:
        raise LimitError("a tower of powers or signs") from None
    return value if parser.done() else None


def check_depth(text: str) -> None:
    """Raises LimitError when brackets nest deeper than MAX_DEPTH: both parsers recurse."""
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth > MAX_DEPTH:
            raise LimitError(f"brackets nest deeper than {MAX_DEPTH}")


def check_limits(text: str) -> None:
    """Raises LimitError for a symbolic expression that an algebra system could not be trusted to finish."""
    if len(text) > MAX_CHARS:
        raise LimitError(f"{len(text)} characters, more than {MAX_CHARS}")
    check_depth(text)
    for digits in re.findall(r"\^\s*\{?\s*[-+]?\s*(\d+)", text):
        if int(digits) > MAX_EXPONENT:
            raise LimitError(f"exponent {digits[:12]} is over {MAX_EXPONENT}")
    if re.search(r"\^\s*(?:\{[^{}]*)?\d+\}?\s*\^(?!\{\\circ\})", text):
        raise LimitError("a tower of powers")
    plain = _BOUNDS.sub("_", text)
    for digits in re.findall(r"[)}\]]\s*\^\s*\{?\s*[-+]?\s*(\d+)", plain):
        if int(digits) > MAX_SYMBOLIC_POWER:
            raise LimitError(f"a bracketed expression to the power {digits[:12]}, over {MAX_SYMBOLIC_POWER}")
    if _COSTLY.search(text):
        if any(int(digits) > MAX_FACTORIAL for digits in re.findall(r"\d+", text)):
            raise LimitError(f"a sum, product, binomial or factorial with an argument over {MAX_FACTORIAL}")
        if _POWER_OF_NUMBER.search(plain) or re.search(r"!\s*[)}]*\s*!", text):
            raise LimitError("a power or a factorial inside a sum, product, binomial or factorial")


class _Parser:
    """Recursive descent over sums, products, powers, fractions, roots of squares, per cent and factorials."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def done(self) -> bool:
        self.skip()
        return self.at == len(self.text)

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, token: str | re.Pattern[str]) -> bool:
        """Step over `token` if it comes next."""
        self.skip()
        if isinstance(token, re.Pattern):
            match = token.match(self.text, self.at)
            self.at = match.end() if match else self.at
            return match is not None
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def sum(self) -> Fraction:
        value = self.product()
        while True:
            if self.take("+"):
                value = _sized(value + self.product())
            elif self.take("-"):
                value = _sized(value - self.product())
            else:
                return value

    def product(self) -> Fraction:
        value = self.signed()
        while True:
            if self.take(_TIMES):
                value = _sized(value * self.signed())
            elif self.take(_OVER):
                value = _sized(_divide(value, self.signed()))
            elif self.text.startswith("(", self.at):
                value = _sized(value * self.power())
            else:
                return value

    def signed(self) -> Fraction:
        if self.take("-"):
            return -self.signed()
        return self.signed() if self.take("+") else self.power()

    def power(self) -> Fraction:
        base = self.atom()
        while True:
            if self.take(_PERCENT):
                base /= 100
            elif self.take("!"):
                base = _factorial(base)
            else:
                break
        if not self.take("^"):
            return base
        exponent = self.group() if self.text.startswith("{", self.at) else self.signed()
        return _power(base, exponent)

    def atom(self) -> Fraction:
        self.skip()
        mixed = _MIXED.match(self.text, self.at)
        if mixed:  # "2 1/2" and "2\frac12" are two and a half, never a product
            self.at = mixed.end()
            part = _divide(Fraction(mixed[2]), Fraction(mixed[3])) if mixed[2] else self.atom()
            return int(mixed[1]) + part
        number = _NUMBER.match(self.text, self.at)
        if number:
            self.at = number.end()
            return _decimal(number[1], number[2])
        if self.take("\\frac"):
            return _sized(_divide(self.argument(), self.argument()))
        if self.take("\\sqrt"):
            return _root(self.argument())
        return self.group("()") if self.text.startswith("(", self.at) else self.group()

    def group(self, brackets: str = "{}") -> Fraction:
        if not self.take(brackets[0]):
            raise _NotExact
        value = self.sum()
        if not self.take(brackets[1]):
            raise _NotExact
        return value

    def argument(self) -> Fraction:
        r"""`{…}`, or a single digit as in `\frac56`."""
        self.skip()
        char = self.text[self.at : self.at + 1]
        if char.isdigit() and char.isascii():
            self.at += 1
            return Fraction(int(char))
        return self.group()


def _decimal(digits: str, repeating: str | None) -> Fraction:
    mantissa, _, exponent = digits.lower().partition("e")
    if abs(int(exponent or 0)) > MAX_EXPONENT:
        raise LimitError(f"an exponent over {MAX_EXPONENT}")
    text = f"0{mantissa}" if mantissa.startswith(".") else mantissa.rstrip(".")
    value = Fraction(text) * Fraction(10) ** int(exponent or 0)
    if repeating is None:
        return value
    if exponent or "." not in mantissa:
        raise _NotExact
    places = len(mantissa) - mantissa.index(".") - 1
    return value + Fraction(int(repeating), (10 ** len(repeating) - 1) * 10**places)


def _divide(over: Fraction, under: Fraction) -> Fraction:
    if not under:
        raise _NotExact
    return over / under


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise _NotExact
    if value > MAX_FACTORIAL:
        raise LimitError(f"a factorial over {MAX_FACTORIAL}!")
    return Fraction(math.factorial(int(value)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _NotExact
    size = abs(int(exponent))
    if size > MAX_EXPONENT:
        raise LimitError(f"an exponent over {MAX_EXPONENT}")
    if size * max(base.numerator.bit_length(), base.denominator.bit_length()) > MAX_BITS:
        raise LimitError(f"a power of more than {MAX_BITS} bits")
    if not base and exponent < 0:
        raise _NotExact
    return Fraction(base ** int(exponent))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise _NotExact
    over, under = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if over * over != value.numerator or under * under != value.denominator:
        raise _NotExact
    return Fraction(over, under)


def _sized(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise LimitError(f"a number of more than {MAX_BITS} bits")
    return value
