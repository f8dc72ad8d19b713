"""Multiple-choice letters and whole numbers."""

from __future__ import annotations

import pytest

from guided_grpo.grading.strict import check_gold, choice_of, compare_as, integer_of
from guided_grpo.types import Status


@pytest.mark.parametrize("text", [
    "B", "(B)", "b", "(b)", "\\text{B}", "\\text{(B)}", "\\mathbf{B}", "$B$", "**B**", "B.", "B)", "B) 5 cm", "B. 5 cm",
    "Option B", "option (B): 5", "Answer: B", "B: 3", "B) vitamin C",
])  # fmt: skip
def test_chooses_b(text: str) -> None:
    assert choice_of(text) == "B"


@pytest.mark.parametrize(
    "text",
    ["", "5", "AB", "BB", "A, B", "A and B", "B or C", "B) or (C)", "B: C", "the first", "B" * 600, "ß", "\u0392"],
)
def test_chooses_no_single_letter(text: str) -> None:
    assert choice_of(text) is None


@pytest.mark.parametrize(("text", "number"), [
    ("73", 73), ("073", 73), ("$73$", 73), ("73.", 73), ("1,000", 1000), ("-5", -5), ("\\text{73}", 73), ("000", 0),
    ("73.0", None), ("146/2", None), ("72+1", None), ("73^\\circ", None), ("７３", 73), ("٧٣", None), ("7 3", None), ("", None), ("9" * 600, None),
])  # fmt: skip
def test_whole_numbers(text: str, number: int | None) -> None:
    assert integer_of(text) == number


@pytest.mark.parametrize(("kind", "found", "gold", "status"), [
    ("choice", "C", "C", Status.CORRECT), ("choice", "B) yes", "C", Status.WRONG), ("choice", "42", "C", Status.UNPARSEABLE),
    ("choice", "C", "7", Status.INFRA_ERROR), ("integer", "017", "17", Status.CORRECT), ("integer", "18", "17", Status.WRONG),
    ("integer", "17.0", "17", Status.UNPARSEABLE), ("integer", "17", "x", Status.INFRA_ERROR), ("math", "17.0", "17", Status.CORRECT),
])  # fmt: skip
def test_verdicts(kind: str, found: str, gold: str, status: Status) -> None:
    assert compare_as(kind, found, gold).status is status


def test_golds_are_checked_when_they_are_loaded() -> None:
    for kind, gold in (("choice", "A or B"), ("integer", "1/2")):
        with pytest.raises(ValueError, match="is no"):
            check_gold(kind, gold)
    check_gold("choice", "D")
    check_gold("integer", "073")
    check_gold("math", "anything")
