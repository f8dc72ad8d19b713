r"""Answers with a form of their own: a letter of a multiple-choice question (GPQA), a whole number (AIME).

No algebra here: `\boxed{146/2}` is not 73, `\boxed{B \text{ or } C}` is neither. What is not of the form is
unparseable; two different letters or numbers are wrong.
"""

from __future__ import annotations

import re

from guided_grpo.grading.answers import clean
from guided_grpo.grading.exact import MAX_CHARS
from guided_grpo.grading.maths import compare
from guided_grpo.types import Status, Verdict

KINDS = ("math", "choice", "integer")  # how an answer is compared; the column `answer_kind`

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
# The letter alone, in brackets, or before the wording of its option: "B", "(B)", "B) 5 cm", "Option B: 5 cm".
_CHOICE = re.compile(
    r"(?i:(?:option|choice|answer)\s*:?\s*)?[\[(]?\s*([A-Z])\s*[\])]?(?:\s*[.:)]\s*(.*)|\s*)", re.DOTALL
)
_INTEGER = re.compile(r"[-+]?\d+")


def compare_as(kind: str, answer: str, gold: str) -> Verdict:
    """Grade a declared answer by its kind, one of `KINDS`."""
    if kind == "choice":
        return compare_choice(answer, gold)
    return compare_integer(answer, gold) if kind == "integer" else compare(answer, gold)


def compare_choice(answer: str, gold: str) -> Verdict:
    """Whether `answer` names the one letter `gold`."""
    right = choice_of(gold)
    if right is None:
        return Verdict(Status.INFRA_ERROR, answer[:MAX_CHARS], "the gold answer is no letter of a choice")
    choice = choice_of(answer)
    if choice is None:
        return Verdict(Status.UNPARSEABLE, answer[:MAX_CHARS], "is not one letter of a choice")
    return Verdict(Status.CORRECT if choice == right else Status.WRONG, choice, f"chose {choice}")


def compare_integer(answer: str, gold: str) -> Verdict:
    """Whether `answer` is the whole number `gold`, written out; leading zeros do not count."""
    right = integer_of(gold)
    if right is None:
        return Verdict(Status.INFRA_ERROR, answer[:MAX_CHARS], "the gold answer is no whole number")
    number = integer_of(answer)
    if number is None:
        return Verdict(Status.UNPARSEABLE, answer[:MAX_CHARS], "is no whole number")
    return Verdict(Status.CORRECT if number == right else Status.WRONG, answer, "compared as whole numbers")


def check_gold(kind: str, gold: str) -> None:
    """Raise ValueError where `gold` is no answer of a strict kind."""
    if kind == "choice" and choice_of(gold) is None:
        raise ValueError("is no single letter of a choice, such as B")
    if kind == "integer" and integer_of(gold) is None:
        raise ValueError("is no whole number")


def choice_of(text: str) -> str | None:
    """The letter that `text` chooses; None = none, or more than one."""
    if len(text) > MAX_CHARS:
        return None
    bare = clean(_TEXT.sub(r"\1", text)).strip("{}$ .")
    match = _CHOICE.fullmatch(bare) or _CHOICE.fullmatch(_title(bare))
    if match is None:
        return None
    another = re.search(r"\b(?:or|and)\s+[\[(]?[A-Z][\])]?$", (match[2] or "").rstrip())
    return None if another else match[1]


def integer_of(text: str) -> int | None:
    """The whole number that `text` is; None = it is something else, a sum or 73.0 included."""
    if len(text) > MAX_CHARS:
        return None
    bare = clean(_TEXT.sub(r"\1", text))
    return int(bare) if _INTEGER.fullmatch(bare) and bare.isascii() else None


def _title(text: str) -> str:
    """With its first letter raised where nothing else is written: "b" chooses B."""
    return text.upper() if re.fullmatch(r"\(?[a-z]\)?", text) else text
