"""What a run of `train` or `sft` says of itself: unguided accuracy before, during and after it, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from guided_grpo.commands.options import wants_bars
from guided_grpo.commands.parsing import VOLATILE, RunArguments, tell
from guided_grpo.commands.ranks import from_main
from guided_grpo.evaluation.questions import evaluate, questions
from guided_grpo.grading import Grader
from guided_grpo.store import jsonl, rundir
from guided_grpo.train.sharding import has_engine, policy_that_answers

_SHORT = ("accuracy", "interval", "problems", "samples")


def run_once(settings: Any, train: Callable[[Grader], dict[str, Any]], grader: Grader | None = None) -> dict[str, Any]:
    """The summary of the run that `settings` describe: of `train`, or as it is where the run is finished.

    `grader` is that of a run around this one; None = it gets one of its own.

    Raises `InputError`, before anything is written, where the run directory is that of another run.
    """
    rundir.check(settings.output, settings.to_json(), VOLATILE)
    summary = from_main(rundir.read_json(settings.output / rundir.SUMMARY))
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

    def begin(self, when: str) -> None:
        """`evaluate` what training begins with."""
        self.at_start(lambda: self.evaluate(when))

    def at_start(self, function: Callable[[], None]) -> None:
        """Call a function before training: now, or, where an engine takes over the policy, as soon as it has.

        With an engine it is not called where a run goes on from a checkpoint.
        """
        if has_engine(self.trainer):
            self.trainer.add_callback(_AtStart(function))
        else:
            function()

    def evaluate(self, when: str) -> None:
        """Fill `when` (before, between, after) of eval.json unless it is there. All ranks answer."""
        if self.held_out is None:
            return
        path = self.output / rundir.EVAL
        data = from_main(rundir.read_json(path)) or {"before": None, "after": None}
        figures = data.get(when)
        if figures is None:
            figures = self._measure(f"{when} training")
            if self.state.is_main_process:
                rundir.write_json(path, {**data, when: figures})
                if when == "before":  # what came after is told with the summary
                    tell(f"{self.output}: unguided accuracy before training {_accuracy(figures)}")
            self.state.wait_for_everyone()
        self.observe(figures["accuracy"])

    def evaluate_during(
        self,
        step: int,
        cost: Mapping[str, Any],
        file: str = rundir.EVALS,
        more: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda figures: {},
    ) -> None:
        """Append a row to `file`, with what training has cost so far and `more` of its figures. All ranks answer."""
        if self.held_out is None:
            return
        figures = self._measure(f"step {step}")
        further = more(figures)
        if self.state.is_main_process:
            row = {"step": step, **cost, **{key: figures[key] for key in (*_SHORT, "scores")}, **further}
            jsonl.append_rows(self.output / file, [row])
        self.state.wait_for_everyone()
        self.observe(figures["accuracy"])

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

    def _measure(self, label: str) -> dict[str, Any]:
        assert self.held_out is not None
        with policy_that_answers(self.trainer) as policy:
            return evaluate(
                policy,
                self.trainer.processing_class,
                questions(self.held_out),
                self.grader,
                self.run.decoding(self.max_tokens),
                template_kwargs=self.template_kwargs,
                label=label,
                bars=self.state.is_main_process and wants_bars(self.run.quiet),
            )


class _AtStart(TrainerCallback):
    """Calls a function as a run begins, not where it goes on."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if not state.global_step:
            self.function()


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
