"""Values on their way out of the sandbox: plain data, compared by the parent with what it expects.

`encode` runs beside the program and may be told anything; `same` runs in the parent. It walks the expected value, which
is trusted, and looks at the received one only where it stands against it, so that no method of a received object is
ever called and no table is ever built from received keys. Two values are the same where Python's == on plain data says
so: 1 == 1.0 == True, a list is no tuple, a subclass counts as its plain base.
"""

from __future__ import annotations

import datetime
from collections import deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_DEPTH = 100  # of nested containers


def encode(value: object, depth: int = 0) -> Any:
    """Data for JSON: scalars as themselves, a list as itself, everything else as {"kind": content}."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        plain = int.__add__(value, 0)
        return plain if -(2**53) < plain < 2**53 else {"int": int.__format__(plain, "x")}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, str):
        return str.__str__(value) if type(value) is str else "".join(str.__iter__(value))
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, (bytes, bytearray)):
        return {type(value).__name__ if type(value) in (bytes, bytearray) else "bytes": bytes(value).hex()}
    if type(value) is Fraction:
        return {"fraction": [int.__format__(value.numerator, "x"), int.__format__(value.denominator, "x")]}
    if type(value) is Decimal:
        return {"decimal": Decimal.__str__(value)}
    if type(value) in _MOMENTS:
        fields = (getattr(value, name) for name in _MOMENTS[type(value)])
        return {type(value).__name__: [encode(field) for field in fields]}
    if type(value) is deque:
        return {"deque": [encode(element, depth + 1) for element in value]}
    if type(value) in _VIEWS:
        value = set(value)  # type: ignore[call-overload]
    if type(value) is range:
        return {"range": [encode(part) for part in (value.start, value.stop, value.step)]}
    if depth > MAX_DEPTH:
        return {"opaque": "nested too deeply"}
    kinds: tuple[Any, ...] = (list, tuple, set, frozenset)
    for kind in kinds:
        if isinstance(value, kind):
            content = [encode(element, depth + 1) for element in kind.__iter__(value)]
            return content if kind is list else {"set" if kind is frozenset else kind.__name__: content}
    if isinstance(value, dict):
        return {
            "dict": [[encode(key, depth + 1), encode(dict.get(value, key), depth + 1)] for key in dict.__iter__(value)]
        }
    return {"opaque": type(value).__name__[:100]}


_DAY, _TIME = ("year", "month", "day"), ("hour", "minute", "second", "microsecond")
_MOMENTS: dict[type, tuple[str, ...]] = {
    datetime.date: _DAY,
    datetime.datetime: (*_DAY, *_TIME),
    datetime.time: _TIME,
    datetime.timedelta: ("days", "seconds", "microseconds"),
}
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.items()))
Number = complex | Fraction | Decimal  # as Python's own types have it: bool, int and float too


def same(expected: object, received: Any, *, tolerance: float | None = None) -> bool:
    """Whether `received`, as JSON gave it back, is the plain value `expected`.

    Args:
        expected: plain data.
        received: what the sandbox wrote.
        tolerance: absolute, for floats, where a NaN equals a NaN; None = Python's own ==.
    """
    content, kind = received, type(received).__name__
    if type(received) is dict:
        if len(received) != 1:
            return False
        kind, content = next(iter(received.items()))
    if expected is None:
        return received is None
    if isinstance(expected, (bool, int, float, complex, Fraction, Decimal)):
        number = _number(kind, content)
        if tolerance is not None and isinstance(expected, float) and isinstance(number, (int, float)):
            return expected == number or (expected != expected and number != number) or _within(
                expected, number, tolerance
            )  # fmt: skip
        return number is not None and bool(expected == number)
    if isinstance(expected, str):
        return kind == "str" and expected == content
    if isinstance(expected, (bytes, bytearray)):
        return kind in ("bytes", "bytearray") and expected.hex() == content
    if type(content) is not list:
        return False
    if isinstance(expected, (list, tuple)):
        return (
            kind == type(expected).__name__
            and len(content) == len(expected)
            and all(same(ours, theirs, tolerance=tolerance) for ours, theirs in zip(expected, content, strict=True))
        )
    if isinstance(expected, (set, frozenset)):
        return kind == "set" and _same_keys(dict.fromkeys(expected), [[key, None] for key in content])
    if isinstance(expected, dict):
        return kind == "dict" and _same_keys(expected, content, tolerance)
    return False


def decode(received: Any) -> Any:
    """The value itself, of what a *trusted* program computed, such as a reference solution.

    Raises ValueError for what is not plain data.
    """
    if type(received) is list:
        return [decode(element) for element in received]
    number = number_of(received)
    if number is not None or type(received) is not dict:
        return received if number is None else number
    [(kind, content)] = received.items()
    if kind == "dict":
        return {decode(key): decode(value) for key, value in content}
    if kind in ("bytes", "bytearray"):
        return bytes.fromhex(content)
    if kind == "range":
        return range(*content)
    if kind == "deque":
        return deque(map(decode, content))
    moment = next((each for each in _MOMENTS if each.__name__ == kind), None)
    if moment is not None:
        return moment(**dict(zip(_MOMENTS[moment], content, strict=True)))
    if kind in ("tuple", "set"):
        elements = [decode(element) for element in content]
        return tuple(elements) if kind == "tuple" else {frozenset(e) if isinstance(e, set) else e for e in elements}
    raise ValueError(f"a {content} is no plain data")


def number_of(received: Any) -> Number | None:
    """The bool, int, float, complex, Fraction or Decimal that was received; None = something else."""
    if type(received) is dict:
        return _number(*next(iter(received.items()))) if len(received) == 1 else None
    return _number(type(received).__name__, received)


def plain(value: object) -> bool:
    """Whether `value` consists of nothing but data that `same` can compare."""
    if isinstance(value, dict):
        return all(plain(key) and plain(content) for key, content in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(plain(element) for element in value)
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes, Fraction, Decimal))


def _number(kind: str, content: Any) -> Number | None:
    """An exact number of the received data; None = it is none."""
    try:
        if kind in ("bool", "int") and type(content) in (bool, int):
            return content  # type: ignore[no-any-return]  # bool or int, checked
        if kind == "int" and type(content) is str:
            return int(content, 16)
        if kind == "float":
            return float.fromhex(content)
        if kind == "complex":
            return complex(float.fromhex(content[0]), float.fromhex(content[1]))
        if kind == "fraction":
            return Fraction(int(content[0], 16), int(content[1], 16))
        if kind == "decimal" and len(content) <= 1_000:
            return Decimal(content)
    except (TypeError, ArithmeticError, ValueError, LookupError):  # whatever was written is data, no error of ours
        return None
    return None


def _within(expected: float, number: float, tolerance: float) -> bool:
    try:
        return abs(expected - number) <= tolerance
    except OverflowError:  # an integer beyond all floats
        return False


def _same_keys(expected: dict[Any, Any], pairs: list[Any], tolerance: float | None = None) -> bool:
    """Each expected key once, with its content; looked up in a table of ours: their keys could be made to collide."""
    if len(pairs) != len(expected) or not all(type(pair) is list and len(pair) == 2 for pair in pairs):
        return False
    left = dict(expected)
    for received_key, received in pairs:
        try:
            key = _key(received_key)
            if key not in left:
                return False
            if not same(left.pop(key), received, tolerance=tolerance):
                return False
        except (TypeError, ValueError, OverflowError, LookupError, RecursionError):  # malformed: data, no error of ours
            return False
    return True


def _key(received: Any) -> Any:
    """A hashable value of the received data."""
    if received is None or type(received) is str:
        return received
    kind, content = type(received).__name__, received
    if type(received) is dict:
        [(kind, content)] = received.items()  # ValueError where there is not exactly one
    number = _number(kind, content)
    if number is not None:
        return number
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "tuple":
        return tuple(_key(element) for element in content)
    if kind == "set" and len(content) <= 1_000:  # a frozenset in a set: small, since its table is built from their keys
        return frozenset(_key(element) for element in content)
    raise ValueError("no key")
