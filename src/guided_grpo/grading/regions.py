r"""Sets of reals: `x > 5`, `(5, \infty)` and `x\in(5,\infty)` are one set; so are `|x|>1` and a union of two rays.

A set is a sorted list of disjoint pieces with numbers for ends; what has letters for ends is not read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mpmath import inf, mp, mpf  # type: ignore[import-untyped]  # mpmath ships no types

from guided_grpo.grading.answers import split_outside
from guided_grpo.grading.exact import LimitError
from guided_grpo.grading.numerics import DIGITS, UnreadError, near, number, read

_MEMBER = re.compile(r"\s*(?:(\\?[a-zA-Z]\w*)\s*(?:\\in(?![a-zA-Z])|=(?=\s*[\[(])))\s*(.*)", re.DOTALL)
_BUILDER = re.compile(r"\\\{\s*(\\?[a-zA-Z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:|\\mid)(.*)\\\}", re.DOTALL)
_SIGN = re.compile(r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z]))")
_OR = re.compile(
    r"\\cup(?![a-zA-Z])|\\lor(?![a-zA-Z])|\\vee(?![a-zA-Z])|\\text\{\s*or\s*\}|(?<![a-zA-Z\\])or(?![a-zA-Z])"
)
_AND = re.compile(r"\\land(?![a-zA-Z])|\\wedge(?![a-zA-Z])|\\text\{\s*and\s*\}|(?<![a-zA-Z\\])and(?![a-zA-Z])|[,;]")
_CAP = re.compile(r"\\cap(?![a-zA-Z])")
_PM = re.compile(r"\\pm(?![a-zA-Z])")
_SETMINUS = re.compile(r"\\(?:setminus|backslash)(?![a-zA-Z])")
_COMMA = re.compile("[,;]")
_LIKE = re.compile(
    r"[<>]|\\(?:le|ge|ne|infty|cup|cap|setminus|backslash|emptyset)(?![a-zA-Z])|\\mathbb\s*\{?R|\\in\s*[\[(]|^\[.*\]$|^\[.*\)$|^\(.*\]$",
    re.DOTALL,
)
_ALL = re.compile(
    r"\\mathbb\s*\{?R\}?|(?:\\text\{)?\s*(?:all|any|every|the set of all) reals?(?: numbers?)?\.?\s*\}?", re.I
)
_IN_WORDS = re.compile(
    r"(?:\\text\{)?\s*(?:all |any |every |the |set of )*"
    r"(positive|negative|non-?\s?negative|non-?\s?positive|non-?\s?zero) reals?(?: numbers?)?\.?\s*\}?",
    re.I,
)
_OF_SIGN = {"positive": ">", "negative": "<", "nonnegative": "\\ge", "nonpositive": "\\le", "nonzero": "\\ne"}
_SIGNED = re.compile(r"\\mathbb\{R\}\s*(?:\^\s*\{?\s*([+-])\s*\}?|_\s*\{?\s*(<|>|\\le|\\ge)\s*0\s*\}?)")
_SHIFTED = re.compile(r"\|\s*(\\?[a-zA-Z]+)\s*([+-][^|]*)\||\|([^|]*)-\s*(\\?[a-zA-Z]+)\s*\|")  # |x - a|, |a - x|
_NAME = r"(?:\\[a-zA-Z]+|[a-zA-Z])(?:_\w+)?(?:\([a-z]\))?"  # x, x_1, \alpha, f(x)
_MAX_PIECES = 64

Piece = tuple[Any, int, Any, int]  # low, 0 where low belongs to it else 1; high, 0 where high belongs to it else -1


@dataclass(frozen=True)
class Region:
    """Disjoint pieces in order, and the name of the variable where one is written."""

    pieces: tuple[Piece, ...]
    name: str = ""

    def equals(self, other: Region) -> bool:
        """The same set, of the same variable where both name one."""
        if len(self.pieces) != len(other.pieces) or (self.name and other.name and self.name != other.name):
            return False
        return all(
            one[1] == two[1] and one[3] == two[3] and _same_end(one[0], two[0]) and _same_end(one[2], two[2])
            for one, two in zip(self.pieces, other.pieces, strict=True)
        )


def looks_like_region(text: str) -> bool:
    """Whether a gold answer is a set of reals and can be no tuple: `(1,2)` alone is a point."""
    return bool(_LIKE.search(text) or _ALL.fullmatch(text) or _IN_WORDS.fullmatch(text))


def read_region(text: str) -> Region | None:
    """The set that `text` is; None where it is none, or one with ends that are no numbers."""
    with mp.workdps(DIGITS):
        return _read(text.strip())


def _read(text: str) -> Region | None:
    if _ALL.fullmatch(text):
        return Region(((-inf, 1, inf, -1),))
    worded = _IN_WORDS.fullmatch(text)
    if worded:
        return Region(_half(_OF_SIGN[re.sub(r"[-\s]", "", worded[1].lower())], mpf(0), absolute=False))
    signed = _SIGNED.fullmatch(text)
    if signed:
        return Region(_half(signed[2] or {"+": ">", "-": "<"}[signed[1]], mpf(0), absolute=False))
    if text == "\\emptyset":
        return Region(())
    builder = _BUILDER.fullmatch(text)
    if builder:
        return _read(builder[2].strip())
    member = _MEMBER.fullmatch(text)
    if member:
        inner = _read(member[2].strip())
        return Region(inner.pieces, member[1]) if inner else None
    for splitter, combine in ((_OR, _union), (_CAP, _common), (_SETMINUS, _without)):
        parts = split_outside(text, splitter)
        if len(parts) > 1:
            return _combined([_read(part) for part in parts if part], combine)
    parts = split_outside(text, _AND)
    if len(parts) > 1:  # "x > -1 and x < 3" is what both hold; two intervals side by side are a union
        each = [_read(part) for part in parts if part]
        both = _combined(each, _common if _SIGN.search(text) else _union)
        if both and not both.pieces and len(split_outside(text, _COMMA)) == len(parts):  # "x < 0, x > 4": no x is both
            return _combined(each, _union)
        return both
    points = re.fullmatch(r"\\\{([^{}]*)\\\}", text)
    if points:
        values = [_end(_PM.sub(sign, part)) for part in points[1].split(",") for sign in "+-"[: 1 + ("\\pm" in part)]]
        return Region(_tidy([(value, 0, value, 0) for value in values])) if None not in values else None
    return _inequality(text) if _SIGN.search(text) else _interval(text)


def _combined(regions: list[Region | None], combine: Any) -> Region | None:
    total: Region | None = None
    for region in regions:
        if region is None or len(region.pieces) > _MAX_PIECES:
            return None
        if total is None:
            total = region
        elif total.name and region.name and total.name != region.name:
            return None
        else:
            total = Region(combine(total.pieces, region.pieces), total.name or region.name)
    return total


def _interval(text: str) -> Region | None:
    match = re.fullmatch(r"([(\[])(.*)([)\]])", text, re.DOTALL)
    ends = split_outside(match[2], _COMMA) if match else []
    if match is None or len(ends) != 2:
        return None
    low, high = _end(ends[0]), _end(ends[1])
    if low is None or high is None or low > high:
        return None
    return Region(_tidy([(low, int(match[1] == "("), high, -int(match[3] == ")"))]))


def _inequality(text: str) -> Region | None:
    parts = [part.strip() for part in _SIGN.split(text)]
    sides, signs = parts[::2], parts[1::2]
    shifted = next((match for side in sides if (match := _SHIFTED.fullmatch(side))), None)
    if shifted:  # |x - a| < b is |x| < b, moved by a
        centre = _end(f"-({shifted[2]})" if shifted[1] else shifted[3])
        name = shifted[1] or shifted[4]
        around = _inequality(text.replace(shifted[0], f"|{name}|")) if centre is not None else None
        if around is None or (len(name) > 1 and name[0] != "\\"):
            return None
        moved = [(low + centre, opened, high + centre, shut) for low, opened, high, shut in around.pieces]
        return Region(tuple(moved), around.name)
    names = [side for side in sides if re.fullmatch(rf"\|?\s*{_NAME}\s*\|?", side) and _end(side) is None]
    if len(names) != 1 or len(sides) > 3 or (len(sides) == 3 and sides[1] != names[0]):
        return _linear(sides[0], signs[0], sides[1]) if len(sides) == 2 else None
    pieces: tuple[Piece, ...] = ((-inf, 1, inf, -1),)
    at = sides.index(names[0])
    for position, sign in enumerate(signs):
        if position not in (at - 1, at):
            return None
        end = sides[position if position < at else position + 1]
        signs_of_end = "+-" if sign == "\\ne" and "\\pm" in end else ""  # neither a nor -a
        values = [_end(_PM.sub(each, end)) for each in signs_of_end] or [_end(end)]
        if None in values:
            return None
        turned = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
        sign = turned.get(sign, sign) if position < at else sign
        for value in values:
            pieces = _common(pieces, _half(sign, value, absolute="|" in names[0]))
    return Region(pieces, names[0].strip("| "))


def _linear(left: str, sign: str, right: str) -> Region | None:
    """The ray of `2x - 6 \\ge 0`; None where the sides do not differ by a multiple of one variable and a number."""
    try:
        one, two = read(left), read(right)
    except (UnreadError, LimitError):
        return None
    names = one.names | two.names
    if len(names) != 1:
        return None
    [name] = names
    places = [mpf(0), mpf(1), mpf(2), mpf(-3), mp.sqrt(2)]
    sides = [(one.at({name: place}), two.at({name: place})) for place in places]
    if any(None in pair or mp.im(pair[0]) or mp.im(pair[1]) for pair in sides):
        return None
    constant, second, *others = [mp.re(a - b) for a, b in sides]
    slope = second - constant
    if near(slope, 0) or not all(near(slope * x + constant, y) for x, y in zip(places[2:], others, strict=True)):
        return None
    turned = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
    return Region(_half(turned.get(sign, sign) if slope < 0 else sign, -constant / slope, absolute=False), name)


def _half(sign: str, value: Any, *, absolute: bool) -> tuple[Piece, ...]:
    if sign == "\\ne":
        points = [value, -value] if absolute else [value]
        return _without(((-inf, 1, inf, -1),), _tidy([(point, 0, point, 0) for point in points]))
    is_open = int(sign in "<>")
    if sign in ("<", "\\le"):
        return _tidy([(-value if absolute else -inf, is_open if absolute else 1, value, -is_open)])
    return _tidy([(value, is_open, inf, -1), *([(-inf, 1, -value, -is_open)] if absolute else [])])


def _end(text: str) -> Any:
    match = re.fullmatch(r"([+-]?)\s*\\infty\s*", text.strip())
    if match:
        return -inf if match[1] == "-" else inf
    value = number(text.strip())
    return None if value is None or mp.im(value) else mpf(mp.re(value))


def _same_end(one: Any, two: Any) -> bool:
    return bool(one == two) or (not mp.isinf(one) and not mp.isinf(two) and near(one, two))


def _tidy(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Sorted, joined where they touch, without empty ones."""
    joined: list[Piece] = []
    for low, low_open, high, high_open in sorted(pieces):
        if (low, low_open) > (high, high_open):
            continue
        if joined:
            before = joined[-1]
            if (low, low_open) <= (before[2], before[3] + 1):
                joined[-1] = (before[0], before[1], *max((before[2], before[3]), (high, high_open)))
                continue
        joined.append((low, low_open, high, high_open))
    return tuple(joined)


def _union(one: tuple[Piece, ...], two: tuple[Piece, ...]) -> tuple[Piece, ...]:
    return _tidy([*one, *two])


def _common(one: tuple[Piece, ...], two: tuple[Piece, ...]) -> tuple[Piece, ...]:
    return _tidy([(*max(a[:2], b[:2]), *min(a[2:], b[2:])) for a in one for b in two])


def _without(one: tuple[Piece, ...], two: tuple[Piece, ...]) -> tuple[Piece, ...]:
    left = one
    for low, low_open, high, high_open in two:
        left = _common(left, ((-inf, 1, low, low_open - 1), (high, high_open + 1, inf, -1)))
    return left
