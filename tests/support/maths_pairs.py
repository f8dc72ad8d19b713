"""Responses and gold answers of every way through the maths verifier."""

from __future__ import annotations

PAIRS = [
    ("#### 5", "5"),
    ("\\boxed{2x+x}", "3x"),
    ("nothing", "5"),
    ("\\boxed{\\frac{1}{2}}", "0.5"),
    ("\\boxed{x+1}", "x+2"),
    ("#### 5", "5"),
    ("\\boxed{{{}", "5"),
    ("long " * 60_000 + "#### 7", "7"),  # 300 kB: more than a pipe holds
]
