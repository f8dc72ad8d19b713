"""An evaluation that keeps every completion and can be taken up again.

    OUTPUT/completions.jsonl   the settings in the first line, then one line a response, appended batch by batch
    OUTPUT/eval.json           the figures; written last, by one rename

What is asked is cut into batches once, by the settings alone, and every batch has its own seed. A batch is appended in
one write once it is graded; what a kill left of one is cut off and drawn again from the same seed, so that a run in
pieces has the responses of a run in one piece (exactly so on the CPU; on a GPU as far as its kernels repeat).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from guided_grpo.data.annotating.answer_journal import key_of
from guided_grpo.errors import InputError
from guided_grpo.evaluation.engines import Engine, Request, Response, seed_of
from guided_grpo.evaluation.evaluate import Decoding, Question
from guided_grpo.evaluation.scoring import figures
from guided_grpo.grading.grader import Grader
from guided_grpo.grading.grader import Submission
from guided_grpo.guidance.placement import render
from guided_grpo.store import rundir
from guided_grpo.store.journals import Journal, read

COMPLETIONS = "completions.jsonl"
LINE = "an evaluation"  # what its lines belong to, for errors


class EvalRun:
    """One model on one set of problems.

    Args:
        problems: what is asked and how it is graded.
        identities: of each problem, JSON data that is the same for every model, whatever its prompts look like.
        tokenizer: of the model; renders chats.
        decoding: how answers are sampled.
        settings: JSON data that decides the responses; a folder that holds completions must have the same.
        folder: where completions are kept; None = nowhere.
        template_kwargs: further arguments of the chat template.
        stop: texts that end a response.

    Raises InputError where the folder is in use, or holds completions under other settings.
    """

    def __init__(
        self,
        problems: Sequence[Question],
        identities: Sequence[object],
        tokenizer: Any,
        decoding: Decoding,
        settings: Mapping[str, Any],
        folder: Path | None = None,
        *,
        template_kwargs: Mapping[str, Any] | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        self.problems, self.decoding, self.stop = problems, decoding, tuple(stop)
        self.rendered = [render(problem.prompt, tokenizer, template_kwargs or {}) for problem in problems]
        self.keys = [key_of(identity) for identity in identities]
        asked = [[text, problem.grading] for text, problem in zip(self.rendered, problems, strict=True)]
        # Last, so that a setting which shows what differs is named first.
        self.settings = {**settings, **vars(decoding), "stop": list(stop), "asked": key_of(asked)}
        order = sorted(range(len(problems)), key=lambda place: len(self.rendered[place]))
        jobs = [(place, number) for place in order for number in range(decoding.samples)]
        size = max(1, decoding.batch_size)
        self.batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        self.records: list[dict[str, Any]] = []
        self._journal: Journal | None = None
        if folder is not None:
            self._open(folder)

    @property
    def missing(self) -> int:
        """Batches that are not kept yet."""
        return len(self.batches) - self._done

    @property
    def _done(self) -> int:
        return self.records[-1]["batch"] + 1 if self.records else 0

    def run(self, engine: Callable[[], Engine], grader: Grader, *, label: str = "eval", bars: bool = False) -> None:
        """Sample and grade what is missing.

        Args:
            engine: called where anything is missing.
            grader: grades in a thread of its own while the next batch is sampled.
            label: of the bar.
            bars: whether to show it.
        """
        if not self.missing:
            return
        grader.start(sorted({str(problem.grading.get("task") or "") for problem in self.problems}))
        sampler = engine()
        waiting: deque[Future[list[dict[str, Any]]]] = deque()
        total = len(self.problems) * self.decoding.samples
        with (
            tqdm(total=total, initial=len(self.records), desc=label, unit="response", disable=not bars) as bar,
            ThreadPoolExecutor(1, "grader") as thread,
        ):
            for number in range(self._done, len(self.batches)):
                responses, seconds = self._sample(sampler, number)
                waiting.append(thread.submit(self._graded, grader, number, responses, seconds))
                while len(waiting) > (1 if number + 1 < len(self.batches) else 0):
                    records = waiting.popleft().result()
                    self._append(records)
                    bar.update(len(records))

    def figures(self) -> dict[str, Any]:
        """What eval.json says; all batches must be there."""
        return {**figures(self.records, self.decoding.samples), **vars(self.decoding)}

    def close(self) -> None:
        """Let go of the folder."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _sample(self, engine: Engine, number: int) -> tuple[list[Response], float]:
        started, seed = time.perf_counter(), self.decoding.seed
        requests = [
            Request(
                self.rendered[place],
                isinstance(self.problems[place].prompt, str),
                seed_of(seed, self.keys[place], place, sample),
            )
            for place, sample in self.batches[number]
        ]
        responses = engine.sample(requests, self.decoding, seed=seed_of(seed, number), stop=self.stop)
        return responses, time.perf_counter() - started

    def _graded(
        self, grader: Grader, number: int, responses: Sequence[Response], seconds: float
    ) -> list[dict[str, Any]]:
        jobs = self.batches[number]
        questions = [
            Submission(response.text, self.problems[place].grading)
            for (place, _), response in zip(jobs, responses, strict=True)
        ]
        records = []
        for (place, sample), question, response, verdict in zip(
            jobs, questions, responses, grader.grade(questions), strict=True
        ):
            maths = question.task == "math"
            records.append(
                {
                    "batch": number,
                    "problem": place,
                    "key": self.keys[place],
                    "tier": self.problems[place].tier,
                    "kind": (question.row.get("answer_kind") or "math") if maths else None,
                    "sample": sample,
                    "response": response.text,
                    "verdict": verdict.status.value if verdict else None,
                    "score": grader.worth(question, verdict),
                    "extracted": verdict.extracted if verdict else None,
                    "reason": verdict.reason if verdict else "nothing to grade it by",
                    "tokens": response.tokens,
                    "ended": response.ended,
                    "seconds": seconds / len(jobs),
                }
            )
        return records

    def _append(self, records: list[dict[str, Any]]) -> None:
        self.records += records
        if self._journal is not None:
            self._journal.append(*records)

    def _open(self, folder: Path) -> None:
        """Take up what is kept, without a batch that is not whole."""
        starts: list[int] = []

        def take(record: dict[str, Any], start: int, size: int) -> None:
            self.records.append(_completion(record))
            starts.append(start)

        def unusable() -> int | None:
            keep = _whole(self.records, [len(batch) for batch in self.batches])
            self.records = self.records[:keep]
            return starts[keep] if keep < len(starts) else None

        what = "completions that are"
        self._journal = Journal(folder / COMPLETIONS, self.settings, take, what=what, line=LINE, unusable=unusable)


def kept(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and completions of a finished evaluation. Raises InputError where there is none."""
    if not (folder / COMPLETIONS).is_file():
        raise InputError("holds no completions.jsonl", file=folder, fix="name the --output folder of an evaluation")
    if not (folder / rundir.EVAL).is_file():
        raise InputError("is not finished: there is no eval.json", file=folder, fix="run its command again")
    records: list[dict[str, Any]] = []
    settings, _ = read(folder / COMPLETIONS, LINE, lambda record, *_: records.append(_completion(record)))
    return settings or {}, records


def _completion(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "batch": int(record["batch"])}


def _whole(records: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> int:
    """How many of the completions belong to whole batches; only the last batch can be in pieces."""
    if not records:
        return 0
    last = records[-1]["batch"]
    count = sum(record["batch"] == last for record in records)
    return len(records) if last < len(sizes) and count == sizes[last] else len(records) - count
