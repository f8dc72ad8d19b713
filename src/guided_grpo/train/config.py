"""`GuidedGRPOConfig`: TRL's `GRPOConfig` plus the axes of guidance, with validation whose messages name the fix."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from trl import GRPOConfig

from guided_grpo.data.curriculum import CURRICULA
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import ALLOCATIONS, guided_count
from guided_grpo.guidance.placement import HINT_TEMPLATE, PLACEMENTS, check_hint_template
from guided_grpo.guidance.slicing import UNITS
from guided_grpo.guidance.strength import STRENGTHS, StrengthSettings
from guided_grpo.train.advantage import CREDITS
from guided_grpo.train.methods import DEFAULTS, METHODS, resolve
from guided_grpo.train.rescue import RULES, LadderSettings

# These fold the mask into an importance ratio, where half a token has no meaning.
_SEQUENCE_LOSSES = ("vespo", "luspo")


@dataclass
class GuidedGRPOConfig(GRPOConfig):
    """Every `GRPOConfig` field, and the axes of guidance. A field left at None takes the value of the method's preset.

    Deviation from TRL's defaults: `logging_steps` is 1, because metrics.jsonl holds every step.
    Raises `InputError` (a `ValueError`) for values that contradict each other.
    """

    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two rows of metrics.jsonl."})
    method: str = field(default="grpo", metadata={"help": f"Preset of the axes below: {', '.join(METHODS)}."})
    guidance_trigger: str | None = field(
        default=None, metadata={"help": "always, rescue (only groups that failed), or both."}
    )
    guidance_strength: str | None = field(default=None, metadata={"help": f"Over time: {', '.join(STRENGTHS)}."})
    guidance_unit: str | None = field(default=None, metadata={"help": f"{', '.join(UNITS)} of the trace."})
    guidance_length: float | None = field(default=None, metadata={"help": "Initial length ℓ0, in guidance_unit."})
    guidance_min: float | None = field(default=None, metadata={"help": "Lower clamp of the controllers."})
    guidance_max: float | None = field(default=None, metadata={"help": "Upper clamp of the controllers; unset = none."})
    guidance_final: float | None = field(default=None, metadata={"help": "Final length of strength rdp."})
    guidance_power: float | None = field(default=None, metadata={"help": "β > 1 of strength concave."})
    guidance_decay: float | None = field(default=None, metadata={"help": "γ in (0, 1) of strength stepwise."})
    guidance_interval: int | None = field(default=None, metadata={"help": "s of strength stepwise, optimizer steps."})
    guidance_history: int | None = field(default=None, metadata={"help": "T of strength ratio, generation batches."})
    guidance_target: float | None = field(
        default=None, metadata={"help": "Guided success that setpoint and left hold."}
    )
    guidance_gain: float | None = field(default=None, metadata={"help": "Step size of strengths setpoint and left."})
    guidance_ratio: float | None = field(default=None, metadata={"help": "α: share of a group that is guided."})
    guidance_allocation: str | None = field(default=None, metadata={"help": f"One of {', '.join(ALLOCATIONS)}."})
    guidance_placement: str | None = field(
        default=None, metadata={"help": "prefix: start of the assistant's turn; hint: in the user's turn."}
    )
    hint_template: str = field(
        default=HINT_TEMPLATE, metadata={"help": "Wording of a hint around {problem} and {hint}; unset = GHPO's."}
    )
    guidance_thinking: str = field(
        default="auto", metadata={"help": "auto, open or none: whether guidance opens a <think> block."}
    )
    guidance_leak: bool = field(default=False, metadata={"help": "Let guidance state the final answer."})
    guidance_weight: float | None = field(
        default=None, metadata={"help": "w_g in [0, 1], guidance tokens in the loss."}
    )
    guidance_credit: str | None = field(
        default=None,
        metadata={
            "help": "signed: guidance takes the rollout's advantage; positive: only above 0; unguided: guided none."
        },
    )
    advantage_baseline: str | None = field(
        default=None, metadata={"help": "group, or arm: guided apart from unguided."}
    )
    curriculum: str | None = field(
        default=None,
        metadata={
            "help": "none: TRL's order; random; difficulty, tiers, success: easy first; adaptive: follows rewards."
        },
    )
    curriculum_tiers: list[str] | None = field(
        default=None, metadata={"help": "Names of tiers, easy to hard; unset = the five maths sources of G²RPO-A."}
    )
    curriculum_target: float = field(default=0.5, metadata={"help": "Mean reward that curriculum adaptive holds."})
    curriculum_gain: float = field(default=0.1, metadata={"help": "Its step a batch, as a share of the range."})
    rescue_strength: str | None = field(default=None, metadata={"help": f"Of the ladder: {', '.join(RULES)}."})
    rescue_stages: list[float] | None = field(
        default=None, metadata={"help": "Shares of the trace, or of the controller's length, increasing."}
    )
    rescue_slice: str | None = field(default=None, metadata={"help": "chars, tokens or steps: what a share is of."})
    rescue_cold_start: int | None = field(default=None, metadata={"help": "Optimizer steps before the first rescue."})
    rescue_cold_format: float | None = field(
        default=None, metadata={"help": "Mean format reward that ends the cold start, in place of steps."}
    )
    rescue_target: float | None = field(default=None, metadata={"help": "p* of rescue_strength memory."})
    rescue_gain: float | None = field(default=None, metadata={"help": "η of rescue_strength memory."})
    format_reward: str = field(default="format", metadata={"help": "Reward function that ends a cold start by format."})
    accuracy_reward: str | None = field(
        default=None,
        metadata={"help": "Reward function that feeds controller and ladder; unset = 'accuracy', or the only one."},
    )
    max_generated_tokens: int = field(default=0, metadata={"help": "Stop once this many are generated; 0 = off."})
    max_train_seconds: float = field(
        default=0.0, metadata={"help": "Stop once the steps (step_time) took so long; 0 = off."}
    )
    rollouts_every: int = field(default=10, metadata={"help": "Steps between samples in rollouts.jsonl; 0 = off."})

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                "is not a method", field="method", value=self.method, fix=f"choose one of {', '.join(METHODS)}"
            )
        resolved = resolve(self.method, {name: getattr(self, name) for name in DEFAULTS})
        for name, value in resolved.items():
            setattr(self, name, value)
        super().__post_init__()
        self._check_choices()
        self._check_numbers()
        self._check_ladder()
        self._check_combinations()

    def strength_settings(self) -> StrengthSettings:
        """The numbers of the strength axis, for `make_controller`."""
        return StrengthSettings(
            unit=self.guidance_unit,  # type: ignore[arg-type]  # checked against UNITS
            length=float(self.guidance_length or 0.0),
            minimum=float(self.guidance_min or 0.0),
            maximum=math.inf if self.guidance_max is None else float(self.guidance_max),
            final=float(self.guidance_final or 0.0),
            power=float(self.guidance_power or 0.0),
            decay=float(self.guidance_decay or 0.0),
            interval=int(self.guidance_interval or 0),
            history=int(self.guidance_history or 0),
            target=float(self.guidance_target or 0.0),
            gain=float(self.guidance_gain or 0.0),
        )

    def ladder_settings(self) -> LadderSettings:
        """The numbers of the rescue ladder."""
        return LadderSettings(
            rule=str(self.rescue_strength),
            stages=tuple(float(stage) for stage in self.rescue_stages or ()),
            target=float(self.rescue_target or 0.0),
            gain=float(self.rescue_gain or 0.0),
            cold_start=int(self.rescue_cold_start or 0),
            cold_format=self.rescue_cold_format,
        )

    @property
    def guides_first(self) -> bool:
        """Whether rollouts of the first sampling can get guidance."""
        strong = self.guidance_strength != "none" and bool(self.guidance_length)
        return strong and bool(self.guidance_ratio) and self.guidance_trigger != "rescue"

    @property
    def rescues(self) -> bool:
        """Whether groups that failed can climb the ladder."""
        return self.guidance_trigger != "always" and bool(self.guidance_ratio)

    @property
    def guided(self) -> bool:
        """Whether any rollout can get guidance."""
        return self.guides_first or self.rescues

    @property
    def guidance_in_loss(self) -> bool:
        """Whether guidance tokens have weight in the loss; a hint is prompt, and never does."""
        return self.guidance_placement == "prefix" and bool(self.guidance_weight)

    def _check_choices(self) -> None:
        for name, allowed in {
            "guidance_strength": tuple(STRENGTHS),
            "guidance_trigger": ("always", "rescue", "both"),
            "guidance_unit": UNITS,
            "rescue_strength": RULES,
            "rescue_slice": ("chars", "tokens", "steps"),
            "guidance_allocation": ALLOCATIONS,
            "guidance_placement": PLACEMENTS,
            "guidance_thinking": ("auto", "open", "none"),
            "guidance_credit": CREDITS,
            "advantage_baseline": ("group", "arm"),
            "curriculum": tuple(CURRICULA),
        }.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError("is not known", field=name, value=value, fix=f"choose one of {', '.join(allowed)}")

    def _check_numbers(self) -> None:
        for name, low, high, words in (
            ("guidance_ratio", 0.0, 1.0, "in [0, 1]"),
            ("guidance_weight", 0.0, 1.0, "in [0, 1]"),
            ("guidance_target", 0.0, 1.0, "in [0, 1]"),
            ("guidance_length", 0.0, math.inf, "0 or more"),
            ("guidance_min", 0.0, math.inf, "0 or more"),
            ("guidance_final", 0.0, math.inf, "0 or more"),
            ("guidance_interval", 1, math.inf, "1 or more"),
            ("guidance_history", 1, math.inf, "1 or more"),
            ("rescue_cold_start", 0, math.inf, "0 (none) or more"),
            ("rescue_target", 0.0, 1.0, "in [0, 1]"),
            ("curriculum_target", 0.0, 1.0, "in [0, 1]"),
            ("curriculum_gain", 0.0, math.inf, "0 or more"),
            ("rescue_gain", 0.0, math.inf, "0 or more"),
            ("max_generated_tokens", 0, math.inf, "0 (off) or more"),
            ("max_train_seconds", 0, math.inf, "0 (off) or more"),
            ("rollouts_every", 0, math.inf, "0 (off) or more"),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails too
                raise InputError("is out of range", field=name, value=value, fix=f"use a number {words}")
        if self.guidance_strength == "concave" and not (self.guidance_power or 0) > 1:
            raise InputError(
                "is not above 1", field="guidance_power", value=self.guidance_power, fix="use β > 1, or strength linear"
            )
        if self.guidance_strength == "stepwise" and not 0 < (self.guidance_decay or 0) < 1:
            raise InputError("is not in (0, 1)", field="guidance_decay", value=self.guidance_decay, fix="use 0 < γ < 1")
        if self.guidance_max is not None and self.guidance_max < (self.guidance_min or 0):
            raise InputError(
                f"is below guidance_min {self.guidance_min}",
                field="guidance_max",
                value=self.guidance_max,
                fix="raise it",
            )
        if self.guidance_strength == "left" and not str(self.guidance_unit).startswith("ratio"):
            raise InputError(
                "counts from the start of a trace, and strength left from its end",
                field="guidance_unit",
                value=self.guidance_unit,
                fix="use ratio, ratio-steps or ratio-chars",
            )
        if (
            str(self.guidance_unit).startswith("ratio")
            and (self.guidance_length or 0) > 1
            and self.guidance_strength != "none"
        ):
            raise InputError(
                f"is a share above 1 (guidance_unit is {self.guidance_unit})",
                field="guidance_length",
                value=self.guidance_length,
                fix="set guidance_length to a share in [0, 1], such as 0.5",
            )

    def _check_ladder(self) -> None:
        stages, top = list(self.rescue_stages or ()), math.inf if self.rescue_strength == "controller" else 1.0
        rising = all(a < b for a, b in itertools.pairwise(stages))
        if not stages or not rising or not 0 < stages[0] <= stages[-1] <= top:
            raise InputError(
                "is no increasing list of numbers above 0" + ("" if top > 1 else " and up to 1"),
                field="rescue_stages",
                value=stages,
                fix="write shares such as 0.25 0.5 0.75",
            )
        if self.rescue_strength == "controller" and self.rescues and self.guidance_strength == "none":
            raise InputError(
                "takes the length from a strength, and the method has none",
                field="rescue_strength",
                value="controller",
                fix="set guidance_strength (such as ratio or setpoint) and guidance_length, or rescue_strength: stages",
            )
        if self.rescue_cold_format is not None and not 0 <= self.rescue_cold_format <= 1:
            raise InputError(
                "is not in [0, 1]", field="rescue_cold_format", value=self.rescue_cold_format, fix="use a mean reward"
            )
        check_hint_template(self.hint_template)

    def _check_combinations(self) -> None:
        group, ratio = int(self.num_generations or 0), float(self.guidance_ratio or 0.0)
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
