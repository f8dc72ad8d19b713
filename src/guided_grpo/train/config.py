"""`GuidedGRPOConfig`: TRL's `GRPOConfig` plus the axes of guidance, with validation whose messages name the fix."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Ge
from transformers.utils import is_torch_bf16_gpu_available
from trl import GRPOConfig

from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import guided_count
from guided_grpo.guidance.placement import check_hint_template
from guided_grpo.guidance.strength import check_strength, least_length
from guided_grpo.settings import OneOf, Setting, check, describe, fill, setting
from guided_grpo.train.forward import FORWARDS
from guided_grpo.train.presets import METHODS, Axes
from guided_grpo.train.rescue import check_stages, rule_of, stages_of
from guided_grpo.train.turns import check_turns

# These fold the mask into an importance ratio, where half a token has no meaning.
_SEQUENCE_LOSSES = ("vespo", "luspo")


@dataclass
class GuidedGRPOConfig(Axes, GRPOConfig):
    """Every `GRPOConfig` field, and the axes of guidance.

    A field of `Axes` that is left at None takes the value of the method's preset, or the axis's default where the
    preset has none. Deviations from TRL's defaults: `logging_steps` is 1, because metrics.jsonl holds every step;
    `bf16` follows the machine.
    Raises `InputError` (a `ValueError`) for values that contradict each other.
    """

    method: str = setting("grpo", f"preset of the axes: {', '.join(METHODS)}")
    accuracy_reward: str | None = setting(
        None, "reward function that feeds controller and ladder; unset = 'accuracy', or the only one"
    )
    max_generated_tokens: Annotated[int, Ge(0)] = setting(0, "stop once so many are generated; 0 = off")
    max_flops: Annotated[float, Ge(0)] = setting(0.0, "stop once so many are spent (train/flops.py); 0 = off")
    max_train_seconds: Annotated[float, Ge(0)] = setting(0.0, "stop once the steps (step_time) took so long; 0 = off")
    rollouts_every: Annotated[int, Ge(0)] = setting(10, "steps between samples in rollouts.jsonl; 0 = off")
    forward: Annotated[str, OneOf(FORWARDS)] = setting(
        "shared", "shared: prefixes that rows share are read once, rows without weight not at all; plain: TRL's own"
    )
    logging_steps: float = setting(1, "optimizer steps between two rows of metrics.jsonl")

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            fix = f"choose one of {', '.join(METHODS)}"
            raise InputError("is not a method", field="method", value=self.method, fix=fix)
        fill(self, METHODS[self.method].values)
        if self.bf16 is None and not self.fp16:
            self.bf16: bool | None = has_bf16()  # TRL's default asks for it, whatever the machine
        GRPOConfig.__post_init__(self)
        check(self)
        self.guidance_min = least_length(self)
        self.rescue_strength = rule_of(self, adaptive=self.guidance_strength != "none")
        self.rescue_stages = list(stages_of(self))
        self._check_lengths()
        check_stages(self)
        if self.guidance_trigger == "turns":
            check_turns(self.turn_below, self.rescue_stages)
        check_hint_template(self.hint_template)
        self._check_combinations()

    @property
    def guides_first(self) -> bool:
        """Whether rollouts of the first sampling can get guidance."""
        strong = self.guidance_strength != "none" and bool(self.guidance_length) and bool(self.guidance_ratio)
        return (strong and self.guidance_trigger in ("always", "both")) or self.guidance_rows > 0

    @property
    def rescues(self) -> bool:
        """Whether groups that failed can climb the ladder, or later rollouts of a group be guided."""
        return self.guidance_trigger != "always" and bool(self.guidance_ratio)

    @property
    def guided(self) -> bool:
        """Whether any rollout can get guidance."""
        return self.guides_first or self.rescues

    @property
    def needs_traces(self) -> bool:
        """Whether the data must have traces."""
        return self.guided or self.failure_buffer > 0

    @property
    def imitates(self) -> bool:
        """Whether guidance tokens are trained by a term of their own."""
        return self.guided and self.guidance_loss != "policy" and self.guidance_placement == "prefix"

    @property
    def imitation_is_joint(self) -> bool:
        """Whether that term is divided as the loss of generated tokens is."""
        return self.guidance_loss != "likelihood" or self.imitation_mean == "joint"

    @property
    def guidance_in_loss(self) -> bool:
        """Whether guidance tokens have weight in the loss; a hint is prompt, and never does."""
        return self.guidance_placement == "prefix" and (self.imitates or bool(self.guidance_weight))

    def _check_lengths(self) -> None:
        check_strength(self)
        if self.guidance_strength == "concave" and not self.guidance_power > 1:
            raise InputError(
                "is not above 1", field="guidance_power", value=self.guidance_power, fix="use β > 1, or strength linear"
            )
        if self.guidance_strength == "stepwise" and not 0 < self.guidance_decay < 1:
            raise InputError("is not in (0, 1)", field="guidance_decay", value=self.guidance_decay, fix="use 0 < γ < 1")
        if self.guidance_max is not None and self.guidance_max < least_length(self):
            raise InputError(
                f"is below guidance_min {self.guidance_min}",
                field="guidance_max",
                value=self.guidance_max,
                fix="raise it",
            )
        shares = self.guidance_unit.startswith("ratio")
        if self.guidance_strength == "left" and not shares:
            raise InputError(
                "counts from the start of a trace, and strength left from its end",
                field="guidance_unit",
                value=self.guidance_unit,
                fix="use ratio, ratio-steps or ratio-chars",
            )
        if shares and self.guidance_length > 1 and self.guidance_strength != "none":
            raise InputError(
                f"is a share above 1 (guidance_unit is {self.guidance_unit})",
                field="guidance_length",
                value=self.guidance_length,
                fix="set guidance_length to a share in [0, 1], such as 0.5",
            )

    def _check_combinations(self) -> None:
        if self.rescue_strength == "controller" and self.rescues and self.guidance_strength == "none":
            raise InputError(
                "takes the length from a strength, and the method has none",
                field="rescue_strength",
                value="controller",
                fix="set guidance_strength (such as ratio or setpoint) and guidance_length, or rescue_strength: stages",
            )
        if self.use_transformers_continuous_batching and self.repetition_penalty != 1:
            raise InputError(
                "is left out by continuous batching",
                field="repetition_penalty",
                value=self.repetition_penalty,
                fix="use 1, or vLLM",
            )
        group, ratio = int(self.num_generations or 0), self.guidance_ratio
        here = self.per_device_train_batch_size * int(self.steps_per_generation or 1)
        turns = self.guidance_trigger == "turns"
        if (self.dynamic_sampling or turns) and here % group:
            raise InputError(
                f"needs whole groups on every rank, and {here} rollouts are no multiple of {group}",
                field="guidance_trigger" if turns else "dynamic_sampling",
                value="turns" if turns else self.dynamic_sampling,
                fix="make per_device_train_batch_size × steps_per_generation a multiple of num_generations",
            )
        if self.failure_buffer and self.guidance_loss != "likelihood":
            raise InputError(
                f"trains traces by likelihood, and guidance_loss is {self.guidance_loss}",
                field="failure_buffer",
                value=self.failure_buffer,
                fix="set guidance_loss: likelihood",
            )
        if self.guidance_rows >= group:
            raise InputError(
                f"leaves none of {group} rollouts to be sampled",
                field="guidance_rows",
                value=self.guidance_rows,
                fix="use fewer, or a larger num_generations",
            )
        if self.guided and guided_count(group, ratio) == 0:
            raise InputError(
                f"guides no rollout of a group of {group} (α·G = {ratio * group:g} rounds to 0)",
                field="guidance_ratio",
                value=ratio,
                fix=f"use at least {math.ceil(5000 / group) / 10000:g}, a larger num_generations, or method grpo",
            )
        fractional = self.guidance_weight not in (0.0, 1.0)
        sequence = self.importance_sampling_level == "sequence" or self.loss_type in _SEQUENCE_LOSSES
        if self.guided and self.guidance_placement == "prefix" and fractional and sequence:
            raise InputError(
                f"does not go with loss_type '{self.loss_type}' and importance_sampling_level "
                f"'{self.importance_sampling_level}', whose ratio is over whole sequences",
                field="guidance_weight",
                value=self.guidance_weight,
                fix="use 0 or 1, or a token-level loss such as dapo",
            )
        if self.advantage_baseline == "arm" and self.multi_objective_aggregation != "sum_then_normalize":
            raise InputError(
                "needs one summed reward",
                field="advantage_baseline",
                value="arm",
                fix="set multi_objective_aggregation: sum_then_normalize",
            )


def has_bf16() -> bool:
    """Whether there is an accelerator here that trains in bfloat16."""
    return bool(is_torch_bf16_gpu_available())


_TRL = {item.name for item in fields(GRPOConfig)} - {"logging_steps"}
SETTINGS: tuple[Setting, ...] = tuple(item for item in describe(GuidedGRPOConfig) if item.name not in _TRL)  # ours
