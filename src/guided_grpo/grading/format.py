"""Whether a response keeps the form of a thinking model: `<think> … </think>`, then an answer."""

from __future__ import annotations

from guided_grpo.grading.answers import THINK_CLOSE, THINK_OPEN


def well_formed(response: str, thinking_open: bool | None = None) -> bool:
    """One thinking block, closed once, with something after it; white space is free everywhere.

    Args:
        response: what the policy wrote.
        thinking_open: True = the prompt's rendering ended inside `<think>`, so the response must not open it again;
            False = the response must open it; None = unknown, both are right.
    """
    before, closed, after = response.partition(THINK_CLOSE)
    if not closed or not after.strip() or THINK_CLOSE in after or THINK_OPEN in after:
        return False
    opens = before.count(THINK_OPEN)
    if opens:
        return not thinking_open and opens == 1 and before.lstrip().startswith(THINK_OPEN)
    return thinking_open is not False


def tag_count(response: str, thinking_open: bool | None = None) -> float:
    """0.5 for `<think>` exactly once, and 0.5 for `</think>` exactly once: a smoother form of `well_formed`.

    Args:
        response: what the policy wrote.
        thinking_open: True = the prompt's rendering opened the block; None = unknown, both are right.
    """
    opens, closes = response.count(THINK_OPEN), response.count(THINK_CLOSE)
    opened = opens == 0 if thinking_open else opens == 1 if thinking_open is False else opens <= 1
    return 0.5 * opened + 0.5 * (closes == 1)
