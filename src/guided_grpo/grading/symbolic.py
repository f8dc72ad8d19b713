r"""Equality of two expressions by math-verify: one cleaned expression at a time, behind limits, its alarm tamed.

math-verify interrupts itself with SIGALRM, which exists in the main thread only: in other threads it runs without a
limit of time, behind the limits of `exact.py` alone. It compares numbers by absolute rounding, so that 1/2^99 and
1/2^98 are equal to it; here numbers must agree relatively as well.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException
from math_verify.utils import timeout
from sympy import Expr, N  # type: ignore[import-untyped]  # sympy ships no types

from guided_grpo.grading.exact import TimeLimitError, UnparseableError, check_limits

SECONDS = 5  # to read and compare two expressions, together: a pool's limit for one pair is a little more

_LOG_BASE = re.compile(r"\\log_\{?(\w+)\}?(?=[\s({\\])\s*")  # of one character or a word: 2 in \log_2 3

# Its removal of units takes the m of 5m away; units are removed before it is asked.
_READING = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
        )
    )
]


@lru_cache(maxsize=4_096)
def parsed(text: str) -> Any:
    """The sympy object that math-verify reads in one expression.

    Raises UnparseableError where it reads none, LimitError for what it cannot be trusted with, TimeLimitError.
    """
    text = _LOG_BASE.sub(r"\\log_{\1} ", text)
    if re.search(r"\d\s+\d", text):
        raise UnparseableError("numbers side by side")
    if re.search(r"\d'", text):
        raise UnparseableError("an apostrophe in a number")
    if text.count("{") != text.count("}"):
        raise UnparseableError("unbalanced braces")
    check_limits(text)
    with _alarm("read it"):
        try:
            expressions = parse(
                f"${text}$",
                extraction_config=_READING,
                fallback_mode="no_fallback",
                parsing_timeout=_seconds(),
                raise_on_error=True,
            )
        except Exception as error:  # whatever a policy may write reaches the parser: any complaint is about its text
            raise UnparseableError(f"math-verify: {type(error).__name__}") from None
    if not expressions:
        raise UnparseableError("no mathematical expression")
    return expressions[0]


def symbolic_equal(gold: str, answer: str, *, sets_as_relations: bool = False) -> bool:
    r"""Equality by math-verify, and for numbers also to 12 digits (6 where one is written as a decimal).

    With `sets_as_relations`, `x > 5` may equal `(5, \infty)`. Raises what `parsed` raises.
    """
    with _together():
        return _symbolic_equal(gold, answer, sets_as_relations)


def _symbolic_equal(gold: str, answer: str, sets_as_relations: bool) -> bool:
    left, right = parsed(gold), parsed(answer)
    digits = 6 if "." in gold or "." in answer else 12
    with _alarm("compare"):
        try:
            if not timeout(_seconds())(_close)(left, right, digits):  # it simplifies what differs for a long time
                return False
            return bool(
                verify(
                    [left],
                    [right],
                    allow_set_relation_comp=sets_as_relations,
                    timeout_seconds=_seconds(),
                    raise_on_error=True,
                )
            )
        except Exception:  # sympy refuses to compare what cannot be equal (a matrix and a number, a set and a relation)
            return False


def _close(left: Any, right: Any, digits: int) -> bool:
    """Relative closeness of two numbers: math-verify compares absolutely, so all tiny numbers are equal to it."""
    if not (isinstance(left, Expr) and isinstance(right, Expr) and left.is_number and right.is_number):
        return True
    a, b = N(left, 30), N(right, 30)
    if not (a.is_finite and b.is_finite):
        return bool(a == b)
    return bool(abs(a - b) <= max(abs(a), abs(b)) * 10**-digits)


_end: float | None = None  # of the comparison under way, in the main thread


def _seconds() -> int | None:
    """What is left of the limit in whole seconds, as math-verify wants it; None = its alarm cannot be set here."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return SECONDS if _end is None else max(1, round(_end - time.monotonic()))


@contextmanager
def _together() -> Iterator[None]:
    """One limit for all that is done within."""
    global _end
    if _seconds() is None:
        yield
        return
    _end = time.monotonic() + SECONDS
    try:
        yield
    finally:
        _end = None


@contextmanager
def _alarm(task: str) -> Iterator[None]:
    """math-verify's alarm is a TimeLimitError; whatever alarm it cancels is set again for the rest of its time."""
    left, interval = signal.getitimer(signal.ITIMER_REAL) if _seconds() else (0.0, 0.0)
    start = time.monotonic()
    try:
        yield
    except TimeoutException:  # a BaseException, raised by the alarm in mid-computation
        raise TimeLimitError(f"math-verify needed more than {SECONDS} s to {task}") from None
    finally:
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 0.001), interval)
