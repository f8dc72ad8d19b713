"""What a run says of itself: unguided accuracy before, during and after training, and the summary that ends it."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from datasets import Dataset

from guided_grpo.commands.options import wants_bars
from guided_grpo.commands.parsing import Settings, tell
from guided_grpo.evaluation.evaluate import Evaluation, evaluate, questions
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.trainer import GuidedGRPOTrainer

_EVALUATED = ("accuracy", "interval", "problems", "samples")


class Results:
    """Evaluations and the summary of one run."""

    def __init__(self, settings: Settings, trainer: GuidedGRPOTrainer, grader: Any) -> None:
        self.settings, self.trainer, self.grader = settings, trainer, grader
        self.output, self.state = settings.output, PartialState()

    def evaluate(self, when: str, held_out: Dataset | None) -> None:
        """Fill `when` of eval.json unless it is there, and tell the trainer's watch."""
        if held_out is None or self._sharded():
            return
        path = self.output / rundir.EVAL
        if self.state.is_main_process:
            data = rundir.read_json(path) or {"before": None, "after": None}
            if data[when] is None:
                rundir.write_json(path, {**data, when: self._measure(held_out, f"{when} training").to_json()})
        self.state.wait_for_everyone()
        self.trainer.observe_evaluation(rundir.read_json(path)[when]["accuracy"])

    def evaluate_during(self, step: int, held_out: Dataset) -> None:
        """Append a row to evals.jsonl with what training has cost so far, and tell the trainer's watch."""
        if self._sharded():
            return
        path = self.output / rundir.EVALS
        if self.state.is_main_process:
            found = self._measure(held_out, f"step {step}").to_json()
            run = self.trainer.run_state
            cost = {"tokens": run.tokens_generated, "seconds": round(run.train_seconds, 3)}
            row = {"step": step, **cost, **{key: found[key] for key in (*_EVALUATED, "scores")}}
            jsonl.append_rows(path, [row])
        self.state.wait_for_everyone()
        self.trainer.observe_evaluation(list(jsonl.whole_rows(path))[-1]["accuracy"])

    def _sharded(self) -> bool:
        sharded = bool(self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled)
        if sharded and self.state.is_main_process:
            tell("evaluation skipped: the policy is sharded; run 'guided-grpo eval' on the model folder")
        return sharded

    def _measure(self, held_out: Dataset, label: str) -> Evaluation:
        """On the main process, while the others wait."""
        return evaluate(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            self.trainer.processing_class,
            questions(held_out),
            self.grader,
            self.settings.run.decoding(int(self.trainer.max_completion_length or 0)),
            template_kwargs=self.trainer.chat_template_kwargs,
            label=label,
            bars=wants_bars(self.settings.run.quiet),
        )

    def finish(self, seconds: float) -> dict[str, Any]:
        """Write and return summary.json: its presence says that the run is over."""
        rows = list(jsonl.whole_rows(self.output / rundir.METRICS))
        evaluation = rundir.read_json(self.output / rundir.EVAL) or {}
        summary: dict[str, Any] = {
            "method": self.settings.training.method,
            "seed": self.settings.training.seed,
            "steps": self.trainer.state.global_step,
            "tokens_generated": self.trainer.run_state.tokens_generated,
            "zero_groups": _mean_of(rows, "signal/zero_groups"),  # every batch has as many groups
            "difficult_groups": _mean_of(rows, "signal/difficult"),
            "rescue_tokens": int(sum(row.get("rescue/tokens") or 0 for row in rows)),
            "grad_norm_mean": self.trainer.run_state.gradient_norms.mean,
            "grad_norm_variance": self.trainer.run_state.gradient_norms.variance,
            "train_seconds": round(self.trainer.run_state.train_seconds, 1),
            "seconds": round(seconds, 1),
        }
        for when, result in evaluation.items():
            if result is not None:
                summary[when] = {key: result[key] for key in _EVALUATED}
        warnings = [row["warning"] for row in jsonl.whole_rows(self.output / rundir.WARNINGS)]
        if warnings:
            summary["warnings"] = warnings
        if self.state.is_main_process:
            rundir.write_json(self.output / rundir.SUMMARY, summary)
        self.state.wait_for_everyone()
        tell(f"{self.output}: {headline(summary)}")
        return summary


def _mean_of(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return round(sum(values) / len(values), 4) if values else None


def headline(summary: dict[str, Any]) -> str:
    """A summary in one line."""
    parts = [f"{summary['steps']} steps, {summary['tokens_generated']:,} tokens generated"]
    for when in ("before", "after"):
        if when in summary:
            low, high = summary[when]["interval"]
            parts.append(f"{when} {summary[when]['accuracy']:.1%} [{low:.1%}, {high:.1%}]")
    return ", ".join(parts)
