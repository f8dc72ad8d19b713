"""Rounds behind fine-tuning: the policy finishes what the traces leave open, and what comes out right is taught.

A problem whose trace is whole keeps it. Any other is asked once: behind its trace where that is cut, alone where there
is none or it came to a wrong answer. A right response that ended becomes its trace.

    OUTPUT/traces-2.jsonl, .json   all rows with the traces of the second round; what asking for them cost
    OUTPUT/sft-2/                  a run of `guided-grpo sft` on them, one epoch, from the policy before

STaR (arXiv 2203.14465) and rejection-sampling fine-tuning (arXiv 2308.01825) ask for whole solutions alone.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset

from guided_grpo.commands.options import wants_bars
from guided_grpo.commands.parsing import RunArguments, TrainSettings, tell
from guided_grpo.commands.ranks import from_main
from guided_grpo.commands.runs import load_rows_of
from guided_grpo.commands.stopping import set_aside
from guided_grpo.data.demonstrations import Worth, grade_traces
from guided_grpo.evaluation.completions import Request
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.questions import answer
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import GuidanceTokenizer, answer_text
from guided_grpo.store import jsonl, rundir
from guided_grpo.store.journals import key_of
from guided_grpo.train.flops import Meter, parameters_of
from guided_grpo.types import Strength

ASKING = 1 / 3  # of a round's FLOPs: a token is sampled for 2·N and taught for 6·N, if it came out right


@dataclasses.dataclass(frozen=True)
class Problems:
    """The rows of a run, and the trace of each that can be taught to its end.

    Args:
        rows: as the data has them.
        worth: of their own traces.
        traces: with their answer; None = there is none yet.
    """

    rows: Sequence[Any]
    worth: Sequence[Worth]
    traces: list[str | None]

    @property
    def open(self) -> list[int]:
        """Places of the problems that have no such trace."""
        return [place for place, trace in enumerate(self.traces) if trace is None]


def problems_of(settings: TrainSettings, grader: Grader) -> Problems:
    """What the first of the rounds begins with: the traces of the data, graded.

    Args:
        settings: of the whole run.
        grader: of the whole run.
    """
    run, stage = settings.run, settings.stage
    rows = list(load_rows_of(run, run.train_data, run.data_limit, require_guidance=True))
    worth: list[Worth] = grade_traces(rows, stage.sft_answer, grader) if stage.sft_check else ["whole"] * len(rows)
    traces = [
        row["guidance"] + answer_text(stage.sft_answer, row) if row["guidance"] and each == "whole" else None
        for row, each in zip(rows, worth, strict=True)
    ]
    return Problems(rows, worth, traces)


def problems_behind(settings: TrainSettings, number: int, problems: Problems) -> Problems:
    """The same with the traces of a round that was made."""
    traces = [row["guidance"] for row in jsonl.whole_rows(path_of(settings, number))]
    return dataclasses.replace(problems, traces=traces)


def make_traces(
    settings: TrainSettings, number: int, problems: Problems, grader: Grader, model: Any, tokenizer: Any, flops: float
) -> dict[str, Any]:
    """Ask the open problems and write the rows of a round; how many were asked and solved, and what that cost.

    Args:
        settings: of the whole run.
        number: of the round; 2 is the first.
        problems: what it begins with; those that are solved get their trace.
        grader: of the whole run.
        model: what the stage before ended with.
        tokenizer: of the policy.
        flops: of the whole round; 0 = no limit.
    """
    state, started, training = PartialState(), time.perf_counter(), settings.training
    guide = GuidanceTokenizer(tokenizer, training.chat_template_kwargs or {}, training.guidance_thinking, leak=True)
    decoding = Decoding(
        samples=1,
        temperature=training.temperature,
        top_p=training.top_p,
        top_k=training.top_k or 0,
        max_tokens=int(training.max_completion_length or Decoding().max_tokens),
        batch_size=settings.run.eval_batch_size,
        seed=training.seed + number,
    )
    requests = [*_requests(problems, _order(settings, problems, number), guide)]
    if flops:
        costs = (parameters_of(model).forward(len(one.prompt_ids) + decoding.max_tokens) for one in requests)
        requests = requests[: sum(cost <= ASKING * flops for cost in accumulate(costs))]
    meter = Meter(model.to(state.device))
    with meter:
        bars = state.is_main_process and wants_bars(settings.run.quiet)
        run = answer(model, tokenizer, requests, grader, decoding, label=f"round {number}", bars=bars)
    solved = 0
    for record in run.records:
        text = record.get("graded", record["response"])
        if record["score"] and record["ended"] and _is_whole(text):
            place, solved = record["problem"], solved + 1
            problems.traces[place] = guide.without_opening(problems.rows[place]["prompt"], text)
    made = {
        "asked": len(requests),
        "solved": solved,
        "flops": sum(gather_object([meter.take()])),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if state.is_main_process:
        path = path_of(settings, number)
        rows = zip(problems.rows, problems.traces, strict=True)
        rundir.write_bytes(
            path, jsonl.encoded({**row, "guidance": trace, "guidance_limit": None} for row, trace in rows)
        )
        rundir.write_json(path.with_suffix(".json"), made)  # last: it says that the rows are there
    state.wait_for_everyone()
    whole = len(problems.rows) - len(problems.open)
    tell(f"{settings.output}: round {number}: solves {solved} of {len(requests)} open problems; "
         f"{whole} of {len(problems.rows)} have a whole trace now")  # fmt: skip
    return made


def made_traces(settings: TrainSettings, number: int) -> dict[str, Any] | None:
    """What `make_traces` returned, where the rows are there already."""
    made: dict[str, Any] | None = from_main(rundir.read_json(path_of(settings, number).with_suffix(".json")))
    return made


def path_of(settings: TrainSettings, number: int) -> Path:
    """The rows of a round."""
    return settings.output / f"traces-{number}.jsonl"


def run_on(settings: TrainSettings, number: int) -> RunArguments:
    """What the run is told, with the rows of a round for those that the user named."""
    ours: dict[str, Any] = {"data_mapping": None, "data_reader": "plain", "data_limit": None, "data_split": "train"}
    return dataclasses.replace(settings.run, train_data=str(path_of(settings, number)), **ours)


def _order(settings: TrainSettings, problems: Problems, number: int) -> list[int]:
    """The open problems in the order of asking: any part of them is a fair one. None that stopping asks, untaught."""
    held_out: set[str] = set()
    if settings.stage.sft_patience:
        _, asked = set_aside(Dataset.from_list(list(problems.rows)), settings.stage, settings.training.seed)
        held_out = {key_of(prompt) for prompt in asked["prompt"]}
    places = [place for place in problems.open if key_of(problems.rows[place]["prompt"]) not in held_out]
    return random.Random(f"{settings.training.seed} {number}").sample(places, len(places))


def _requests(problems: Problems, places: Iterable[int], guide: GuidanceTokenizer) -> Iterator[Request]:
    for place in places:
        row: Any = problems.rows[place]
        trace = row["guidance"]
        prefix: tuple[int, ...] = ()
        if trace and problems.worth[place] == "open":
            source: Any = {**row, "guidance_limit": len(trace)}
            prefix = guide.slice(source, Strength("ratio", 1.0)).ids
        prompt_ids = [*guide.prompt_ids(row["prompt"]), *prefix]
        yield Request(place, str(place), "all", row, str(row["prompt"]), prompt_ids, prefix)


def _is_whole(text: str) -> bool:
    """Whether a row may hold the text: half a character is refused where data is read."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
