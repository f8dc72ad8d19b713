"""Completions: sampled, graded, kept, and taken up again. Of `eval`, `audit` and `data difficulty`, and, in memory, of
the evaluations in `train` and `sft`.

    requests ──▶ batches ──▶ engine ──▶ grader ──▶ records ──▶ journal

    FILE.jsonl   the settings in the first line, then one line a completion, appended batch by batch

What is asked is cut into batches once, by the settings alone, and every batch has its own seed. A batch is appended in
one write once it is graded; what a kill left of one is cut off and drawn again from the same seed, so that a run in
pieces has the responses of a run in one piece (exactly so on the CPU; on a GPU as far as its kernels repeat).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tqdm.auto import tqdm

from guided_grpo.errors import InputError
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.engines import Engine, Response, seed_of
from guided_grpo.evaluation.scoring import figures
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.store import rundir
from guided_grpo.store.journals import Journal, read

COMPLETIONS = "completions.jsonl"
LINE = "an evaluation"  # what its lines belong to, for errors


@dataclass(frozen=True)
class Request:
    """A prompt that is answered `Decoding.samples` times, and what the answers are graded by."""

    problem: int  # place in the data
    key: str  # of the problem, the same for every model
    tier: str
    row: Mapping[str, Any]  # for the grader
    prompt: str  # as the policy sees it
    prompt_ids: Sequence[int]  # all that stands before the first generated token
    prefix_ids: Sequence[int] = ()  # the last of them, which are graded with the response: guidance
    facts: Mapping[str, Any] = field(default_factory=dict)  # further fields of its records, JSON data


class CompletionRun:
    """Responses of one model to some requests; a context manager.

    Args:
        count: of the requests.
        decoding: how they are answered.
        settings: JSON data that decides the responses; a file that holds completions must have the same.
        path: of the file; None = they stay in memory.
        what: the file holds, for errors, with its verb.
        line: what a line belongs to, for errors.

    Raises InputError where the file is in use, or holds completions under other settings.
    """

    def __init__(
        self,
        count: int,
        decoding: Decoding,
        settings: Mapping[str, Any],
        path: Path | None = None,
        *,
        what: str = "completions that are",
        line: str = LINE,
    ) -> None:
        self.decoding, self.settings = decoding, {**settings, **vars(decoding)}
        jobs = [(place, sample) for place in range(count) for sample in range(decoding.samples)]
        self._batches = [
            jobs[start : start + decoding.batch_size] for start in range(0, len(jobs), decoding.batch_size)
        ]
        self.records: list[dict[str, Any]] = []
        self._journal: Journal | None = None
        if path is not None:
            starts: list[int] = []

            def take(record: dict[str, Any], start: int, size: int) -> None:
                self.records.append(_completion(record))
                starts.append(start)

            def unusable() -> int | None:
                whole = self._whole()
                del self.records[whole:]
                return starts[whole] if whole < len(starts) else None

            self._journal = Journal(path, self.settings, take, what=what, line=line, unusable=unusable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()

    @property
    def missing(self) -> int:
        """Batches that are still to be sampled."""
        return len(self._batches) - self._done

    @property
    def _done(self) -> int:
        return self.records[-1]["batch"] + 1 if self.records else 0

    def run(
        self,
        requests: Sequence[Request],
        engine: Engine,
        grader: Grader,
        *,
        stop: Sequence[str] = (),
        reseed: bool = True,
        rank: int = 0,
        ranks: int = 1,
        label: str = "eval",
        bars: bool = False,
    ) -> None:
        """Sample and grade what is missing.

        Args:
            requests: `count` of them; short prompts are answered first.
            engine: samples.
            grader: grades in a thread of its own while the next batch is sampled.
            stop: texts that end a response.
            reseed: whether every batch has its own seed; False = all draw from torch's random stream as it is.
            rank: of this process, whose records are those of every `ranks`-th batch from this one on.
            ranks: processes that share the batches of a run in memory. All call the engine equally often, so that a
                policy in pieces is in step: who has no batch left samples the last one, for nothing.
            label: of the bar.
            bars: whether to show it.
        """
        grader.start(sorted({str(request.row.get("task") or "") for request in requests}))
        ordered = sorted(requests, key=lambda request: len(request.prompt))
        waiting: deque[Future[list[dict[str, Any]]]] = deque()
        last, there = len(self._batches) - 1, len(self.records)
        total = there + sum(map(len, self._batches[self._done + rank :: ranks]))
        with (
            tqdm(total=total, initial=there, desc=label, unit="response", disable=not bars) as bar,
            ThreadPoolExecutor(1, "grader") as thread,
        ):
            for turn in range(self._done, last + 1, ranks):
                number = min(turn + rank, last)
                jobs = [(ordered[place], sample) for place, sample in self._batches[number]]
                started = time.perf_counter()
                responses = engine.sample(
                    [request.prompt_ids for request, _ in jobs],
                    self.decoding,
                    seed=seed_of(self.decoding.seed, number) if reseed else None,
                    seeds=[seed_of(self.decoding.seed, one.key, one.problem, sample) for one, sample in jobs],
                    stop=stop,
                )
                if number < turn + rank:
                    continue
                cost = {"batch": number, "seconds": (time.perf_counter() - started) / len(jobs)}
                texts = [
                    _graded_text(engine, request, each) for (request, _), each in zip(jobs, responses, strict=True)
                ]
                waiting.append(thread.submit(_records, grader, jobs, responses, texts, cost))
                while len(waiting) > (1 if number + ranks <= last else 0):
                    records = waiting.popleft().result()
                    self._append(records)
                    bar.update(len(records))

    def figures(self) -> dict[str, Any]:
        """What eval.json says; all batches must be there."""
        return {**figures(self.records, self.decoding.samples), **vars(self.decoding)}

    def _append(self, records: list[dict[str, Any]]) -> None:
        self.records += records
        if self._journal is not None:
            self._journal.append(*records)

    def _whole(self) -> int:
        """How many of the completions belong to whole batches; only the last batch can be in pieces."""
        if not self.records:
            return 0
        last = self.records[-1]["batch"]
        count = sum(record["batch"] == last for record in self.records)
        whole = last < len(self._batches) and count == len(self._batches[last])
        return len(self.records) if whole else len(self.records) - count


def read_evaluation(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and completions of a finished evaluation. Raises InputError where there is none."""
    if not (folder / COMPLETIONS).is_file():
        raise InputError("holds no completions.jsonl", file=folder, fix="name the --output folder of an evaluation")
    if not (folder / rundir.EVAL).is_file():
        raise InputError("is not finished: there is no eval.json", file=folder, fix="run its command again")
    records: list[dict[str, Any]] = []
    settings, _ = read(folder / COMPLETIONS, LINE, lambda record, *_: records.append(_completion(record)))
    return settings or {}, records


