r"""How much of a trace may be handed out before it gives the answer away.

A policy that is handed the answer earns the reward by copying it and learns nothing about the problem. So a trace ends,
for guidance,

1. before the end of its thinking block,
2. before the first declaration (`\boxed{…}`, `#### …`, "the answer is …", "Answer: …") that holds the answer, and
3. inside its last step, before the first place where the answer stands alone.

A trace of a code problem ends before the end of its thinking block and before the last line of the last program in it:
a slice is never a whole program to copy.

The same number in an earlier step is an intermediate value and stays: without it the step could not be shown.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol

from guided_grpo.grading.answers import BOX, HASHES, PROSE, SAME_LENGTH, THINK_CLOSE, box_content, line_content
from guided_grpo.grading.maths import check_maths
from guided_grpo.types import Status

_HEADING = re.compile(r"^[^\w\n]*(?:final\s+|the\s+)*answer[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
_OPENERS = re.compile(r"(?:\s|\$|\\\(|\\\[|(?<!\S)\*\*|#)+$")
_SEPARATOR = r"(?:\{,\}|,\\!|\\[,!]|[, ])?"  # between thousands
_LEFT, _RIGHT = r"(?<![\w\\.])", r"(?!\d)(?!\.\d)(?!,\d{3}(?!\d))"
_INTEGER = re.compile(r"-?\d{1,3}(?:,?\d{3})*|-?\d+")
_PROGRAM = re.compile(r"^[ \t]*```[^\n`]*\n((?:(?!^[ \t]*```).)*)^[ \t]*```[ \t]*\Z", re.DOTALL | re.MULTILINE)
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\w+)\}\{(\w+)\}|(-?)(\w+)/(\w+)")


def safe_length(trace: str, answer: str) -> int:
    """Characters at the start of `trace` that do not state `answer`, white space at their end left off.

    Between 0 and `len(trace)`. An empty `answer` leaves only the thinking block's end to cut at.
    """
    text = trace.translate(SAME_LENGTH)
    alone = _stand_alone(answer.translate(SAME_LENGTH).strip().strip("$").strip())
    cut = text.find(THINK_CLOSE)
    text = text if cut < 0 else text[:cut]
    text = text[: _first_declaration(text, alone, answer)].rstrip()
    digits = any(char.isdigit() for char in answer)
    while text and alone is not None:
        start = _last_step(text, digits)
        match = alone.search(text, start)
        if not match:
            break
        text = text[: match.start()].rstrip()
        if len(text) > start:
            break
        # Nothing is left of that step: the step before it is the last one now.
    return len(text)


def safe_program_length(trace: str) -> int:
    """The same for a code problem: characters before the thinking block's end and the last program's last line."""
    cut = trace.find(THINK_CLOSE)
    text = (trace if cut < 0 else trace[:cut]).rstrip()
    block = _PROGRAM.search(text)
    if block and block[1].strip():
        text = text[: block.start(1)] + block[1].rstrip().rpartition("\n")[0]
    return len(text.rstrip())


def _last_step(text: str, digits: bool) -> int:
    """Where the last step begins: its last line, and closing remarks without a digit after it."""
    start = text.rfind("\n") + 1
    while digits and start and not any(char.isdigit() for char in text[start:]):
        start = text.rfind("\n", 0, start - 1) + 1
    return start


def _first_declaration(text: str, alone: _Finder | None, answer: str) -> int:
    """Where the first declaration that holds the answer begins; the end of `text` where there is none."""
    declared = [(match.start(), box_content(text, match.end()) or text[match.end() :]) for match in BOX.finditer(text)]
    for pattern in (HASHES, PROSE, _HEADING):
        declared += [(match.start(), line_content(text, match.end())) for match in pattern.finditer(text)]
    for start, content in sorted(declared):
        form = f"#### {content.strip()}"  # the answer may be declared in another form, such as 0.5 for 1/2
        if (alone is not None and alone.search(content)) or check_maths(form, answer).status is Status.CORRECT:
            opener = _OPENERS.search(text, 0, start)
            return opener.start() if opener else start
    return len(text)


class _Finder(Protocol):
    def search(self, string: str, pos: int = 0, /) -> re.Match[str] | None: ...


class _Integer:
    """Finds one integer of at least three digits, by a pattern for all of its length: compiling takes long."""

    def __init__(self, answer: str) -> None:
        self.digits = answer.removeprefix("-")
        self.pattern = _integers(len(self.digits), answer.startswith("-"))

    def search(self, text: str, start: int = 0, /) -> re.Match[str] | None:
        match = self.pattern.search(text, start)
        while match and "".join(match.groups()) != self.digits:
            match = self.pattern.search(text, match.start() + 1)
        return match


@lru_cache(maxsize=256)
def _integers(length: int, negative: bool) -> re.Pattern[str]:
    """All integers of `length` ≥ 3 digits, without or with thousands separators; their digits are the groups."""
    first = length % 3 or 3
    digits = [f"([1-9]\\d{{{first - 1}}})", *["(\\d{3})"] * ((length - first) // 3)]
    inner = r"(?<!\d,)" if first == 3 and not negative else ""  # 180 does not stand in 1,180
    sign = "-\\s*" if negative else ""
    return re.compile(rf"(?:\\?\$\s*)?{_LEFT}(?:{sign}0*{inner}{_SEPARATOR.join(digits)}(?:\.0+)?){_RIGHT}")


@lru_cache(maxsize=1_024)
def _stand_alone(answer: str) -> _Finder | None:
    """What finds the answer as a complete token, a currency sign before it included; None for an empty answer."""
    if not answer:
        return None
    return _Integer(answer) if re.fullmatch(r"-?[1-9]\d{2,}", answer) else _pattern(answer)


def _pattern(answer: str) -> re.Pattern[str]:
    if _INTEGER.fullmatch(answer) or re.fullmatch(r"-?[\d,]*\.\d+", answer):
        body = _number(answer)
    else:
        fraction = _FRACTION.fullmatch(answer)
        parts = re.findall(r"\\[a-zA-Z]+|\w+|\S", answer)
        body = r"\s*".join(re.escape(part) for part in parts)
        if fraction:
            sign, over, under = (
                part or "" for part in (fraction.groups()[:3] if fraction[2] else fraction.groups()[3:])
            )
            body = rf"{sign}(?:\\[dt]?frac\s*\{{{over}\}}\s*\{{{under}\}}|{over}\s*/\s*{under})"
    left = _LEFT if re.match(r"[\w(\\-]", answer) else ""
    right = r"(?!\w)" if re.search(r"[^\W\d]$", answer) else _RIGHT
    return re.compile(rf"(?:\\?\$\s*)?{left}{body}{right}")


def _number(answer: str) -> str:
    """A number with or without its thousands separators, and with idle zeros after the point."""
    whole, _, places = answer.replace(",", "").partition(".")
    sign, digits = ("-\\s*", whole[1:]) if whole.startswith("-") else ("", whole)
    # Short answers with leading zeros (007) are digits of a code, longer ones (073) padded numbers.
    bare = digits.lstrip("0")
    padding = "0*" if len(bare) > 1 else ""
    first = bare if len(bare) > 1 else digits
    groups: list[str] = []
    while len(first) > 3:
        groups.insert(0, first[-3:])
        first = first[:-3]
    inner = r"(?<!\d,)" if len(first) == 3 and not sign else ""  # 180 does not stand in 1,180
    body = inner + _SEPARATOR.join([first, *groups])
    tail = rf"\.{places.rstrip('0')}0*" if places.strip("0") else r"(?:\.0+)?"
    cents = rf"|0?\.{digits:0>2}" if len(digits) <= 2 and not sign and not places else ""  # $0.25 states 25 cents
    return f"(?:{sign}{padding}{body}{tail}{cents})"
