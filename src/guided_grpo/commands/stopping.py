"""Fine-tuning until unguided accuracy falls: held-out training problems are asked now and then, the best policy stays.

    best  = the evaluation with the highest accuracy, of equal ones the last; step 0 counts
    below = clearly below the best: the paired difference over the problems has an 80 % interval apart from 0. While the
            rate is high, accuracy goes up and down by more than it will fall.
    stop  = after `patience` evaluations in a row that are below, unless the loss of held-out traces still fell by a
            tenth over them: a policy forgets its own form before it is good at another. It waits up to half of the run.
    kept  = the last one that is not below, and above step 0: later policies have seen more, at a lower rate, and the
            highest of a few noisy figures is mostly a lucky one. Step 0 itself where that is the best; in a round,
            which teaches what the policy itself got right, only where it is clearly the best.

What decides is in stopping.jsonl alone, so that a resumed run decides alike. The kept policy is the checkpoint of its
step, which is saved when it is found; only that one and the newest stay.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

from datasets import Dataset
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import TrainerCallback

from guided_grpo.commands.parsing import TeachingArguments, tell
from guided_grpo.commands.policies import load_policy
from guided_grpo.commands.results import Results
from guided_grpo.commands.runs import go_on
from guided_grpo.errors import InputError
from guided_grpo.evaluation.likelihood import trace_log_probs
from guided_grpo.evaluation.stats import difference_interval
from guided_grpo.store import jsonl, rundir
from guided_grpo.store.journals import key_of
from guided_grpo.train.sharding import give_weights, policy_that_answers

START = "start"  # the policy of step 0, which no checkpoint holds
_SURE = 0.8
_FALL, _WAIT = 0.1, 0.5  # of the loss; of the run


def set_aside(rows: Dataset, settings: TeachingArguments, seed: int) -> tuple[Dataset, Dataset]:
    """The rows that are taught, and those that are asked: problems drawn by `seed`, once each, no row of them taught.

    Raises `InputError` where there are fewer than four problems.
    """
    keys = [key_of(prompt) for prompt in rows["prompt"]]
    problems = list(dict.fromkeys(keys))
    count = min(settings.sft_held_out, len(problems) // 4)
    if not count:
        fix = "add some, or set sft_patience 0"
        raise InputError(f"has {len(problems)} problems, too few to hold any out", field="train_data", fix=fix)
    held_out = set(random.Random(seed).sample(problems, count))
    taught = [place for place, key in enumerate(keys) if key not in held_out]
    asked = [keys.index(key) for key in problems if key in held_out]
    return rows.select(taught), rows.select(asked)


def best_of(rows: Sequence[Mapping[str, Any]]) -> int:
    """The place of the best evaluation."""
    return max(range(len(rows)), key=lambda place: (rows[place]["accuracy"], place))


def kept_of(rows: Sequence[Mapping[str, Any]], *, of_round: bool = False) -> int:
    """The place of the evaluation whose policy is kept, of fine-tuning on the data or of a round behind it."""
    best = best_of(rows)
    later = range(best, len(rows)) if best or of_round else (0,)
    near = (
        n
        for n in later
        if (of_round or rows[n]["accuracy"] > rows[0]["accuracy"]) and not is_below(rows[n], rows[best])
    )
    return max(near, default=best)


def is_below(row: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    """Whether an evaluation is clearly below the best, on the problems that both have a score of."""
    pairs = [pair for pair in zip(best["scores"], row["scores"], strict=True) if None not in pair]
    if not pairs:
        return False
    return difference_interval([first for first, _ in pairs], [now for _, now in pairs], _SURE).high < 0


def still_learns(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the loss of held-out traces fell by a tenth over these evaluations; no where it was not measured."""
    first, last = (row.get("trace_loss") for row in (rows[0], rows[-1]))
    return first is not None and last is not None and last <= (1 - _FALL) * first


