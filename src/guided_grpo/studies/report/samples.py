"""The sampled rollouts of a run's first and last sampled step: read from `rollouts.jsonl`, one record a group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.studies.report.jsonl import as_text, optional_integer, optional_number, read_jsonl


@dataclass(frozen=True)
class Rollout:
    """One response: the guidance that it was given and what the policy generated after it."""

    guided: bool
    guidance: str
    generated: str
    guidance_tokens: int | None
    generated_tokens: int | None
    rewards: dict[str, float]
    advantage: float | None
    truncated: bool
    stage: int = 0  # attempt on the rescue ladder that produced it; 0 = the first sampling
    omega: float | None = None  # share of the trace that was asked for
    placement: str = ""  # "hint": guidance stood in the user's turn; else at the start of the answer

    @property
    def hinted(self) -> bool:
        """Whether the guidance is a part of the prompt."""
        return self.placement == "hint" and bool(self.guidance)

    @property
    def reward(self) -> float | None:
        """The accuracy reward; the sum of all where none has that name; None where nothing was graded."""
        if "accuracy" in self.rewards:
            return self.rewards["accuracy"]
        return math.fsum(self.rewards.values()) if self.rewards else None


@dataclass(frozen=True)
class Group:
    """One problem and its rollouts. `prompt` holds (role, text); role "" for a plain text prompt."""

    index: int
    prompt: list[tuple[str, str]]
    answer: str
    difficulty: str  # a number or the name of a tier; "" = unknown
    rollouts: list[Rollout]

    @property
    def guided(self) -> list[Rollout]:
        """The guided rollouts, in their order."""
        return [rollout for rollout in self.rollouts if rollout.guided]

    @property
    def unguided(self) -> list[Rollout]:
        """The unguided rollouts, in their order."""
        return [rollout for rollout in self.rollouts if not rollout.guided]

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ, so that an advantage is left to learn from."""
        return len({rollout.reward for rollout in self.rollouts if rollout.reward is not None}) > 1


@dataclass(frozen=True)
class Sample:
    """The groups recorded at one step."""

    step: int
    groups: list[Group]


def first_and_last(path: Path, notes: list[str]) -> list[Sample]:
    """The first and the last sampled step. Holds no more than these two in memory: the file grows with the run."""
    first: dict[int, Group] = {}
    last: dict[int, Group] = {}
    low: int | None = None
    high: int | None = None
    for line, record in read_jsonl(path, notes):
        step = optional_integer(record, "step", path, line)
        if step is None:
            raise InputError("is missing", file=path, line=line, field="step", fix="write the optimizer step")
        if low is None or step < low:
            low, first = step, {}
        if high is None or step > high:
            high, last = step, {}
        if step in (low, high):
            group = _group(record, path, line, default=len(first if step == low else last))
            # A resumed run writes a step again; the later record is the run's.
            for groups, wanted in ((first, low), (last, high)):
                if step == wanted:
                    groups[group.index] = group
    if low is None or high is None:
        return []
    samples = [Sample(low, [first[index] for index in sorted(first)])]
    return samples if low == high else [*samples, Sample(high, [last[index] for index in sorted(last)])]


def _group(record: Mapping[str, Any], path: Path, line: int, default: int) -> Group:
    rollouts = record.get("rollouts")
    if not isinstance(rollouts, list) or not all(isinstance(rollout, dict) for rollout in rollouts):
        raise InputError(
            "is no list of objects",
            file=path,
            line=line,
            field="rollouts",
            value=rollouts,
            fix="write one object per rollout",
        )
    index = optional_integer(record, "group", path, line)
    return Group(
        index=default if index is None else index,
        prompt=_messages(record.get("prompt")),
        answer=as_text(record.get("answer")),
        difficulty=as_text(record.get("difficulty")),
        rollouts=[_rollout(rollout, path, line) for rollout in rollouts],
    )


def _rollout(record: Mapping[str, Any], path: Path, line: int) -> Rollout:
    rewards = record.get("rewards") or {}
    if not isinstance(rewards, dict):
        raise InputError(
            "is no object", file=path, line=line, field="rewards", value=rewards, fix="write rewards by name"
        )
    numbers = {str(name): optional_number(rewards, name, path, line) for name in rewards}
    return Rollout(
        guided=record.get("arm") == "guided",
        guidance=as_text(record.get("guidance")),
        generated=as_text(record.get("generated")),
        guidance_tokens=optional_integer(record, "guidance_tokens", path, line),
        generated_tokens=optional_integer(record, "generated_tokens", path, line),
        rewards={name: value for name, value in numbers.items() if value is not None and math.isfinite(value)},
        advantage=optional_number(record, "advantage", path, line),
        truncated=record.get("truncated") is True,
        stage=optional_integer(record, "stage", path, line) or 0,
        omega=optional_number(record, "omega", path, line),
        placement=as_text(record.get("placement")),
    )


def _messages(prompt: object) -> list[tuple[str, str]]:
    if isinstance(prompt, list):
        return [
            (as_text(message.get("role")), _content(message.get("content")))
            if isinstance(message, dict)
            else ("", as_text(message))
            for message in prompt
        ]
    return [("", as_text(prompt))]


def _content(content: object) -> str:
    """The text of a message; its text parts where the content is a list of parts."""
    if isinstance(content, list):
        return "\n".join(as_text(part.get("text") if isinstance(part, dict) else part) for part in content)
    return as_text(content)
