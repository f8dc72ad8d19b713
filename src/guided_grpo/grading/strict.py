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


def compare_as(kind: str, found: str, gold: str) -> Verdict:
    """Grade a declared answer by its kind, one of `KINDS`."""
    if kind == "choice":
        return compare_choice(found, gold)
    return compare_integer(found, gold) if kind == "integer" else compare(found, gold)


def compare_choice(found: str, gold: str) -> Verdict:
    """Whether `found` names the one letter `gold`."""
    wanted = choice_of(gold)
    if wanted is None:
        return Verdict(Status.INFRA_ERROR, found[:MAX_CHARS], "the gold answer is no letter of a choice")
    chosen = choice_of(found)
    if chosen is None:
        return Verdict(Status.UNPARSEABLE, found[:MAX_CHARS], "is not one letter of a choice")
    return Verdict(Status.CORRECT if chosen == wanted else Status.WRONG, chosen, f"chose {chosen}")


def compare_integer(found: str, gold: str) -> Verdict:
    """Whether `found` is the whole number `gold`, written out; leading zeros do not count."""
    wanted = integer_of(gold)
    if wanted is None:
        return Verdict(Status.INFRA_ERROR, found[:MAX_CHARS], "the gold answer is no whole number")
    number = integer_of(found)
    if number is None:
        return Verdict(Status.UNPARSEABLE, found[:MAX_CHARS], "is no whole number")
    return Verdict(Status.CORRECT if number == wanted else Status.WRONG, found, "compared as whole numbers")


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
