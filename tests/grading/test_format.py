"""The format reward: one closed thinking block, then an answer, however the template opens it."""

from __future__ import annotations

import pytest

from guided_grpo.grading import reward_functions
from guided_grpo.grading.rewards import well_formed


@pytest.mark.parametrize(
    ("response", "opened", "right"),
    [
        ("<think>2+3</think>5", None, True),
        ("\n <think>\n2+3\n</think>\n\n5\n", None, True),
        ("2+3</think>5", None, True),
        ("2+3\n</think>\n5", True, True),
        ("<think>2+3</think>5", True, False),  # opened twice
        ("<think>2+3</think>5", False, True),
        ("2+3</think>5", False, False),  # never opened
        ("<think>2+3</think>", None, False),
        ("<think>2+3</think> \n", None, False),
        ("<think>2+3 so 5", None, False),
        ("5", None, False),
        ("", None, False),
        ("<think>a</think>b</think>5", None, False),
        ("<think>a<think>b</think>5", None, False),
        ("<think>a</think>5<think>b", None, False),
        ("First <think>2+3</think>5", None, False),
    ],
)
def test_well_formed(response: str, opened: bool | None, right: bool) -> None:
    assert well_formed(response, opened) is right


def test_rows_are_judged_by_their_own_prompt() -> None:
    completions = ["a</think>5", "a</think>5", [{"role": "assistant", "content": "<think>a</think>5"}]]
    [form] = reward_functions(["format"])
    assert form(completions, thinking_open=[True, False, None], answer=["5"] * 3) == [1.0, 0.0, 1.0]
    assert form(completions, prompts=["?"] * 3) == [1.0, 1.0, 1.0]
    assert form.__name__ == "format"
