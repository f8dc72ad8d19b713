"""The embedded domain: chains of invertible operations modulo 10, with a step trace and an exact answer.

A problem of three steps and its full solution (one character is one token):

    prompt    "4+3*7-2="
    guidance  "+3=7;*7=9;-2=7;"
    then      "#### 797" and the end token: the answer is the last three running values

Why these choices (docs/dev/log.md): every operation is invertible modulo 10 (`+x`, `-x`, `*3`, `*7`, `*9`), so
an early mistake stays, and three digits of answer leave 0.1 % to guessing. (All three follow from the value before
them: who errs early and then computes well is right one time in ten; `benchmarks/exact_chains.py` counts that.) A
*noisy demonstrator* writes each step wrong with a given probability and goes on from the wrong value: who learns from
it knows the rule and is unreliable, which is what RL with verifiable rewards sharpens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from guided_grpo.data.domains import rows_by_steps
from guided_grpo.types import Row

ALPHABET = "0123456789+-*=;# "
ANSWER_VALUES = 3  # running values that the answer repeats: 10^-3 by chance


def apply(value: int, op: str, operand: int) -> int:
    """The running value after one step."""
    if op == "+":
        return (value + operand) % 10
    if op == "-":
        return (value - operand) % 10
    return (value * operand) % 10


def chain(steps: int, rng: random.Random, noise: float = 0.0) -> Row:
    """One problem of `steps` steps (at least 3).

    With `noise` > 0 the trace is a noisy demonstration: each step is wrong with that probability, later steps and the
    stated answer follow from the wrong value. `answer` is always that of the written trace.
    """
    value = rng.randrange(10)
    prompt, trace, values = [str(value)], [], []
    for _ in range(steps):
        # 0 and 5 are fixed points of the multiplications: chains that stay there would have answers worth guessing.
        op = rng.choice("+-" if value in (0, 5) else "+-*")
        operand = rng.choice((3, 7, 9)) if op == "*" else rng.randrange(1, 10)
        value = apply(value, op, operand)
        if noise and rng.random() < noise:
            value = (value + rng.randrange(1, 10)) % 10
        prompt.append(f"{op}{operand}")
        trace.append(f"{op}{operand}={value};")
        values.append(str(value))
    return {
        "prompt": "".join(prompt) + "=",
        "answer": "".join(values[-ANSWER_VALUES:]),
        "guidance": "".join(trace),
        "difficulty": steps,
        "task": "math",
    }


def solution(row: Row) -> str:
    """The whole response that the trace of `row` leads to, without the end token."""
    return f"{row['guidance']}#### {row['answer']}"


def chains(count: int, low: int, high: int, seed: int, noise: float = 0.0) -> Iterator[Row]:
    """`count` problems whose number of steps is uniform in [low, high]; the same for the same arguments."""
    return rows_by_steps("chains", chain, count, low, high, seed, noise)
