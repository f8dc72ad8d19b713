"""What a run of `train` or `sft` says of itself: unguided accuracy before, during and after it, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import Trainer

from guided_grpo.commands.options import wants_bars
from guided_grpo.commands.parsing import VOLATILE, RunArguments, tell
from guided_grpo.evaluation.questions import evaluate, questions
from guided_grpo.grading import Grader
from guided_grpo.store import jsonl, rundir

_SHORT = ("accuracy", "interval", "problems", "samples")


def run_once(settings: Any, train: Callable[[Grader], dict[str, Any]], grader: Grader | None = None) -> dict[str, Any]:
    """The summary of the run that `settings` describe: of `train`, or as it is where the run is finished.

    `grader` is that of a run around this one; None = it gets one of its own.

    Raises `InputError`, before anything is written, where the run directory is that of another run.
    """
    rundir.check(settings.output, settings.to_json(), VOLATILE)
    summary = rundir.read_json(settings.output / rundir.SUMMARY)
    if summary is not None:
        tell(f"{settings.output} is finished: {headline(summary)}")
        return dict(summary)
    if grader is not None:
        return train(grader)
    with Grader(settings.grading) as own:
        return train(own)


class Results:
    """Evaluations and the summary of one run.

    Args:
        output: the run directory.
        run: how held-out problems are answered.
        held_out: the problems; None = none are asked.
        trainer: holds the policy.
        grader: of the answers.
        max_tokens: of a response, where `run` leaves it open.
        template_kwargs: further arguments of the chat template.
        observe: is told every accuracy, on all ranks.
    """

    def __init__(
        self,
        output: Path,
        run: RunArguments,
        held_out: Dataset | None,
        trainer: Trainer,
        grader: Grader,
        *,
        max_tokens: int,
        template_kwargs: Mapping[str, Any] | None = None,
        observe: Callable[[float], None] = lambda accuracy: None,
    ) -> None:
        self.output, self.run, self.held_out, self.trainer, self.grader = output, run, held_out, trainer, grader
        self.max_tokens, self.template_kwargs, self.observe = max_tokens, template_kwargs, observe
        self.state = PartialState()

    def evaluate(self, when: str) -> None:
        """Fill `when` (before, between, after) of eval.json unless it is there."""
        if not self._can_evaluate():
            return
        path = self.output / rundir.EVAL
        if self.state.is_main_process:
            data = rundir.read_json(path) or {"before": None, "after": None}
            if data.get(when) is None:
                figures = self._measure(f"{when} training")
                rundir.write_json(path, {**data, when: figures})
                if when == "before":  # what came after is told with the summary
                    tell(f"{self.output}: unguided accuracy before training {_accuracy(figures)}")
        self.state.wait_for_everyone()
        self.observe(rundir.read_json(path)[when]["accuracy"])

    def evaluate_during(self, step: int, cost: Mapping[str, Any], file: str = rundir.EVALS) -> None:
        """Append a row to `file`, with what training has cost so far."""
        if not self._can_evaluate():
            return
        path = self.output / file
        if self.state.is_main_process:
            figures = self._measure(f"step {step}")
            jsonl.append_rows(path, [{"step": step, **cost, **{key: figures[key] for key in (*_SHORT, "scores")}}])
        self.state.wait_for_everyone()
        self.observe(list(jsonl.whole_rows(path))[-1]["accuracy"])

    def finish(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Write and return summary.json, these figures and the evaluations: its presence says that the run is over."""
        summary = dict(figures)
        for when, evaluation in (rundir.read_json(self.output / rundir.EVAL) or {}).items():
            if evaluation is not None:
                summary[when] = {key: evaluation[key] for key in _SHORT}
        warnings = [row["warning"] for row in jsonl.whole_rows(self.output / rundir.WARNINGS)]
        if warnings:
            summary["warnings"] = warnings
        if self.state.is_main_process:
            rundir.write_json(self.output / rundir.SUMMARY, summary)
        self.state.wait_for_everyone()
        tell(f"{self.output}: {headline(summary)}")
        return summary

    def _can_evaluate(self) -> bool:
        if self.held_out is None:
            return False
        sharded = bool(self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled)
        if sharded and self.state.is_main_process:
            tell("evaluation skipped: the policy is sharded; run 'guided-grpo eval' on the model folder")
        return not sharded

    def _measure(self, label: str) -> dict[str, Any]:
        """On the main process, while the others wait."""
        assert self.held_out is not None
        return evaluate(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            self.trainer.processing_class,
            questions(self.held_out),
            self.grader,
            self.run.decoding(self.max_tokens),
            template_kwargs=self.template_kwargs,
            label=label,
            bars=wants_bars(self.run.quiet),
        )


def headline(summary: Mapping[str, Any]) -> str:
    """A summary in one line."""
    verb = "trained" if "tokens_trained" in summary else "generated"
    tokens = f"{summary[f'tokens_{verb}']:,} tokens {verb}"
    parts = [f"{summary['steps']} steps, {tokens}"]
    parts += [f"{when} {_accuracy(summary[when])}" for when in ("before", "between", "after") if when in summary]
    return ", ".join(parts)


def _accuracy(figures: Mapping[str, Any]) -> str:
    low, high = figures["interval"]
    return f"{figures['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
