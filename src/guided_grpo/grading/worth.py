"""What a verdict is worth as a reward, and the other settings of a grader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.grading.answers import FORMS
from guided_grpo.sandbox import Limits
from guided_grpo.types import Status

Worth = Mapping[Status, float | None]  # None = the response is masked out of its group

_FAILED: dict[Status, float | None] = dict.fromkeys(Status, 0.0)
# A maths grader that ran out of time says nothing of the answer; a program that ran out of time is a wrong program.
WORTH: dict[str, Worth] = {
    "math": {**_FAILED, Status.CORRECT: 1.0, Status.TIMEOUT: None, Status.INFRA_ERROR: None},
    "code": {**_FAILED, Status.CORRECT: 1.0, Status.INFRA_ERROR: None},
}


@dataclass(frozen=True)
class GraderSettings:
    """How responses are graded. Raises InputError for a value that cannot be.

    `worth`: reward of each verdict, by task; what is left out keeps its default (`WORTH`).
    """

    worth: Mapping[str, Worth] = field(default_factory=lambda: WORTH)
    infra_limit: float = 0.1  # share of infrastructure errors above which a run stops; 1 = never
    answer_forms: Sequence[str] = FORMS  # what declares an answer of mathematics
    maths_workers: int = 1  # processes for algebra
    maths_seconds: float = 6.0  # for one answer
    code_workers: int | None = None  # programs at once; None = the cores this process may use
    code_tier: str = "auto"  # of the sandbox: A, B, auto
    code_limits: Limits = field(default_factory=Limits)
    code_partial: bool = False  # True = the share of tests passed
    code_weak: bool = True  # False = tests that a program could forge count as failed
    code_url: str | None = None  # of a Piston-compatible service that runs programs instead of the sandbox

    def __post_init__(self) -> None:
        for form in self.answer_forms:
            if form not in FORMS:
                raise InputError("is no form", field="answer_forms", value=form, fix=f"choose from {', '.join(FORMS)}")
        if not self.answer_forms:
            raise InputError("is empty", field="answer_forms", fix=f"choose from {', '.join(FORMS)}")
        for name in ("maths_workers", "maths_seconds", "code_workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError("is not above 0", field=name, value=value, fix="use a positive number")
        if not 0 <= self.infra_limit <= 1:
            raise InputError("is not in [0, 1]", field="infra_limit", value=self.infra_limit, fix="use a share")


def read_worth(text: str | Mapping[str, Any] | None) -> dict[str, Worth]:
    """The table of rewards from `{"code": {"timeout": null}}`, over the defaults. Raises InputError."""
    fix = 'write {"math": {"timeout": 0}, "code": {"resource": null}}; null = not graded'
    try:
        given = json.loads(text) if isinstance(text, str) else text or {}
    except json.JSONDecodeError:
        raise InputError("is not JSON", field="verdict_rewards", value=text, fix=fix) from None
    table = {task: dict(worth) for task, worth in WORTH.items()}
    if not isinstance(given, Mapping):
        raise InputError("is no table", field="verdict_rewards", value=given, fix=fix)
    for task, worth in given.items():
        if task not in table or not isinstance(worth, Mapping):
            raise InputError("is no table of rewards by task", field="verdict_rewards", value=task, fix=fix)
        for status, value in worth.items():
            number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            if status not in list(Status) or not number:
                raise InputError("is no reward of a verdict", field="verdict_rewards", value={status: value}, fix=fix)
            table[task][Status(status)] = value
    return dict(table)
