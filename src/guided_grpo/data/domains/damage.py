"""Traces that are fewer, shorter, wrong or foreign, for studies of what traces are worth.

    traces=64      only the first 64 problems have one
    cut=30-60      each keeps between 30 and 60 % of its steps
    wrong=40       40 % have one wrong step, from which everything after follows, and so a wrong answer
    slip=40        40 % have one wrong value written, and go on from the right one to the right answer
    merge=3        three steps at once: their operations, then the last of their values
    style=renamed  every digit and operator is another one, by a fixed table
    style=ahead    each value is written before its step

The problem and its `answer` stay as they are; the column `trace_answer` is what the trace itself comes to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from guided_grpo.data.domains.chains import ANSWER_VALUES, apply
from guided_grpo.guidance.slicing import step_ends
from guided_grpo.types import Row

_STEP = re.compile(r"([-+*])(\d)=(\d);")
_RENAMED = str.maketrans("0123456789+-*", "7294610538-*+")
STYLES = ("own", "renamed", "ahead")


@dataclass(frozen=True)
class Damage:
    """What is done to the traces of generated problems; shares in percent."""

    traces: int | None = None
    cut: tuple[int, int] | None = None
    wrong: int = 0
    slip: int = 0
    merge: int = 1
    style: str = "own"  # of STYLES

    @property
    def needs_chains(self) -> bool:
        """Whether steps are read as those of chains."""
        return bool(self.wrong or self.slip or self.merge > 1 or self.style != "own")


def damaged(rows: Iterable[Row], damage: Damage, seed: int) -> Iterator[Row]:
    """The rows with their traces damaged; the same for the same arguments.

    Args:
        rows: generated problems; of chains where steps are computed anew.
        damage: what to do.
        seed: of the generator.
    """
    rng = random.Random(f"damage/{seed}/{damage}")
    for number, row in enumerate(rows):
        trace, answer = str(row["guidance"]), row["answer"]
        fate = rng.random() * 100
        if fate < damage.wrong:
            trace, answer = _wrong(row, rng, follows=True)
        elif fate < damage.wrong + damage.slip:
            trace, _ = _wrong(row, rng, follows=False)
        if damage.cut is not None:
            ends = step_ends(trace)
            kept = round(len(ends) * rng.uniform(*damage.cut) / 100)
            trace = trace[: ends[max(kept, 1) - 1]]
        if damage.merge > 1:
            trace = _merged(trace, damage.merge)
        if damage.style == "renamed":
            trace = trace.translate(_RENAMED)
        if damage.style == "ahead":
            trace = _STEP.sub(r"\3=\1\2;", trace)
        has_trace = damage.traces is None or number < damage.traces
        yield {**row, "guidance": trace if has_trace else None, "trace_answer": answer}  # type: ignore[typeddict-unknown-key]


def _merged(trace: str, size: int) -> str:
    """The trace with `size` steps written as one."""
    steps = _STEP.findall(trace)
    parts = [steps[first : first + size] for first in range(0, len(steps), size)]
    return "".join("".join(op + operand for op, operand, _ in part) + f"={part[-1][2]};" for part in parts)


def _wrong(row: Row, rng: random.Random, *, follows: bool) -> tuple[str, str]:
    """The trace with one wrong value, and what it comes to; `follows` = later steps go on from it."""
    steps = _STEP.findall(str(row["guidance"]))
    place, value, written, values = rng.randrange(len(steps)), int(str(row["prompt"])[0]), [], []
    for number, (op, operand, _) in enumerate(steps):
        right = apply(value, op, int(operand))
        shown = (right + rng.randrange(1, 10)) % 10 if number == place else right
        value = shown if follows else right
        written.append(f"{op}{operand}={shown};")
        values.append(str(value))
    return "".join(written), "".join(values[-ANSWER_VALUES:])
