"""What a run is told about its graders: the fields of a config, and the settings that come of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from guided_grpo.errors import InputError
from guided_grpo.grading import RewardSettings
from guided_grpo.grading.answers import FORMS
from guided_grpo.grading.worth import GraderSettings, read_worth
from guided_grpo.sandbox import Limits


@dataclass
class GradingArguments:
    """Verdicts, their rewards, and where programs run."""

    verdict_rewards: dict | str | None = field(  # type: ignore[type-arg]  # the argument parser wants a bare dict
        default=None,
        metadata={"help": 'Rewards of verdicts, by task: {"code": {"timeout": null}}; null = masked.'},
    )
    infra_limit: float = field(
        default=0.1, metadata={"help": "Share of infra_error among the last 1,000 verdicts that ends a run; 1 = never."}
    )
    answer_forms: list[str] = field(
        default_factory=lambda: list(FORMS), metadata={"help": "What declares an answer: boxed, hashes (####), words."}
    )
    maths_workers: int = field(default=1, metadata={"help": "Processes for algebra, on each rank."})
    maths_seconds: float = field(default=6.0, metadata={"help": "Most time for one answer."})
    code_workers: int | None = field(default=None, metadata={"help": "Programs at once, on each rank; unset = cores."})
    code_tier: str = field(default="auto", metadata={"help": "Of the sandbox: A, B (no namespaces) or auto."})
    code_cpu_seconds: float = field(default=5.0, metadata={"help": "CPU time of a program."})
    code_wall_seconds: float = field(default=60.0, metadata={"help": "Wall time of a program, without queueing."})
    code_memory_mb: int = field(default=512, metadata={"help": "Memory of a program, interpreter included."})
    code_partial: bool = field(default=False, metadata={"help": "Reward the share of tests passed."})
    code_weak: bool = field(default=True, metadata={"help": "Count tests that a program could forge; false = failed."})
    code_url: str | None = field(
        default=None, metadata={"help": "A Piston-compatible service that runs programs; unset = our sandbox."}
    )
    repeat_ngram: int = field(default=3, metadata={"help": "Tokens, of reward repetition."})
    repeat_penalty: float = field(default=-1.0, metadata={"help": "Of a response that only repeats itself."})
    overlong_tokens: int = field(
        default=0, metadata={"help": "Last tokens over which reward overlong falls to -1; 0 = a fifth of all."}
    )

    def __post_init__(self) -> None:
        self.grader_settings()  # says now what is wrong

    def grader_settings(self) -> GraderSettings:
        """For `Grader`. Raises InputError."""
        if self.code_tier not in ("A", "B", "auto"):
            raise InputError("is no tier", field="code_tier", value=self.code_tier, fix="choose A, B or auto")
        return GraderSettings(
            worth=read_worth(self.verdict_rewards),
            infra_limit=self.infra_limit,
            answer_forms=tuple(self.answer_forms),
            maths_workers=self.maths_workers,
            maths_seconds=self.maths_seconds,
            code_workers=self.code_workers,
            code_tier=self.code_tier,
            code_limits=Limits(
                cpu_seconds=self.code_cpu_seconds,
                wall_seconds=self.code_wall_seconds,
                memory_bytes=self.code_memory_mb * 2**20,
            ),
            code_partial=self.code_partial,
            code_weak=self.code_weak,
            code_url=self.code_url,
        )

    def reward_settings(self, max_tokens: int) -> RewardSettings:
        """For `reward_functions`."""
        return RewardSettings(self.repeat_ngram, self.repeat_penalty, max_tokens, self.overlong_tokens)
