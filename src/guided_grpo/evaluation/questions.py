"""Unguided evaluation, by type: a question is prompt and answer, so there is nothing to guide with.

Several samples a problem, graded as in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from guided_grpo.evaluation.completions import CompletionRun, Request
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.engines import TransformersEngine
from guided_grpo.grading.grader import Grader
from guided_grpo.guidance.placement import render
from guided_grpo.store.journals import key_of

_DECIDE = ("task", "answer", "answer_kind", "tests", "entry_point", "setup")  # columns that decide what is right


@dataclass(frozen=True)
class Question:
    """One held-out problem: what the policy sees, what the grader needs, and its tier. No trace."""

    prompt: str | list[dict[str, Any]]
    grading: Mapping[str, Any]  # columns for the grader, such as answer
    tier: str = "all"


def questions(rows: Iterable[Mapping[str, Any]]) -> list[Question]:
    """Rows of a data set as questions: the trace stays behind, `difficulty` becomes the tier."""
    hidden = ("prompt", "guidance", "guidance_limit")
    problems = []
    for row in rows:
        tier = row.get("difficulty")
        grading = {key: value for key, value in row.items() if key not in hidden}
        problems.append(Question(row["prompt"], grading, "all" if tier is None else str(tier)))
    return problems


def question_key(question: Question) -> str:
    """A key of what is asked and what is right; as the data has it, it is the same for every model."""
    return key_of([question.prompt, {n: question.grading[n] for n in _DECIDE if question.grading.get(n) is not None}])


def requests_of(
    problems: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    template_kwargs: Mapping[str, Any],
    keys: Sequence[str] | None = None,
) -> list[Request]:
    """Questions as they are put to the policy.

    Args:
        problems: in the data's order.
        tokenizer: of the policy; renders chats.
        template_kwargs: further arguments of the chat template.
        keys: of the problems, where the prompts were changed for this model; None = of the questions as they are.
    """
    requests = []
    for place, problem in enumerate(problems):
        prompt = render(problem.prompt, tokenizer, template_kwargs)
        # A rendered chat carries its special tokens already; a plain text gets the tokenizer's, as in training.
        ids = tokenizer(prompt, add_special_tokens=isinstance(problem.prompt, str))["input_ids"]
        key = keys[place] if keys else question_key(problem)
        requests.append(Request(place, key, problem.tier, problem.grading, prompt, ids))
    return requests


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Question],
    grader: Grader,
    decoding: Decoding,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    label: str = "eval",
    bars: bool = False,
) -> dict[str, Any]:
    """What eval.json says of a model in memory. Nothing is kept, so one random stream serves all batches.

    Of several processes each calls this, has a share of the batches, and gets the figures of all; there every batch has
    its own seed, so that their number does not change the answers.
    Leaves the caller's random state, training mode and cache settings as they were. Responses that could not be graded
    are left out; a problem with none left counts in no accuracy.
    """
    requests = requests_of(problems, tokenizer, template_kwargs or {})
    return answer(model, tokenizer, requests, grader, decoding, label=label, bars=bars).figures()


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    grader: Grader,
    decoding: Decoding,
    *,
    label: str,
    bars: bool = False,
) -> CompletionRun:
    """`evaluate` for prompts that are token ids already, some of them behind a beginning; all records, on all ranks."""
    run, state = CompletionRun(len(requests), decoding, {}), PartialState()
    rank, ranks = state.process_index, state.num_processes
    was_training, devices = model.training, [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(decoding.seed)
            engine, reseed = TransformersEngine(model, tokenizer), ranks > 1
            run.run(requests, engine, grader, reseed=reseed, rank=rank, ranks=ranks, label=label, bars=bars)
    finally:
        model.train(was_training)
    run.records = sorted(gather_object(run.records), key=lambda record: record["batch"])
    return run
