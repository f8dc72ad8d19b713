"""What a reader makes of a record: the problem, its gold answer or tests, the traces to choose from.

A worked example, one record of Math-220k:

    draft   Draft(problem="What is 1+1?", answer="2", traces=[Trace("Well… </think> \\\\boxed{2}", "generations[0]"),
            Trace("Hm, 1+", "generations[1]", complete=False)], tier="olympiads")
    row     the same problem, with the first trace that curation accepts as `guidance`
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from guided_grpo.data.reading.streams import Record
from guided_grpo.grading.answers import THINK_CLOSE, THINK_OPEN

MATHS = "Reason step by step, and put the final answer in \\boxed{}."
PROGRAM = (
    "Write a Python program that reads standard input and writes standard output. "
    "Give the whole program in one ```python block."
)
FUNCTION = "Give the whole function, with its imports, in one ```python block."


class RejectedError(Exception):
    """A record that makes no row: `reason` is a key of `curate.REASONS`, `detail` says what there is instead."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, " ".join(detail.split())[:300]


@dataclass(frozen=True)
class Trace:
    """A worked solution that a row may get as guidance; no opening `<think>`, the closing one stays."""

    text: str
    name: str  # its column, with a number where the column is a list
    complete: bool | None = None  # what the data says; None = nothing
    correct: bool | None = None  # what the data says; only compared with what the verifier says
    gold: bool = False  # the gold answer was taken from this trace: there is nothing to grade


@dataclass(frozen=True)
class Inputs:
    """Arguments without expected values: what the reference returns for them is expected."""

    reference: str  # source of the solution
    entry_point: str
    arguments: list[list[Any]]  # of each call
    tolerance: float = 0.0  # absolute, for results that are a float


@dataclass
class Draft:
    """A record in the making of a row."""

    problem: Any  # text, or chat messages
    answer: str | None = None
    tests: Any = None
    traces: list[Trace] = field(default_factory=list)
    task: str = "math"
    tier: str | None = None  # where the problem is from
    difficulty: Any = None  # what the data itself says
    inputs: Inputs | None = None  # tests that a run of the reference can make
    instruction: str = ""  # what the reader asks of the policy, unless the recipe says otherwise
    columns: dict[str, Any] = field(default_factory=dict)  # further columns of the row

    @property
    def text(self) -> str:
        """The problem as text, for duplicates and contamination."""
        if isinstance(self.problem, str):
            return self.problem
        return "\n".join(str(message.get("content", "")) for message in self.problem if message.get("role") == "user")

    def question(self, instruction: str | None = None) -> str:
        """The problem, which is text here, with the instruction below it; None = the reader's own."""
        words = self.instruction if instruction is None else instruction
        return f"{self.problem}\n{words}" if words else str(self.problem)

    def row(self, prompt: Any, trace: Trace | None, difficulty: Any) -> dict[str, Any]:
        """A row that is still to be checked (`check_row`), with this trace as its guidance; None = without."""
        return {
            "prompt": prompt,
            **({"answer": self.answer} if self.task == "math" else {"tests": self.tests}),
            "guidance": trace.text if trace else None,
            "difficulty": difficulty,
            "task": self.task,
            **({"source": self.tier} if self.tier is not None else {}),
            **self.columns,
        }


def tidy(text: str) -> str:
    """Line ends as \\n and no blanks around; a form feed stays: it is what a JSON parser made of the \\f of \\frac."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip(" \t\n\u00a0")


def text_of(record: Record, *names: str) -> str:
    """The first of these columns that holds text. Raises RejectedError where none does."""
    text = maybe_text(record, *names)
    if text is None:
        raise RejectedError("missing-field", f"no text in {' or '.join(names)}; the columns are {', '.join(record)}")
    return text


def maybe_text(record: Record, *names: str) -> str | None:
    """The same, or None."""
    texts = (record.get(name) for name in names)
    return next((tidy(text) for text in texts if isinstance(text, str) and text.strip()), None)


def list_of(record: Record, name: str) -> list[Any]:
    """The values of a column that is a list; none where it is anything else."""
    value = record.get(name)
    return list(value) if isinstance(value, list | tuple) else []


def asserts_of(record: Record) -> list[str]:
    """The tests of an MBPP record. Raises RejectedError where there are none, or something else among them."""
    tests = list_of(record, "test_list")
    if not tests or not all(isinstance(test, str) for test in tests):
        raise RejectedError("bad-tests", f"test_list holds no asserts; the columns are {', '.join(record)}")
    return tests


def split_thought(text: str) -> tuple[str, bool | None]:
    """A trace without its opening `<think>`, and whether its thought is closed (None = it has no tags)."""
    text = tidy(text)
    opened = text.startswith(THINK_OPEN)
    body = text.removeprefix(THINK_OPEN).lstrip("\n") if opened else text
    return body, (THINK_CLOSE in body) if opened or THINK_CLOSE in body else None


def fence(code: str) -> str:
    """A program as the block that a response gives it in."""
    return f"```python\n{tidy(code)}\n```"


_PROOF = re.compile(
    r"^[^\w]*(?:\([a-z0-9]+\)\s*|\d+[.)]\s*)?(?:prove|show|demonstrate|verify)\b(?!\s+(?:your|all|the\s+steps))"
    r"|[.?!:,]\s+(?:prove|show)\s+that\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"\?|\b(?:find|determine|compute|calculate|evaluate|solve|how\s+(?:many|much))\b", re.IGNORECASE)


def asks_for_proof(problem: str) -> bool:
    """Whether a problem asks to prove something and for nothing else, by its wording: no answer could be checked."""
    return bool(_PROOF.search(problem)) and not _QUESTION.search(problem)
