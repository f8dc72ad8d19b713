"""How a problem, and problems of one difficulty, are known again: in any epoch, on any rank, in any run."""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from guided_grpo.types import Row

Prompt = str | list[dict[str, Any]]


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one line of JSON, by which it is remembered."""
    return json.dumps(prompt, default=str)  # parts of a chat may be images


def problem_key(row: Row) -> int:
    """The number of a problem: a hash of its prompt."""
    return _digest(prompt_text(row.get("prompt", "")))


def tier_key(row: Row) -> int:
    """The number of a difficulty: of a tier, or of a number to one decimal; 0 = the row has none."""
    difficulty = row.get("difficulty")
    if difficulty is None:
        return 0
    return _digest(difficulty if isinstance(difficulty, str) else f"{float(difficulty):.1f}")


@lru_cache(maxsize=4096)
def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1  # fits a signed 64-bit tensor
