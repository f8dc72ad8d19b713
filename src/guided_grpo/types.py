"""What travels through the stages: rows, strengths, plans, feedback, verdicts. Plain values, no torch.

A worked example, one problem on its way (G = 4 rollouts, α = 0.5, guidance of 5 tokens, single-character tokens):

    row        {"prompt": "4+3*7=", "answer": "79", "guidance": "+3=7;*7=9;", "difficulty": 2, "task": "math"}
    strength   Strength(unit="tokens", amount=5)
    plan       arms = [guided, guided, unguided, unguided]; guidance ids = tokens of "+3=7;" for the first two
    rollout 0  prompt ids "4+3*7=" | guidance ids "+3=7;" | generated ids "*7=9;#### 79<eos>"
    verdict    Verdict(Status.CORRECT, extracted="79", reason="exact")
    feedback   StepFeedback(optimizer_step=1, progress=0.01, reward_sum=3.0, reward_count=4)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypedDict

Unit = Literal["tokens", "ratio", "steps", "ratio-steps", "chars", "ratio-chars"]


class Row(TypedDict, total=False):
    """One problem. Further columns are kept and reach the reward functions."""

    prompt: str | list[dict[str, Any]]  # text, or chat messages that end with the user's turn
    answer: str  # maths: the gold answer
    tests: Any  # code: what the sandbox runs
    guidance: str | None  # trace text; None = the problem trains unguided, and is counted
    guidance_limit: int  # characters of the trace that do not yet state the answer
    difficulty: float | int  # number of steps, tier or failure rate; larger = harder
    task: str  # "math" | "code"


class Arm(StrEnum):
    """Which half of its group a rollout belongs to."""

    GUIDED = "guided"
    UNGUIDED = "unguided"


@dataclass(frozen=True)
class Strength:
    """How much of a trace a guided rollout gets: `amount` in `unit` (guidance/slicing.py); shares are 0–1."""

    unit: Unit
    amount: float


@dataclass(frozen=True)
class ProblemFeedback:
    """How the guided rollouts of one group did. A problem and its tier are known again by their keys."""

    problem: int  # rollout.problem_key of its row
    tier: int  # rollout.tier_key of its row
    successes: int  # graded rollouts to be guided with a positive accuracy reward
    rollouts: int  # graded rollouts to be guided


@dataclass(frozen=True)
class StepFeedback:
    """What a controller learns of one training generation batch, equal on all ranks.

    `reward_sum / reward_count` is r_k of Eq. 5: the mean accuracy reward over guided and unguided rollouts.
    """

    optimizer_step: int  # t at the next generation
    progress: float  # t/T in [0, 1] at the next generation, of the steps or of the token budget
    reward_sum: float  # over all graded rollouts
    reward_count: int
    guided_sum: float = 0.0  # over the guided ones among them
    guided_count: int = 0
    problems: tuple[ProblemFeedback, ...] = ()  # one a group, in the order of the batch

    @property
    def reward(self) -> float:
        """Mean accuracy reward r_k; 0.0 when nothing was graded."""
        return self.reward_sum / self.reward_count if self.reward_count else 0.0


class Status(StrEnum):
    """How grading one response ended."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # nothing was declared
    UNPARSEABLE = "unparseable"  # something was declared, but it is no mathematical expression
    TIMEOUT = "timeout"
    RESOURCE = "resource"  # over a declared limit: length, exponent, memory
    INFRA_ERROR = "infra_error"  # the grader failed, not the policy


@dataclass(frozen=True)
class Verdict:
    """A graded response: how it ended, the answer found in it (None = none), and why."""

    status: Status
    extracted: str | None
    reason: str
