"""Responses to a seeded part of the data, unguided and at several strengths, kept as they come.

The prompts are those of training: the same slices, placement and chat template, the same ids. Every batch draws from a
seed of its own, so that a run that was killed asks for what is missing and ends with what it would have had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from guided_grpo.data.leak import safe_length, safe_program_length
from guided_grpo.errors import InputError
from guided_grpo.grading import Grader
from guided_grpo.grading.grader import Submission
from guided_grpo.guidance.placement import token_ends
from guided_grpo.guidance.slicing import slice_text
from guided_grpo.store.journals import Journal
from guided_grpo.studies.audit.choice import Problem
from guided_grpo.studies.audit.trials import Setting, Trial
from guided_grpo.train.rollout import Assignment, GuidanceTokenizer, assign, prompts_for_sampling
from guided_grpo.types import Row, Strength

ANSWERED = 0.5  # an accuracy reward above it is a success


@dataclass(frozen=True)
class Drawing:
    """How responses are drawn: as training will, at `temperature` 1 unless that says otherwise."""

    samples: int = 12  # K, a problem and setting
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    max_tokens: int = 512  # generated, max_completion_length of training
    batch_size: int = 96  # responses at a time
    seed: int = 0


class Sampler:
    """Draws and grades. `guides` cuts and places a trace, by placement."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        guides: Mapping[str, GuidanceTokenizer],
        grader: Grader,
        drawing: Drawing,
    ) -> None:
        self.model, self.tokenizer, self.guides = model.eval(), tokenizer, dict(guides)
        self.grader, self.drawing = grader, drawing
        declared = getattr(model.generation_config, "eos_token_id", None)
        found = declared if isinstance(declared, list) else [declared]
        self.ends = {tokenizer.eos_token_id, *(end for end in found if end is not None)}

    def check_room(self, problems: Sequence[Problem], settings: Sequence[Setting]) -> None:
        """Raise InputError where prompt, guidance and response would outgrow the model's context."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is None:
            return
        for problem in problems:
            for setting in settings:
                guide = self.guides[setting.placement]
                length = guide.length(problem.row["prompt"], guide.slice(problem.row, setting.strength))
                if length + self.drawing.max_tokens > context:
                    raise InputError(
                        f"and {length} tokens of prompt and guidance (row {problem.index}, {setting.label}) outgrow "
                        f"the context of {context}",
                        field="max_tokens",
                        value=self.drawing.max_tokens,
                        fix="generate fewer, drop long rows, or audit shorter strengths",
                    )

    def draw(self, jobs: Sequence[tuple[Problem, Setting]], seed: int) -> list[Trial]:
        """`samples` responses to each job, graded."""
        guides = [self.guides[setting.placement] for _, setting in jobs]
        given = [
            assign(problem.row, 1.0 if setting.amount else 0.0, setting.strength, guide)
            for (problem, setting), guide in zip(jobs, guides, strict=True)
        ]
        prompts = [
            guide.prompt_ids(guide.prompt(problem.row["prompt"], one.slice))
            for (problem, _), guide, one in zip(jobs, guides, given, strict=True)
        ]
        times = self.drawing.samples
        asked = prompts_for_sampling(prompts, tuple(given))
        generated = self._generate([ids for ids in asked for _ in range(times)], seed)
        rows = [problem.row for problem, _ in jobs for _ in range(times)]
        prefixes = [list(one.slice.ids) for one in given for _ in range(times)]
        scores, statuses = self._grade(rows, [[*a, *b] for a, b in zip(prefixes, generated, strict=True)])
        trials = []
        for place, ((problem, setting), one) in enumerate(zip(jobs, given, strict=True)):
            part = slice(place * times, (place + 1) * times)
            graded = [score for score in scores[part] if score is not None]
            drawn = generated[part]
            trials.append(
                Trial(
                    problem=problem.index,
                    tier=problem.tier,
                    setting=setting,
                    graded=len(graded),
                    successes=sum(score > ANSWERED for score in graded),
                    tokens=sum(map(len, drawn)),
                    truncated=sum(ids[-1] not in self.ends for ids in drawn),
                    statuses=dict(sorted(Counter(statuses[part]).items())),
                    given=one.slice.tokens,
                    clipped=one.slice.clipped,
                    states_answer=self._states_answer(problem.row, one, setting),
                )
            )
        return trials

    def _generate(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        width, pad = max(map(len, prompts)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        wanted, warm = self.drawing, self.drawing.temperature > 0
        config = GenerationConfig(
            do_sample=warm,
            temperature=wanted.temperature if warm else None,
            top_p=wanted.top_p if warm else None,
            top_k=wanted.top_k if warm else None,
            max_new_tokens=wanted.max_tokens,
            pad_token_id=pad,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=sorted(self.ends),
            disable_compile=True,
        )
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            output = self.model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
            )
        drawn = []
        for row in output[:, width:].tolist():
            stop = next((place for place, token in enumerate(row) if token in self.ends), len(row) - 1)
            drawn.append(row[: stop + 1])
        return drawn

    def _grade(self, rows: Sequence[Row], completions: list[list[int]]) -> tuple[list[float | None], list[str]]:
        """Of guidance and response together, as rewards see them."""
        texts = [str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in completions]
        questions = [Submission(text, row) for text, row in zip(texts, rows, strict=True)]
        verdicts = self.grader.grade(questions)
        scores = [self.grader.worth(question, verdict) for question, verdict in zip(questions, verdicts, strict=True)]
        return scores, ["ungraded" if verdict is None else verdict.status.value for verdict in verdicts]

    def _states_answer(self, row: Row, given: Assignment, setting: Setting) -> bool:
        """Whether the slice reaches into what states the answer, by our own measure, whatever `guidance_limit` says."""
        trace = row.get("guidance")
        if not trace or not given.slice.tokens:
            return False
        answer = row.get("answer")
        safe = safe_program_length(trace) if answer is None else safe_length(trace, str(answer))
        limit = row.get("guidance_limit")
        text, _, _ = slice_text(
            trace,
            Strength(setting.unit, setting.amount),
            len(trace) if limit is None else limit,
            token_ends=lambda text: token_ends(text, self.tokenizer),
        )
        return len(text.rstrip()) > safe


class TrialJournal:
    """Finished batches beside the output, one line each; a context manager.

    Raises InputError as `journals.Journal`.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.batches: list[list[Trial]] = []
        self._kept = Journal(path, settings, self._take, what="audit that is", line="an audit")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def add(self, trials: Sequence[Trial]) -> None:
        """Keep a batch."""
        self._kept.append({"trials": [asdict(trial) for trial in trials]})
        self.batches.append(list(trials))

    def _take(self, record: dict[str, Any], *_: int) -> None:
        self.batches.append([Trial.from_json(trial) for trial in record["trials"]])


def run_trials(
    sampler: Sampler,
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    journal: TrialJournal,
    *,
    bars: bool = False,
) -> None:
    """All problems at all settings, into the journal; what it holds is not asked again."""
    jobs = [(problem, setting) for setting in settings for problem in problems]
    at_once = max(1, sampler.drawing.batch_size // sampler.drawing.samples)
    starts = range(0, len(jobs), at_once)
    with tqdm(total=len(jobs), desc="audit", unit="group", disable=not bars) as bar:
        for number, start in enumerate(starts):
            chosen = jobs[start : start + at_once]
            if number >= len(journal.batches):
                bar.set_postfix_str(chosen[0][1].label)
                journal.add(sampler.draw(chosen, sampler.drawing.seed * 1_000_003 + number))
            bar.update(len(chosen))
