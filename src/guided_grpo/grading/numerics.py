r"""Equality of two expressions by value: read once, then evaluated at 60 digits, with variables at fixed points.

    equal  ⇔  |a(p) − b(p)| ≤ 10⁻⁴⁰ · max(|a(p)|, |b(p)|)   at every point p where both are real, or neither is

An identity that holds at seven points of 60 digits holds; nothing is simplified, so nothing stalls: the work is linear
in what is written, sums and integrals included, and over MAX_STEPS it is refused. An integral between bounds is taken
numerically, with a bound of its error: what differs by more is unequal, and only where that bound is too wide to tell
does the algebra system decide (`symbolic.py`), as for what the reader does not know (limits, integrals without bounds).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mpmath import mp, mpc, mpf  # type: ignore[import-untyped]  # mpmath ships no types

from guided_grpo.grading.exact import LimitError, check_depth

DIGITS = 60
MAX_STEPS = 20_000  # operations for one value
INTEGRAL_STEPS = 60_000  # where it holds an integral
MAX_MAGNITUDE = 200_000  # bits of a value's exponent
MAX_ARGUMENT = 20_000  # of a factorial or a binomial
_NEAR = 10**-40
_SURE = 10**-25  # error of an integral that is as good as none
_FAR_OUT = 100  # on the way to an infinite bound
_FAR = 10**-8  # difference, beside 1,000 errors, that no integral explains
_ROUNDED = 10**-6  # where one of the two is a decimal of at least six places

_PIECEWISE = re.compile(  # what may be one expression here and another there
    r"\||\\(?:sqrt|lfloor|lceil|floor|ceil|max|min|bmod|mod|gcd|lcm)(?![a-zA-Z])|\^\s*\{[^{}]*/"
)

Scope = dict[str, Any]
Value = Callable[["_Work", Scope], Any]

_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\.\d*)?|\.\d+)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d)))?|(\\[a-zA-Z]+|\\[{}|])|([a-zA-Z])|(\S))"
)
_MIXED = re.compile(r"(?<![\d.)}\]a-zA-Z])(\d+)\s*(\\frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d))")  # 2\frac12 is no product
_GREEK = frozenset(
    re.findall(
        r"\w+",
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
        "upsilon phi varphi chi psi omega unit Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell",
    )
)
_SPELLED = re.compile(
    r"arcsin|arccos|arctan|sqrt|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|exp|gcd|lcm|max|min|ln|lg|pi"
)


class UnreadError(Exception):
    """Not an expression that the reader knows."""


class _SizeError(LimitError):
    """A value too large, or too close to 0."""


class _UndefinedError(Exception):
    """No value at this point."""


class _Work:
    """Counts the operations of one evaluation, and the errors of its integrals."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps
        self.error = mpf(0)

    def keep(self, value: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise LimitError("more operations than one value may take")
        if mp.isnan(value) or mp.isinf(value):
            raise _UndefinedError
        if value and abs(mp.mag(value)) > MAX_MAGNITUDE:
            raise _SizeError(f"a value of more than {MAX_MAGNITUDE} bits")
        return value


class Expression:
    """What was read: its names, and its value at a point."""

    def __init__(self, value: Value, names: frozenset[str], text: str) -> None:
        self.value, self.names, self.text = value, names, text

    def at(self, scope: Scope) -> Any:
        """The value with its names from `scope`; None = undefined there."""
        return self.measured(scope)[0]

    def measured(self, scope: Scope) -> tuple[Any, Any]:
        """The value, and the error that integrals leave in it."""
        work = _Work(INTEGRAL_STEPS if "\\int" in self.text else MAX_STEPS)
        try:
            return self.value(work, scope), work.error
        except (_UndefinedError, ZeroDivisionError, ValueError, OverflowError, TypeError, mp.NoConvergence):
            return None, mpf(0)


@lru_cache(maxsize=4_096)
def read(text: str) -> Expression:
    """The expression that `text` is. Raises UnreadError, or LimitError for nested brackets."""
    check_depth(text)
    reader = _Reader(text)
    try:
        value = reader.sum()
    except RecursionError:
        raise LimitError("a tower of powers or signs") from None
    if reader.at < len(reader.tokens):
        raise UnreadError
    return Expression(value, frozenset(reader.names), text)


def number(text: str) -> Any:
    """The value of an expression without variables; None where it is none."""
    try:
        expression = read(text)
    except UnreadError:
        return None
    with mp.workdps(DIGITS):
        return None if expression.names else expression.at({})


def near(one: Any, other: Any, tolerance: float = _NEAR) -> bool:
    """Relative equality; a zero that was computed is as small as rounding leaves it."""
    size = max(abs(one), abs(other))
    if not one or not other:
        return bool(size <= mpf(10) ** (10 - DIGITS))
    return bool(abs(one - other) <= size * tolerance)


def same_value(gold: str, answer: str) -> bool | None:
    """Whether two expressions are equal; None where one cannot be read. What has no value is equal to nothing."""
    try:
        left, right = read(gold), read(answer)
    except UnreadError:
        return None
    tolerance = _ROUNDED if any(re.fullmatch(r"-?\d*\.\d{6,}", text) for text in (gold, answer)) else _NEAR
    names, compared = left.names | right.names, 0
    summed = bool(names) and re.search(r"\\(?:sum|prod)(?![a-zA-Z])", gold + answer)  # up to a letter: a whole number
    with mp.workdps(DIGITS):
        near_by = [*_points(names), *(_whole_points(names) if summed else ())]
        far_out = _far_points(names) if names and _PIECEWISE.search(gold + answer) else []
        for place, scope in enumerate((*near_by, *far_out)):
            try:
                (one, error), (other, another) = left.measured(scope), right.measured(scope)
            except LimitError:
                if place < len(near_by):
                    raise
                continue
            if one is None or other is None or (_is_real(one) != _is_real(other) and scope):
                continue
            if error or another:
                size = max(abs(one), abs(other), mpf(10) ** -20)
                apart = abs(one - other)
                if apart > max(1_000 * (error + another), _FAR * size):
                    return False
                if max(error + another, apart) > _SURE * size:
                    return None
                equal = True
            elif not one or not other:  # rounding, or a tiny number? that of a zero shrinks with every digit more
                with mp.workdps(4 * DIGITS):
                    more, another = left.at(scope), right.at(scope)
                    equal = max(abs(more), abs(another)) <= mpf(10) ** (10 - 4 * DIGITS)
                    equal = equal and not (more + another and near(more + another, one + other, 10**-6))
            else:
                equal = near(one, other, tolerance)
                if not equal and place >= len(near_by):  # large terms may cancel there
                    with mp.workdps(4 * DIGITS):
                        equal = near(left.at(scope), right.at(scope), tolerance)
                if equal and not compared and tolerance == _NEAR:  # 10^{-50} beside 1 is seen with more digits
                    with mp.workdps(4 * DIGITS):
                        equal = near(left.at(scope), right.at(scope), mpf(10) ** (20 - 4 * DIGITS))
            if not equal:
                return False
            compared += 1
    if (not compared or (names and compared < 3)) and re.search(r"\\(?:sum|prod|int)", gold + answer):  # for algebra
        return None
    return compared >= 3 or (compared == 1 and not names)


def ratio(gold: tuple[str, str], answer: tuple[str, str]) -> Any:
    """The constant that the difference of two sides is of another's; 0 = not constant, None = not known."""
    try:
        sides = [read(text) for text in (*gold, *answer)]
    except UnreadError:
        return None
    found = []
    with mp.workdps(DIGITS):
        for scope in _points(frozenset[str]().union(*(side.names for side in sides))):
            one, two, three, four = (side.at(scope) for side in sides)
            if one is None or two is None or three is None or four is None or near(three, four):
                continue
            found.append((one - two) / (three - four))
        if len(found) < 3:
            return None
        return found[0] if all(near(each, found[0], 10**-30) for each in found) else 0


def same_curve(gold: tuple[str, str], answer: tuple[str, str]) -> bool:
    """Whether two equations differ by a factor that is a product of powers of their variables: `xy = 2`, `y = 2/x`.

    Where such a variable is 0 neither equation may hold, or the factor would add or take solutions.
    """
    try:
        sides = [read(text) for text in (*gold, *answer)]
    except UnreadError:
        return False
    names = sorted(frozenset[str]().union(*(side.names for side in sides)))

    def apart(scope: Scope, first: int) -> Any:
        one, two = (side.at(scope) for side in sides[first : first + 2])
        return None if one is None or two is None else one - two

    with mp.workdps(DIGITS):
        powers: list[set[int]] = [set() for _ in names]
        for scope in _points(frozenset(names)):
            for name, found in zip(names, powers, strict=True):
                doubled = {**scope, name: 2 * scope[name]}
                one, two, three, four = apart(scope, 0), apart(scope, 2), apart(doubled, 0), apart(doubled, 2)
                if None in (one, two, three, four) or not two or not four or not one or not three:
                    continue
                quotient = (three / four) / (one / two)
                power = int(mp.nint(mp.log(abs(quotient), 2))) if abs(mp.log(abs(quotient), 2)) < 9 else 9
                if power == 9 or not near(quotient, mpf(2) ** power, 10**-30):
                    return False
                found.add(power)
        if any(len(found) != 1 for found in powers):
            return False
        for name, found in zip(names, powers, strict=True):
            if found != {0}:
                for scope in _points(frozenset(names))[:3]:
                    if any(apart({**scope, name: mpf(0)}, first) == 0 for first in (0, 2)):
                        return False
    return True


def _points(names: frozenset[str]) -> list[Scope]:
    """Values for the names: four points that are positive, three of both signs; one point where there is no name."""
    if not names:
        return [{}]
    points = []
    for row in range(7):
        seeds = [mpf(2 + 7 * row + 3 * column) for column in range(len(names))]
        values = [mp.sqrt(seed) % 2 + mpf(1) / 3 for seed in seeds]
        signs = [-1 if row > 3 and (row + column) % 2 == 0 else 1 for column in range(len(names))]
        points.append({name: sign * value for name, sign, value in zip(sorted(names), signs, values, strict=True)})
    return points


def _far_points(names: frozenset[str]) -> list[Scope]:
    """Points of both signs, farther out: |x + 3| is x + 3 wherever x is small."""
    near_by = _points(names)
    return [
        {name: scale * value for name, value in near_by[row].items()} for row in (1, 4, 5, 6) for scale in (5, 60, 700)
    ]


def _whole_points(names: frozenset[str]) -> list[Scope]:
    """Seven points of positive whole numbers."""
    return [{name: mpf(1 + row + 3 * column) for column, name in enumerate(sorted(names))} for row in range(7)]


def _is_real(value: Any) -> bool:
    return not isinstance(value, mpc) or abs(value.imag) <= abs(value) * mpf(10) ** (12 - DIGITS)


def _real(value: Any) -> Any:
    if not _is_real(value):
        raise _UndefinedError
    return mp.re(value)


class _Reader:
    """Recursive descent; every rule gives a function from a point to a value."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []  # kind (number, command, letter, sign) and text
        self.at, self.bars = 0, 0
        self.names: set[str] = set()
        self.bound: list[str] = []  # indices of the sums around
        text = re.sub(r"\\(?:operatorname|mathrm|text)\*?\s*\{([a-z]{2,6})\}", r"\\\1 ", text).rstrip()
        text = _MIXED.sub(r"(\1+\2)", text)
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise UnreadError
            digits, long, short, command, letter, sign = match.groups()
            spelled = _SPELLED.match(text, match.start(5)) if letter else None
            at = spelled.end() if spelled else match.end()
            if digits:
                self.tokens.append(("number", f"{digits}|{long or short or ''}"))
            elif spelled or command:
                self.tokens.append(("command", f"\\{spelled[0]}" if spelled else command))
            else:
                self.tokens.append(("letter", letter) if letter else ("sign", sign))

    def next(self) -> str:
        """The text of the next token; "" at the end."""
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, *texts: str) -> str:
        """Step over the next token where it is one of `texts`."""
        found = self.next()
        if not found or found not in texts:
            return ""
        self.at += 1
        return found

    def need(self, *texts: str) -> None:
        if not self.take(*texts):
            raise UnreadError

    def sum(self) -> Value:
        value = self.product()
        while sign := self.take("+", "-"):
            value = _apply(operator.add if sign == "+" else operator.sub, value, self.product())
        return value

    def product(self) -> Value:
        value = self.signed()
        while True:
            if self.take("\\cdot", "\\times", "*"):
                value = _apply(operator.mul, value, self.signed())
            elif self.take("/", "\\div"):
                value = _apply(_divide, value, self.signed())
            elif self.take("\\bmod", "\\mod"):
                value = _apply(_remainder, value, self.signed())
            elif self.follows():
                value = _apply(operator.mul, value, self.power())
            else:
                return value

    def follows(self) -> bool:
        """Whether a factor comes next without a sign."""
        text, kind = self.next(), self.kind()
        if kind == "sign":
            return text in "({[" or (text == "|" and not self.bars)
        if kind == "number":  # "x 2", but never two numbers side by side
            return self.tokens[self.at - 1][0] != "number"
        return kind == "letter" or (kind == "command" and _starts_factor(text))

    def signed(self) -> Value:
        if self.take("-"):
            return _apply(operator.neg, self.signed())
        return self.signed() if self.take("+") else self.power()

    def power(self) -> Value:
        return self.postfix(self.atom())

    def postfix(self, base: Value) -> Value:
        while True:
            if self.take("!"):
                base = _apply(_factorial, base)
            elif self.take("%", "\\%"):
                base = _apply(lambda one: one / 100, base)
            elif self.take("^"):
                if self.is_degree():
                    base = _apply(lambda one: one * mp.pi / 180, base)
                else:
                    exponent = self.signed() if self.next() in ("-", "+") else self.exponent()
                    base = _apply(_power, base, exponent)
            else:
                return base

    def is_degree(self) -> bool:
        for shape in (["{", "\\circ", "}"], ["\\circ"]):
            if [text for _, text in self.tokens[self.at : self.at + len(shape)]] == shape:
                self.at += len(shape)
                return True
        return False

    def exponent(self) -> Value:
        base = self.argument()
        if self.take("^"):
            return _apply(_power, base, self.exponent())
        return base

    def argument(self) -> Value:
        r"""`{…}`, or one token as in `\frac56`: of a number its first digit."""
        if self.kind() == "number":
            digits, _, repeating = self.next().partition("|")
            if len(digits) > 1 and digits.isdigit() and not repeating:
                self.tokens[self.at] = ("number", digits[1:] + "|")
                return _constant(int(digits[0]))
        return self.atom()

    def group(self, opening: str, closing: str) -> Value:
        self.need(opening)
        bars, self.bars = self.bars, 0
        value = self.sum()
        for command, rule in (("\\choose", _binomial), ("\\over", _divide)):
            if opening == "{" and self.take(command):
                value = _apply(rule, value, self.sum())
        self.need(closing)
        self.bars = bars
        return value

    def atom(self) -> Value:
        kind, text = self.kind(), self.next()
        if kind == "sign" and text in "({[":
            return self.group(text, {"(": ")", "{": "}", "[": "]"}[text])
        if text == "|":
            self.at += 1
            self.bars += 1
            value = self.sum()
            self.need("|")
            self.bars -= 1
            return _apply(abs, value)
        self.at += 1
        if kind == "number":
            return _constant_text(text)
        if kind == "letter":
            return self.name(text)
        if kind != "command":
            raise UnreadError
        return self.command(text[1:])

    def name(self, text: str) -> Value:
        if self.take("_"):
            if self.take("{"):
                while self.next() not in ("}", ""):
                    text += "_" + self.next()
                    self.at += 1
                self.need("}")
            else:
                text += "_" + self.next()[:1]
                self.argument() if self.kind() == "number" else self.need(self.next())
        elif text in "ei" and text not in self.bound:
            return _constant(None, text)
        if text not in self.bound:
            self.names.add(text)
        return lambda work, scope: scope[text]

    def command(self, name: str) -> Value:
        if name == "pi":
            return _constant(None, name)
        if name in _GREEK:
            return self.name("\\" + name)
        if name == "frac":
            return _apply(_divide, self.argument(), self.argument())
        if name in ("binom", "dbinom", "tbinom"):
            return _apply(_binomial, self.argument(), self.argument())
        if name == "sqrt":
            degree = self.group("[", "]") if self.next() == "[" else None
            inner = self.argument()
            return _apply(_root, inner, degree) if degree else _apply(mp.sqrt, inner)
        if name in ("lfloor", "lceil"):
            value = self.sum()
            self.need("\\r" + name[1:])
            rule = mp.floor if name == "lfloor" else mp.ceil
            return _apply(lambda one: rule(_real(one)), value)
        if name in ("gcd", "lcm", "max", "min"):
            closing = "\\}" if self.take("\\{") else ")"
            if closing == ")":
                self.need("(")
            parts = [self.sum()]
            while self.take(","):
                parts.append(self.sum())
            self.need(closing)
            return _apply(_SEVERAL[name], *parts)
        if name in ("overline", "bar"):
            return self.conjugate()
        if name == "int":
            return self.integral()
        if name in ("sum", "prod"):
            return self.series(name)
        if name == "log" or name in _FUNCTIONS:
            return self.function(name)
        raise UnreadError

    def conjugate(self) -> Value:
        r"""`\overline{3+2i}`; what has other letters may be a segment or the digits of a number."""
        start, known = self.at, set(self.names)
        value = self.argument()
        if self.names != known or ("letter", "i") not in self.tokens[start : self.at]:
            raise UnreadError
        return _apply(mp.conj, value)

    def function(self, name: str) -> Value:
        base = self.argument() if name == "log" and self.take("_") else None
        exponent: Value | None = None
        if self.take("^"):
            if [text for _, text in self.tokens[self.at : self.at + 4]] == ["{", "-", "1|", "}"]:
                self.at += 4
                name = "arc" + name
            else:
                exponent = self.exponent()
        rule = _FUNCTIONS.get(name)
        if rule is None:
            raise UnreadError
        if self.next() in ("(", "{", "["):
            inner = self.atom()
        else:
            inner = self.signed() if self.next() == "-" else self.power()
            while self.follows() and self.next() not in _CALLS:
                inner = _apply(operator.mul, inner, self.power())
        value = _apply(rule, inner)
        if base is not None:
            value = _apply(_divide, value, _apply(mp.log, base))
        return self.postfix(_apply(_power, value, exponent) if exponent else value)

    def series(self, name: str) -> Value:
        self.need("_")
        self.need("{")
        index = self.next()
        self.at += 1
        self.need("=")
        low = self.sum()
        self.need("}")
        self.need("^")
        high = self.argument()
        self.bound.append(index)
        body = self.product()
        self.bound.pop()

        def value(work: _Work, scope: Scope) -> Any:
            first, last = _real(low(work, scope)), _real(high(work, scope))
            if first != mp.floor(first) or last != mp.floor(last):
                raise _UndefinedError
            if last - first > MAX_STEPS:
                raise LimitError(f"more than {MAX_STEPS} terms")
            total = mpf(name == "prod")
            for at in range(int(first), int(last) + 1):
                term = body(work, {**scope, index: mpf(at)})
                total = work.keep(total + term if name == "sum" else total * term)
            return total

        return value

    def integral(self) -> Value:
        r"""`\int_a^b … dx`, between bounds that are numbers or infinite."""
        self.need("_")
        low = self.end()
        self.need("^")
        high = self.end()
        at = self.differential()
        variable = self.tokens[at + 1][1]
        rest, self.tokens = self.tokens[at:], self.tokens[:at]
        self.bound.append(variable)
        body = self.sum() if self.at < at else _constant(1)
        self.bound.pop()
        if self.at < at:
            raise UnreadError
        self.tokens += rest
        self.at = at + 2

        def value(work: _Work, scope: Scope) -> Any:
            ends = [low(work, scope), high(work, scope)]

            def at(place: Any) -> Any:
                try:
                    return body(work, {**scope, variable: place})
                except _SizeError:
                    if abs(place) < _FAR_OUT:
                        raise
                    return mpf(0)  # where it is too large or too small to be held, what has an integral vanishes

            found, error = mp.quad(at, ends, error=True, maxdegree=6)
            work.error += error
            return work.keep(found)

        return value

    def end(self) -> Value:
        """A bound of an integral."""
        for shape, infinite in _INFINITE.items():
            if tuple(text for _, text in self.tokens[self.at : self.at + len(shape)]) == shape:
                self.at += len(shape)
                return lambda work, scope: infinite
        sign = self.take("-")
        bound = self.argument()
        return _apply(operator.neg, bound) if sign else bound

    def differential(self) -> int:
        """Where the `d` of this integral is; one of an integral is left to algebra."""
        depth = 0
        for at in range(self.at, len(self.tokens) - 1):
            kind, text = self.tokens[at]
            depth += (text in ("(", "{", "[")) - (text in (")", "}", "]"))
            if text == "\\int":
                raise UnreadError
            after, name = self.tokens[at + 1]
            if kind == "letter" and text == "d" and not depth and (after == "letter" or name[1:] in _GREEK):
                return at
        raise UnreadError


_INFINITE = {
    **dict.fromkeys([("\\infty",), ("{", "\\infty", "}"), ("+", "\\infty"), ("{", "+", "\\infty", "}")], mp.inf),
    **dict.fromkeys([("-", "\\infty"), ("{", "-", "\\infty", "}")], -mp.inf),
}


def _apply(rule: Callable[..., Any], *parts: Value) -> Value:
    return lambda work, scope: work.keep(rule(*(part(work, scope) for part in parts)))


def _constant(number: int | None, name: str = "") -> Value:
    return lambda work, scope: {"pi": +mp.pi, "e": +mp.e, "i": mpc(0, 1)}[name] if number is None else mpf(number)


def _constant_text(text: str) -> Value:
    digits, _, repeating = text.partition("|")
    digits = f"0{digits}"
    if not repeating:
        return lambda work, scope: mpf(digits)
    if "." not in digits:
        raise UnreadError
    places = len(digits) - digits.index(".") - 1
    return lambda work, scope: mpf(digits) + mpf(int(repeating)) / ((10 ** len(repeating) - 1) * 10**places)


def _starts_factor(command: str) -> bool:
    return command[1:] in _GREEK or command in _CALLS or command in _FACTORS or command == "\\int"


def _divide(over: Any, under: Any) -> Any:
    if not under or (abs(under) < mpf(10) ** (10 - DIGITS) and abs(over) > abs(under)):
        raise _UndefinedError
    return over / under


def _remainder(one: Any, other: Any) -> Any:
    return mp.fmod(_real(one), _real(other))


def _factorial(one: Any) -> Any:
    if abs(one) > MAX_ARGUMENT:
        raise LimitError(f"a factorial over {MAX_ARGUMENT}")
    return mp.gamma(one + 1)


def _binomial(one: Any, other: Any) -> Any:
    if max(abs(one), abs(other)) > MAX_ARGUMENT:
        raise LimitError(f"a binomial over {MAX_ARGUMENT}")
    return mp.binomial(one, other)


def _power(base: Any, exponent: Any) -> Any:
    """Real odd roots of negative numbers are real, as in school: (-8)^{1/3} = -2."""
    if not base:
        if mp.re(exponent) <= 0 and exponent:
            raise _UndefinedError
        return mpf(not exponent)
    if abs(exponent) * (abs(mp.log(abs(base))) + 4) > MAX_MAGNITUDE:
        raise _SizeError(f"a power of more than {MAX_MAGNITUDE} bits")
    if _is_real(base) and _is_real(exponent):
        base, exponent = mp.re(base), mp.re(exponent)
        if base < 0 and exponent != mp.floor(exponent):
            for odd in (3, 5, 7, 9):
                over = exponent * odd
                if abs(over - mp.nint(over)) < mpf(10) ** (6 - DIGITS):
                    sign = -1 if int(mp.nint(over)) % 2 else 1
                    return sign * mp.power(-base, exponent)
    return mp.power(base, exponent)


def _root(one: Any, degree: Any) -> Any:
    if _is_real(one) and _is_real(degree) and mp.re(one) < 0 and degree == mp.floor(degree) and int(degree) % 2:
        return -mp.power(-mp.re(one), 1 / degree)
    return _power(one, 1 / degree)


def _exp(one: Any) -> Any:
    if abs(one) > MAX_MAGNITUDE:
        raise LimitError(f"a power of more than {MAX_MAGNITUDE} bits")
    return mp.exp(one)


def _log(one: Any) -> Any:
    if not one:
        raise _UndefinedError
    return mp.log(one)


def _wholes(values: tuple[Any, ...]) -> list[int]:
    if any(not _is_real(value) or value != mp.floor(mp.re(value)) for value in values):
        raise _UndefinedError
    return [int(mp.re(value)) for value in values]


_SEVERAL: dict[str, Callable[..., Any]] = {
    "gcd": lambda *values: mpf(math.gcd(*_wholes(values))),
    "lcm": lambda *values: mpf(math.lcm(*_wholes(values))),
    "max": lambda *values: max(map(_real, values)),
    "min": lambda *values: min(map(_real, values)),
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "sinh": mp.sinh,
    "cosh": mp.cosh, "tanh": mp.tanh, "arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan, "exp": _exp,
    "ln": _log, "log": _log, "lg": lambda one: _log(one) / mp.log(10),
    "floor": lambda one: mp.floor(_real(one)), "ceil": lambda one: mp.ceil(_real(one)),
}  # fmt: skip
_CALLS = frozenset("\\" + name for name in (*_FUNCTIONS, "gcd", "lcm", "max", "min", "sum", "prod"))
_FACTORS = frozenset("\\" + name for name in ["pi", "frac", "sqrt", "binom", "dbinom", "tbinom", "lfloor", "lceil"])
