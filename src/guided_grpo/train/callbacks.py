"""What hangs on a trainer's events: its bar, evaluations, and the end of a run on its budget."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.state import RunState

STEPS_PER_LINE = 20


class BudgetCallback(TrainerCallback):
    """Stops training after the step in which a budget of `config` is reached; equal on all ranks."""

    def __init__(self, config: GuidedGRPOConfig, run: RunState) -> None:
        self.config, self.run = config, run

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        spent = (
            (self.config.max_generated_tokens, self.run.tokens_generated),
            (self.config.max_flops, self.run.flops),
            (self.config.max_train_seconds, self.run.train_seconds),
        )
        if any(budget and amount >= budget for budget, amount in spent):
            control.should_training_stop = True
        return control


class EvaluationCallback(TrainerCallback):
    """Calls `evaluate(step)` after every so many steps, on all ranks."""

    def __init__(self, every: int, evaluate: Callable[[int], None]) -> None:
        self.every, self.evaluate = every, evaluate

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step % self.every == 0:
            self.evaluate(state.global_step)
        return control


_FIGURES = (
    ("s/step", "step_time", "{:.1f}"),
    ("guided", "reward/guided", "{:.2f}"),
    ("unguided", "reward/unguided", "{:.2f}"),
    ("length", "guidance/length", "{:.0f}"),
    ("difficult", "signal/difficult", "{:.2f}"),
    ("lost", "rescue/lost", "{:.2f}"),
)  # name for the user, key of the logs, form

_BUDGETS = {
    "max_generated_tokens": ("tokens/generated_total", "tok", "{:,} of {:,} tokens"),
    "max_flops": ("flops/total", "FLOP", "{:.3g} of {:.3g} FLOPs"),
}  # key of the logs, unit of the bar, words of a line


class BarCallback(TrainerCallback):
    """One bar a run: step time and time left (tqdm's), reward of both arms, guidance length, share of the budget.

    Args:
        name: of the run.
        bar: whether there is a bar.
        lines: whether there is a line now and then where there is no bar.
    """

    def __init__(self, name: str, *, bar: bool, lines: bool) -> None:
        self.name, self.enabled, self.lines = name, bar, lines
        self.bar: Any = None
        self.next_line = 0  # step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        names = ("max_generated_tokens", "max_flops")
        self.spent = next((name for name in names if getattr(args, name, 0)), None)  # what the run is bounded by
        self.budget = int(getattr(args, self.spent)) if self.spent else 0
        if not (self.enabled and state.is_world_process_zero):
            return
        total, unit = (self.budget, _BUDGETS[self.spent][1]) if self.spent else (state.max_steps, "step")
        self.bar = tqdm(
            total=total,
            initial=0 if self.budget else state.global_step,
            desc=self.name,
            unit=unit,
            unit_scale=bool(self.budget),  # 321k tok, but 12 step
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        done = int(logs.get(_BUDGETS[self.spent][0], 0)) if self.spent else state.global_step
        figures = {label: form.format(logs[key]) for label, key, form in _FIGURES if logs.get(key) is not None}
        if self.bar is not None:
            self.bar.set_postfix({"step": state.global_step, **figures}, refresh=False)
            self.bar.update(min(done, self.bar.total) - self.bar.n)
        elif self.lines and state.global_step >= self.next_line:
            self.next_line = state.global_step + STEPS_PER_LINE
            of = f", {_BUDGETS[self.spent][2].format(done, self.budget)}" if self.spent else f" of {state.max_steps}"
            words = [
                f"{self.name}: step {state.global_step}{of}",
                *(f"{name} {text}" for name, text in figures.items()),
            ]
            print(", ".join(words), file=sys.stderr, flush=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
