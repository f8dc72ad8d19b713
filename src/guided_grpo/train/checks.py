"""Checks of data against a policy and a method: whole data sets before any compute is spent, a batch as it comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset, IterableDataset

from guided_grpo.data.curriculum import CURRICULA, MATHS_TIERS, hardness
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import GuidancePlan
from guided_grpo.guidance.placement import render

if TYPE_CHECKING:
    from guided_grpo.train.config import GuidedGRPOConfig

STREAM_ROWS = 100  # of a streamed data set that are looked at


def accuracy_index(names: Sequence[str], config: GuidedGRPOConfig) -> int:
    """Place of the accuracy reward among the reward functions. Raises `InputError` where it cannot be told."""
    name = config.accuracy_reward
    if name is None:
        # Without guidance it feeds metrics alone, and a drop-in must not ask for more than TRL does.
        fallback = len(names) == 1 or (not config.needs_traces and "accuracy" not in names)
        name = names[0] if fallback else "accuracy"
    if name not in names:
        raise InputError(
            f"is not among the reward functions ({', '.join(names)})",
            field="accuracy_reward",
            value=name,
            fix="name the reward function that says whether an answer is right",
        )
    return names.index(name)


def check_trainable(config: GuidedGRPOConfig, names: Sequence[str], *, plain: bool) -> None:
    """Raise `InputError` where the method does not go with the policy or the rewards.

    Args:
        config: the method.
        names: of the reward functions.
        plain: whether the policy is text-only, without tools, environments or a `rollout_func`.
    """
    if config.needs_traces and not plain:
        raise InputError(
            "does not go with tools, environments, rollout_func or vision models",
            field="method",
            value=config.method,
            fix="use method grpo, or a text-only policy without tools",
        )
    if config.rescue_cold_format is not None and config.format_reward not in names:
        raise InputError(
            f"is not among the reward functions ({', '.join(names)})",
            field="format_reward",
            value=config.format_reward,
            fix="name the function that grades the format, or use rescue_cold_start",
        )


def check_columns(rows: Dataset | IterableDataset | None, config: GuidedGRPOConfig) -> None:
    """Raise `InputError` where the method needs a column, or a trace, that the data lacks.

    Of a streamed data set the first `STREAM_ROWS` rows are looked at; of None (environments bring their own) nothing.
    """
    streamed = rows is not None and not hasattr(rows, "__len__")
    if streamed and CURRICULA[config.curriculum]:
        raise InputError(
            "orders problems, and a streamed data set has no order but its own",
            field="curriculum",
            value=config.curriculum,
            fix="load the data set whole, or set curriculum: none",
        )
    if config.needs_traces:
        part = Dataset.from_list(list(rows.take(STREAM_ROWS))) if streamed else rows  # type: ignore[union-attr]
        _check_traces(part, config, f"none of the first {STREAM_ROWS} rows" if streamed else "no row of the data")
    if rows is not None and not streamed:
        hardness(config.curriculum, rows_by_column(rows), config.curriculum_tiers or MATHS_TIERS)


def _check_traces(rows: Dataset | None, config: GuidedGRPOConfig, none: str) -> None:
    names = [] if rows is None else rows.column_names
    if rows is None or "guidance" not in names:
        raise InputError(
            f"is guided, but the data has no column 'guidance' (it has {', '.join(names) or 'no columns'})",
            field="method",
            value=config.method,
            fix="map one (data_mapping: {guidance: COLUMN}) or use method grpo",
        )
    if not any(rows["guidance"]):
        raise InputError(
            f"is guided, but {none} has a trace",
            field="method",
            value=config.method,
            fix="give at least some rows a non-empty guidance, or use method grpo",
        )


def rows_by_column(rows: Dataset) -> dict[str, Any]:
    """What orders problems, by column, as far as the data has it."""
    names = {name for columns in CURRICULA.values() for name in columns}
    return {name: rows[name] if name in names else None for name in rows.column_names}


def check_fit(rows: Dataset, tokenizer: Any, config: GuidedGRPOConfig, context: int | None, batch: int = 1000) -> None:
    """Raise `InputError` for the first row whose prompt, longest possible guidance and response outgrow the context."""
    if context is None:
        return
    generated = int(config.max_completion_length or 0)
    bound = _longest_guidance(config)
    for start in range(0, len(rows), batch):
        piece = rows[start : start + batch]
        prompts = [render(prompt, tokenizer, config.chat_template_kwargs or {}) for prompt in piece["prompt"]]
        traces = [trace or "" for trace in piece["guidance"]]
        prompt_lengths = [len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
        trace_lengths = [len(ids) for ids in tokenizer(traces, add_special_tokens=False)["input_ids"]]
        for offset, (prompt, trace) in enumerate(zip(prompt_lengths, trace_lengths, strict=True)):
            guidance = int(min(trace, bound))
            if prompt + guidance + generated > context:
                raise InputError(
                    f"row {start + offset} outgrows the context of {context}: {prompt} prompt + up to {guidance} "
                    f"guidance + {generated} generated tokens",
                    field="guidance_max" if config.guidance_strength in _CONTROLLED else "guidance_length",
                    fix="lower it or max_completion_length, or drop the row",
                )


def check_room(prompts_b: Sequence[Sequence[int]], plan: GuidancePlan, config: GuidedGRPOConfig, room: float) -> None:
    """Raise `InputError` where prompt and guidance of a rollout that is sampled leave no room for a response.

    Args:
        prompts_b: ids of prompt and guidance.
        plan: of the same rollouts; a whole trace asks for no room.
        config: for the message.
        room: tokens of context for prompt and guidance.
    """
    rows = zip(prompts_b, plan, strict=True)
    longest = max((len(ids) for ids, assignment in rows if not assignment.slice.whole), default=0)
    if longest > room:
        generated = int(config.max_completion_length or 0)
        raise InputError(
            f"with guidance leaves no room: {longest} tokens of prompt and guidance + max_completion_length "
            f"{generated} > context {room + generated:.0f}",
            field="guidance_max",
            value=config.guidance_max,
            fix=f"bound prompt and guidance to {room:.0f} tokens, or generate fewer",
        )


_CONTROLLED = ("ratio", "ratio-official", "setpoint")


def _longest_guidance(config: GuidedGRPOConfig) -> float:
    """Most guidance tokens a rollout of the first sampling can get; infinite where only the trace bounds it.

    The rescue ladder needs no check: it leaves out what does not fit.
    """
    if not config.guides_first or config.guidance_strength == "none":
        return 0.0  # a whole trace that does not fit is left out
    if config.guidance_unit != "tokens":
        return math.inf
    if config.guidance_strength in _CONTROLLED:
        return math.inf if config.guidance_max is None else max(config.guidance_max, config.guidance_length)
    levels = config.guidance_levels or [] if config.guidance_strength == "steps" else []
    return max(config.guidance_length, config.guidance_final, *levels)
