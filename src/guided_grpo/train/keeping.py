"""Stage 7, what a run keeps: rows of the log, warnings, and checkpoints from which it goes on to the bit.

A checkpoint is TRL's, and beside it
    guidance_state.json    controller, problem history, sums between two rows of the log, tokens generated,
                           seconds of its steps
    rollouts.rank{r}.pt    the batch that this rank is in the middle of
    complete.json          written last: everything is there
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOTrainer

from guided_grpo.data.adaptive import AdaptiveOrder
from guided_grpo.errors import InputError
from guided_grpo.guidance.strength import State
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.batch import Batch
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.metrics import (
    MetricSums,
    RunningVariance,
    count_first_sampling,
    count_rescue,
    count_transition,
    plain_number,
)
from guided_grpo.train.records import group_records, rollout_records
from guided_grpo.train.rescue import ProblemHistory, difficult_groups, successes_P
from guided_grpo.train.rollout import FACTS
from guided_grpo.train.signals import Sign, Watch

_STATE, _BUFFER = "guidance_state.json", "rollouts.rank{rank}.pt"
_LOG = logging.getLogger("guided_grpo")


class KeepingTrainer(GRPOTrainer):
    """TRL's trainer with our log and checkpoints; `GuidedGRPOTrainer` does the training."""

    args: GuidedGRPOConfig
    guidance_state: State  # the controller's
    adaptive_order: AdaptiveOrder | None  # None = the curriculum does not follow the policy

    def keep(self, history: ProblemHistory, watch: Watch) -> None:
        """Take the parts whose state goes into every checkpoint."""
        self.history, self.watch = history, watch
        self.metric_sums, self.gradient_norms = MetricSums(), RunningVariance()
        self.tokens_generated = 0
        self.train_seconds = 0.0  # of steps, as in step_time: no evaluation, no saving; equal on all ranks
        self.cold_start_over = False  # by format; by steps it is read off the step
        self._parts: dict[str, Any] = {
            "metric_sums": self.metric_sums,
            "gradient_norms": self.gradient_norms,
            "history": self.history,
            "watch": self.watch,
            **({} if self.adaptive_order is None else {"adaptive_order": self.adaptive_order}),
        }

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> torch.Tensor:
        """TRL's, and its time is added up: a budget of seconds needs the sum at the end of every step."""
        metrics = self._metrics["train"]
        known = len(metrics.get("step_time", ()))
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        seconds = [sum(metrics.get("step_time", ())[known:])]  # of an optimizer step; nothing in the middle of one
        if self.accelerator.num_processes > 1:
            seconds = broadcast_object_list(seconds)  # ranks must stop after the same step
        self.train_seconds += seconds[0]
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log, with our metrics; a row of metrics.jsonl for every logged training step, and its warnings."""
        trained = "loss" in logs
        if trained:
            logs.update(self.metric_sums.reduce())
            if logs.get("grad_norm") is not None:
                norms = self.gradient_norms
                norms.add(float(logs["grad_norm"]))
                logs.update({"grad_norm/mean": norms.mean, "grad_norm/variance": norms.variance})
        super().log(logs, start_time)  # adds TRL's own metrics to `logs`
        if trained:
            row = {"step": self.state.global_step, **{name: plain_number(value) for name, value in logs.items()}}
            if self.accelerator.is_main_process:
                jsonl.append_rows(Path(self.args.output_dir) / rundir.METRICS, [row])
            self._warn(self.watch.step(row))

    def count_problems(
        self, batch: Batch, facts_BK: torch.Tensor, accuracy_B: torch.Tensor, first_shares_G: Sequence[float]
    ) -> None:
        """Count what the first sampling and the ladder came to, and remember it by problem."""
        first_B = accuracy_B if batch.first_accuracy_B is None else batch.first_accuracy_B
        size = len(first_shares_G)
        graded = count_first_sampling(
            self.metric_sums, first_B, difficult_groups(first_B, size), [share == 0 for share in first_shares_G]
        )
        if batch.rescued is not None:
            count_rescue(self.metric_sums, batch.rescued, groups=graded, attempts=len(self.history.settings.stages))
        climbs = {} if batch.rescued is None else batch.rescued.climbs
        keys_P = facts_BK[::size, FACTS.index("problem")].tolist()
        rates_P = accuracy_B.view(-1, size).gt(0).float().mean(dim=1).tolist()
        for group, (key, rate, first) in enumerate(zip(keys_P, rates_P, successes_P(first_B, size), strict=True)):
            if first is not None:
                count_transition(self.metric_sums, *self.history.observe(key, rate, climbs.get(group)))

    def record_rollouts(
        self, batch: Batch, advantages_b: torch.Tensor, rewards_bF: torch.Tensor, ends: set[int]
    ) -> None:
        """Append the groups of this batch to rollouts.jsonl, where this step is to be sampled."""
        every = self.args.rollouts_every
        if every <= 0 or self.state.global_step % every:
            return
        records = rollout_records(
            batch.rows,
            batch.rollouts,
            decode=self._tokenizer.decode,
            rewards_bF=rewards_bF.tolist(),
            reward_names=self.reward_func_names,
            advantages_b=advantages_b.tolist(),
            ends=ends,
        )
        records = gather_object(records)
        if self.accelerator.is_main_process:
            groups = group_records(records, self.num_generations, step=self.state.global_step + 1)
            jsonl.append_rows(Path(self.args.output_dir) / rundir.ROLLOUTS, groups)

    def evaluated(self, accuracy: float) -> None:
        """Tell the watch of an unguided evaluation of the policy as it is now; on every rank."""
        self._warn(self.watch.evaluated(accuracy))

    def _warn(self, signs: list[Sign]) -> None:
        if self.accelerator.is_main_process:
            for sign in signs:
                _LOG.warning("step %d: %s: %s", self.state.global_step, sign.warning, sign.message)
                row = {"step": self.state.global_step, **asdict(sign)}
                jsonl.append_rows(Path(self.args.output_dir) / rundir.WARNINGS, [row])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:  # older checkpoints go once the new one is whole
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"{rundir.CHECKPOINT_PREFIX}{self.state.global_step}"
        cycle_open = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        buffered = self._buffered_inputs if cycle_open else None  # a finished cycle is never read again
        torch.save(buffered, folder / _BUFFER.format(rank=self.accelerator.process_index))
        if self.args.should_save:
            state = {
                "controller": self.guidance_state.to_json(),
                "micro_step": self._step,
                "tokens_generated": self.tokens_generated,
                "train_seconds": self.train_seconds,
                "cold_start_over": self.cold_start_over,
                "trl_metrics": self._metrics["train"],
                **{name: part.state_dict() for name, part in self._parts.items()},
            }
            rundir.write_json(folder / _STATE, state)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            rundir.mark_complete(folder)
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if not (folder / _STATE).exists():
            raise InputError(
                "has no guidance_state.json: it is not a checkpoint of this trainer",
                field="resume_from_checkpoint",
                value=checkpoint,
                fix="load its weights as the model of a new run",
            )
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        if "train_seconds" not in state:  # from before there was such a budget
            rows = jsonl.whole_rows(folder.parent / rundir.METRICS)
            state["train_seconds"] = math.fsum(row.get("step_time") or 0.0 for row in rows)
        self.guidance_state = State.from_json(state["controller"])
        self._step = state["micro_step"]
        self.tokens_generated = state["tokens_generated"]
        self.train_seconds = state["train_seconds"]
        self.cold_start_over = state["cold_start_over"]
        self._metrics["train"].update(state["trl_metrics"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        buffer = folder / _BUFFER.format(rank=self.accelerator.process_index)
        if buffer.exists():  # missing after a change of the number of ranks: TRL then samples anew
            self._buffered_inputs = torch.load(buffer, map_location=self.accelerator.device, weights_only=True)