def _graded_text(engine: Engine, request: Request, response: Response) -> str:
    """Guidance and response together, as rewards see them."""
    if not request.prefix_ids:
        return response.text
    return str(engine.tokenizer.decode([*request.prefix_ids, *response.ids], skip_special_tokens=True))


def _records(
    grader: Grader,
    jobs: Sequence[tuple[Request, int]],
    responses: Sequence[Response],
    texts: Sequence[str],
    cost: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Lines of the journal, graded."""
    submissions = [Submission(text, request.row) for text, (request, _) in zip(texts, jobs, strict=True)]
    records = []
    for (request, sample), response, submission, verdict in zip(
        jobs, responses, submissions, grader.grade(submissions), strict=True
    ):
        maths = submission.task == "math"
        records.append(
            {
                "batch": cost["batch"],
                "problem": request.problem,
                "key": request.key,
                "tier": request.tier,
                "kind": (request.row.get("answer_kind") or "math") if maths else None,
                "sample": sample,
                "response": response.text,
                "verdict": verdict.status.value if verdict else None,
                "score": grader.worth(submission, verdict),
                "extracted": verdict.extracted if verdict else None,
                "reason": verdict.reason if verdict else "nothing to grade it by",
                "tokens": len(response.ids),
                "ended": response.ended,
                "seconds": cost["seconds"],
                **({"graded": submission.response} if request.prefix_ids else {}),
                **request.facts,
            }
        )
    return records


def _completion(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "batch": int(record["batch"])}
