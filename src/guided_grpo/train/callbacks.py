"""What hangs on a trainer's events: its bar, evaluations, and the end of a run on its budget of tokens or seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.state import RunState


class BudgetCallback(TrainerCallback):
    """Stops training after the step in which a budget of `config` is reached; equal on all ranks."""

    def __init__(self, config: GuidedGRPOConfig, run: RunState) -> None:
        self.config, self.run = config, run

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        tokens, seconds = self.config.max_generated_tokens, self.config.max_train_seconds
        over = tokens and self.run.tokens_generated >= tokens
        if over or (seconds and self.run.train_seconds >= seconds):
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


class BarCallback(TrainerCallback):
    """One bar a run: step time and time left (tqdm's), reward of both arms, guidance length, tokens of the budget."""

    def __init__(self, name: str, enabled: bool) -> None:
        self.name, self.enabled = name, enabled
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not (self.enabled and state.is_world_process_zero):
            return
        self.budget = int(getattr(args, "max_generated_tokens", 0))
        total, unit = (self.budget, "tok") if self.budget else (state.max_steps, "step")
        self.bar = tqdm(
            total=total,
            initial=0 if self.budget else state.global_step,
            desc=self.name,
            unit=unit,
            unit_scale=bool(self.budget),  # 321k tokens, but 12 steps
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not logs or "loss" not in logs:
            return
        done = int(logs.get("tokens/generated_total", 0)) if self.budget else state.global_step
        figures = {"step": state.global_step}
        for label, key, form in (
            ("s/step", "step_time", "{:.1f}"),
            ("guided", "reward/guided", "{:.2f}"),
            ("unguided", "reward/unguided", "{:.2f}"),
            ("length", "guidance/length", "{:.0f}"),
            ("difficult", "signal/difficult", "{:.2f}"),
            ("lost", "rescue/lost", "{:.2f}"),
        ):
            if logs.get(key) is not None:
                figures[label] = form.format(logs[key])
        self.bar.set_postfix(figures, refresh=False)
        self.bar.update(min(done, self.bar.total) - self.bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
