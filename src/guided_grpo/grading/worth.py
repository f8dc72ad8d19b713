"""What a verdict is worth as a reward, and the other settings of grading: of a `Grader`, and of reward functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval, Le

from guided_grpo.errors import InputError
from guided_grpo.grading.answers import FORMS
from guided_grpo.sandbox import Limits
from guided_grpo.sandbox.jobs import MIB
from guided_grpo.settings import OneOf, check, setting
from guided_grpo.types import Status

Worth = Mapping[Status, float | None]  # None = the response is masked out of its group

_FAILED: dict[Status, float | None] = dict.fromkeys(Status, 0.0)
# A maths grader that ran out of time says nothing of the answer; a program that ran out of time is a wrong program.
WORTH: dict[str, Worth] = {
    "math": {**_FAILED, Status.CORRECT: 1.0, Status.TIMEOUT: None, Status.INFRA_ERROR: None},
    "code": {**_FAILED, Status.CORRECT: 1.0, Status.INFRA_ERROR: None},
}


@dataclass(frozen=True)
class GradingSettings:
    """Verdicts, their rewards, and where programs run. Raises InputError for a value that cannot be."""

    verdict_rewards: dict | str | None = setting(  # type: ignore[type-arg]  # the argument parser wants a bare dict
        None, 'rewards of verdicts, by task: {"code": {"timeout": null}}; null = masked'
    )
    infra_limit: Annotated[float, Interval(ge=0, le=1)] = setting(
        0.1, "share of infra_error among the last 1,000 verdicts that ends a run; 1 = never"
    )
    answer_forms: Annotated[list[str], OneOf(FORMS)] = setting(
        list(FORMS), "what declares an answer: boxed, hashes (####), words"
    )
    maths_workers: Annotated[int, Ge(1)] = setting(1, "processes for algebra, on each rank")
    maths_seconds: Annotated[float, Gt(0)] = setting(6.0, "most time for one answer of mathematics")
    code_workers: Annotated[int | None, Ge(1)] = setting(None, "programs at once, on each rank; unset = the cores")
    code_tier: Annotated[str, OneOf(("auto", "A", "B"))] = setting(
        "auto", "of the sandbox: A, B (no namespaces) or auto"
    )
    code_cpu_seconds: Annotated[float, Gt(0)] = setting(Limits.cpu_seconds, "CPU time of a program")
    code_wall_seconds: Annotated[float, Gt(0)] = setting(
        Limits.wall_seconds, "wall time of a program, without queueing"
    )
    code_memory_mb: Annotated[int, Gt(0)] = setting(
        Limits.memory_bytes // MIB, "MiB of memory of a program, interpreter included (about 40)"
    )
    code_packages: list[str] = setting(
        [], "packages that programs may import beside the standard library, and all that these need"
    )
    code_partial: bool = setting(False, "reward the share of tests passed")
    code_weak: bool = setting(False, "count tests that a program could forge; false = they count as failed")
    repeat_ngram: Annotated[int, Ge(1)] = setting(3, "tokens, of reward repetition")
    repeat_penalty: Annotated[float, Le(0)] = setting(-1.0, "of a response that only repeats itself")
    overlong_tokens: Annotated[int, Ge(0)] = setting(
        0, "last tokens over which reward overlong falls to -1; 0 = a fifth of all"
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.answer_forms:
            raise InputError("is empty", field="answer_forms", fix=f"choose from {', '.join(FORMS)}")
        read_worth(self.verdict_rewards)  # says now what is wrong

    @property
    def code_limits(self) -> Limits:
        """Of each program."""
        return Limits(self.code_cpu_seconds, self.code_wall_seconds, self.code_memory_mb * MIB)


def read_worth(text: str | Mapping[str, Any] | None) -> dict[str, Worth]:
    """The table of rewards from `{"code": {"timeout": null}}`, over the defaults. Raises InputError."""
    fix = 'write {"math": {"timeout": 0}, "code": {"resource": null}}; null = not graded'
    try:
        changes = json.loads(text) if isinstance(text, str) else text or {}
    except json.JSONDecodeError:
        raise InputError("is not JSON", field="verdict_rewards", value=text, fix=fix) from None
    table = {task: dict(worth) for task, worth in WORTH.items()}
    if not isinstance(changes, Mapping):
        raise InputError("is no table", field="verdict_rewards", value=changes, fix=fix)
    for task, worth in changes.items():
        if task not in table or not isinstance(worth, Mapping):
            raise InputError("is no table of rewards by task", field="verdict_rewards", value=task, fix=fix)
        for status, value in worth.items():
            number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            if status not in list(Status) or not number:
                raise InputError("is no reward of a verdict", field="verdict_rewards", value={status: value}, fix=fix)
            table[task][Status(status)] = value
    return dict(table)