class EarlyStopping(TrainerCallback):
    """Asks, stops and keeps a policy of one fine-tuning run; all ranks decide alike.

    Args:
        results: asks the held-out problems.
        settings: when, and how long it waits.
        traces: demonstrations of the held-out problems.
        of_round: see `kept_of`.
    """

    def __init__(
        self,
        results: Results,
        settings: TeachingArguments,
        traces: Sequence[dict[str, list[int]]],
        *,
        of_round: bool = False,
    ) -> None:
        self.results, self.settings, self.traces, self.of_round = results, settings, traces, of_round
        self.trainer: Any = results.trainer  # counts what it costs
        self.path = results.output / rundir.STOPPING

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The evaluations so far, by step."""
        return list(jsonl.whole_rows(self.path))

    @property
    def kept(self) -> dict[str, Any]:
        """That of the policy that is kept."""
        return self.rows[kept_of(self.rows, of_round=self.of_round)]

    @property
    def over(self) -> bool:
        """Whether it has waited long enough."""
        rows, patience = self.rows, self.settings.sft_patience
        place = best_of(rows)
        last = rows[place + 1 :][-patience:]
        below = len(last) == patience and all(is_below(row, rows[place]) for row in last)
        return below and not (self.trainer.share < _WAIT and still_learns(last))

    def summary(self) -> dict[str, Any]:
        """What summary.json says of the policy that is kept."""
        kept = self.kept
        return {"step": kept["step"], **{name: kept[name] for name in ("accuracy", "interval", "problems", "samples")}}

    def train(self, resume: Path | None) -> None:
        """Train, from the checkpoint `resume` where there is one, and leave the kept policy in the trainer."""
        if resume is None:
            self.results.at_start(self._begin)
        go_on(self.trainer, resume)
        kept = self.kept
        if kept["step"] != self.trainer.state.global_step:
            restore(self.trainer.accelerator.unwrap_model(self.trainer.model), self._folder(kept["step"]))
        tell(f"{self.results.output}: keeps step {kept['step']} of {self.trainer.state.global_step}, which finishes "
             f"{kept['accuracy']:.1%} of {kept['problems']} held-out training problems")  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        every = self.settings.sft_every or ceil(state.max_steps / 10)
        last = control.should_training_stop or state.global_step >= state.max_steps
        if state.global_step % every and not last:
            return
        self._ask(state.global_step)
        control.should_save = control.should_save or self.kept["step"] == state.global_step
        control.should_training_stop = control.should_training_stop or self.over

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.is_world_process_zero:  # the new one is whole: whoever marks it is called before this
            kept = {self._folder(self.kept["step"]), self._folder(state.global_step)}
            for folder in rundir.checkpoints(self.results.output):
                if folder not in kept:
                    shutil.rmtree(folder)

    def _begin(self) -> None:
        self.trainer.save_model(str(self.results.output / START))
        if self.results.state.is_main_process:
            self.path.unlink(missing_ok=True)  # a kill before the first checkpoint
        self.results.state.wait_for_everyone()
        self._ask(0)

    def _ask(self, step: int) -> None:
        with self.trainer.counted():
            self.results.evaluate_during(step, {}, rundir.STOPPING, self._of_traces)

    def _of_traces(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The loss of the held-out traces, in nats a token, where success has clearly fallen."""
        rows = self.rows
        if not (self.traces and rows and is_below(figures, rows[best_of(rows)])):
            return {}
        with policy_that_answers(self.trainer) as policy:
            return {"trace_loss": -mean(trace_log_probs(policy, self.traces))}

    def _folder(self, step: int) -> Path:
        return self.results.output / (f"{rundir.CHECKPOINT_PREFIX}{step}" if step else START)


def restore(model: Any, folder: Path) -> None:
    """Give a policy the weights that a trainer saved in `folder`: all, or those of its adapters. All ranks do."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    else:
        dtype = str(model.dtype).removeprefix("torch.")
        give_weights(load_policy(str(folder), dtype, field="model_name_or_path"), model)
