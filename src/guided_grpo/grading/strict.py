r"""Answers with a form of their own: a letter of a multiple-choice question (GPQA), a whole number (AIME).

No algebra here: `\boxed{146/2}` is not 73, `\boxed{B \text{ or } C}` is neither. What is not of the form is
unparseable; two different letters or numbers are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from guided_grpo.grading.answers import choice_of, clean
from guided_grpo.grading.exact import MAX_CHARS
from guided_grpo.grading.maths import compare
from guided_grpo.types import Status, Verdict

KINDS = ("math", "choice", "integer")  # how an answer is compared; the column `answer_kind`

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_INTEGER = re.compile(r"[-+]?\d+")


def compare_as(kind: str, answer: str, gold: str) -> Verdict:
    """Grade a declared answer by its kind, one of `KINDS`: one letter, a whole number written out, or mathematics."""
    if kind not in _STRICT:
        return compare(answer, gold)
    read, form = _STRICT[kind]
    right, value = read(gold), read(answer)
    if right is None:
        return Verdict(Status.INFRA_ERROR, answer[:MAX_CHARS], f"the gold answer is no {form}")
    if value is None:
        return Verdict(Status.UNPARSEABLE, answer[:MAX_CHARS], f"is no {form}")
    extracted = value if isinstance(value, str) else answer
    return Verdict(Status.CORRECT if value == right else Status.WRONG, extracted, f"read as {value}")


def check_gold(kind: str, gold: str) -> None:
    """Raise ValueError where `gold` is no answer of a strict kind."""
    if kind in _STRICT and _STRICT[kind][0](gold) is None:
        raise ValueError(f"is no {_STRICT[kind][1]}")


def integer_of(text: str) -> int | None:
    """The whole number that `text` is; None = it is something else, a sum or 73.0 included."""
    if len(text) > MAX_CHARS:
        return None
    bare = clean(_TEXT.sub(r"\1", text))
    return int(bare) if _INTEGER.fullmatch(bare) and bare.isascii() else None


_STRICT: dict[str, tuple[Callable[[str], str | int | None], str]] = {
    "choice": (
        lambda text: choice_of(text) if len(text) <= MAX_CHARS else None,
        "single letter of a choice, such as B",
    ),
    "integer": (integer_of, "whole number"),
}
