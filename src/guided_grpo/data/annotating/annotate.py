"""Traces from a teacher: every problem without one is asked n times, and the best verified answer becomes its guidance.

    rows → questions not yet answered → teacher.py → answer_journal.py → verdicts.py → choice → rows with guidance

Only the journal grows while a run is under way. The output is made of it, in the order of the rows, at the end and by
one rename, so that a run that was killed and repeated gives the bytes of one that was not, as far as the teacher gives
the same answer to the same question with the same seed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from guided_grpo.data.annotating.answer_journal import AnswerJournal, Key
from guided_grpo.data.annotating.teacher import NoAnswer, Teacher
from guided_grpo.data.annotating.teacher_settings import ChoiceSettings, EndpointSettings, RequestSettings
from guided_grpo.data.annotating.verdicts import Verdicts
from guided_grpo.data.leak import safe_length
from guided_grpo.errors import InputError
from guided_grpo.grading.answers import THINK_OPEN
from guided_grpo.grading.code_forms import read_tests
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.grading.worth import GradingSettings
from guided_grpo.store.journals import key_of
from guided_grpo.store.rundir import write_text
from guided_grpo.types import Status

JOURNAL = ".journal.jsonl"  # behind the name of the output
HOPELESS = 5  # refusals before any answer, or (twice as many, or all in flight) failures in a row, that end a run
READY = 32  # problems beyond those in flight whose answers may be waiting for their verdict


@dataclass
class Totals:
    """What became of a run. Answers, tokens and cost are those of the journal: of earlier runs too."""

    rows: int = 0
    skipped: int = 0  # had guidance
    annotated: int = 0  # with a trace from the teacher
    unverified: int = 0  # of these: with one that is not known to be correct
    not_solved: int = 0  # all samples answered, none correct
    incomplete: int = 0  # no trace, and samples without an answer
    answers: int = 0
    statuses: dict[str, int] = field(default_factory=dict)  # of the answers; timeout and infra_error = not graded
    requests: int = 0  # of this run, retries included
    retries: int = 0
    failed: int = 0  # questions of this run without an answer after all retries
    refused: int = 0  # questions of this run that the endpoint does not take
    reason: str | None = None  # of the last failure or refusal
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0  # answers whose endpoint does not say how many tokens they are
    cost: float | None = None  # None = no prices
    stopped: str | None = None  # "max_cost", "no_answers"; None = everything was asked
    seconds: float = 0.0  # of this run

    @property
    def complete(self) -> bool:
        """Whether nothing failed; a stop at the cost that was set is no failure."""
        return not (self.failed or self.refused)


@dataclass(frozen=True)
class Query:
    """A row that is asked."""

    row: Mapping[str, Any]
    key: str  # of the chat that is sent: rows with the same one share their answers
    gold_key: str


def annotate(
    rows: Sequence[Mapping[str, Any]],
    output: Path,
    *,
    source: str,
    request: RequestSettings,
    endpoint: EndpointSettings,
    choice: ChoiceSettings,
    grading: GradingSettings,
    concurrency: int = 16,
    quiet: bool = False,
) -> Totals:
    """Ask, grade, choose and write `output`, going on from the journal beside it.

    Args:
        rows: as `load_rows` gives them. Rows of code may have `entry_point` and `setup` (see `parse_tests`).
        output: JSON lines, one a row, in their order; `guidance` filled, `teacher` says by whom.
        source: where the rows come from, for messages.
        request: what is sent; a journal that holds answers must have the same.
        endpoint: where to, and how fast.
        choice: how many samples, and which becomes the trace.
        grading: of the answers.
        concurrency: most requests at once.
        quiet: no progress bar; there is none either where stderr is no terminal.

    Raises InputError before anything is asked where a row or a setting is wrong, and where the endpoint says that no
    question will get an answer. What has come in by then is in the journal, as after an interrupt.
    """
    start = time.monotonic()
    journal_path = output.with_name(output.name + JOURNAL)
    if output.exists() and not journal_path.exists():
        raise InputError("is there, and has no journal", field="output", value=str(output), fix="choose another")
    queries = [_query(row, source, number, request, choice) for number, row in enumerate(rows, 1)]
    different = [query for query in queries if query]
    grader = Grader(grading)
    grader.start(sorted({query.row["task"] for query in different}))
    with AnswerJournal(journal_path, asdict(request)) as journal, Verdicts(grader) as verdicts:
        run = _Run(journal, verdicts, request, choice)
        totals = asyncio.run(run.go(different, endpoint, concurrency, quiet))
        lines = (run.fill(row, query) for row, query in zip(rows, queries, strict=True))
        write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
    totals.rows, totals.skipped = len(rows), queries.count(None)
    totals.seconds = time.monotonic() - start
    return totals


def _query(
    row: Mapping[str, Any], source: str, number: int, request: RequestSettings, choice: ChoiceSettings
) -> Query | None:
    """What is asked for this row; None = nothing. Whatever would only fail after the money is spent fails here."""

    def wrong(problem: str, field: str, fix: str) -> InputError:
        return InputError(problem, file=source, line=number, field=field, fix=fix)

    try:
        json.dumps(row, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise wrong(f"cannot be written as JSON ({error})", "row", "drop that column") from None
    if not isinstance(row.get("teacher"), dict | None):
        raise wrong("is the name of a column that is written here", "teacher", "rename it")
    if row["guidance"] and not choice.again:
        return None
    prompt = row["prompt"]
    if request.system and not isinstance(prompt, str) and prompt[0]["role"] == "system":
        raise wrong("has a system message of its own", "prompt", "drop it, or leave out --system")
    gold = [row["answer"], row.get("answer_kind") or "math"]
    if row["task"] == "code":
        gold = [row["tests"], row.get("entry_point") or "", row.get("setup") or ""]
        try:
            read_tests(gold[0], entry_point=gold[1], setup=gold[2])
        except ValueError as error:
            raise wrong(str(error), "tests", "correct them, or drop the row") from None
    return Query(row, key_of(request.messages(prompt)), key_of(gold))


class _Run:
    """One run over one journal."""

    def __init__(
        self, journal: AnswerJournal, verdicts: Verdicts, request: RequestSettings, choice: ChoiceSettings
    ) -> None:
        self.journal, self.verdicts, self.request, self.choice = journal, verdicts, request, choice
        self.totals = Totals()
        self._ungraded: dict[tuple[Key, str], Status] = {}  # not in the journal: graded again by the next run
        self._answered = self._failures = 0  # of this run; in a row
        for entry in journal.entries.values():
            self._count(entry.tokens_in, entry.tokens_out)

    async def go(self, queries: Sequence[Query], endpoint: EndpointSettings, concurrency: int, quiet: bool) -> Totals:
        """Ask and grade what the journal lacks."""
        twins: dict[str, dict[str, Query]] = {}  # by prompt, then by gold answer
        for query in queries:
            twins.setdefault(query.key, {}).setdefault(query.gold_key, query)
        alone = self.choice.choose == "first"  # samples one after the other
        samples = range(self.choice.samples)
        work = [
            (list(same.values()), tries) for same in twins.values() for tries in ([samples] if alone else zip(samples))
        ]
        queue = iter(work)
        self._places, self._most_failures = asyncio.Semaphore(concurrency), max(2 * HOPELESS, concurrency)
        with tqdm(total=len(work), unit="problem" if alone else "answer", disable=quiet or None) as bar:
            async with aclosing(Teacher(endpoint)) as self._teacher:
                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(len(work), 2 * concurrency + READY)):
                            group.create_task(self._work(queue, bar))
                except ExceptionGroup as errors:  # one is enough to say; the others only repeat it
                    raise errors.exceptions[0] from None
                self.totals.requests, self.totals.retries = self._teacher.requests, self._teacher.retries
        self._sum_up(queries, [query for same in twins.values() for query in same.values()])
        return self.totals

    async def _work(self, queue: Iterator[tuple[list[Query], Sequence[int]]], bar: Any) -> None:
        for same, tries in queue:
            for sample in tries:
                key = (same[0].key, sample)
                if key not in self.journal.entries and not await self._ask(same[0], key):
                    break
                statuses = [await self._status(query, key) for query in same]
                if all(status is Status.CORRECT for status in statuses):
                    break
            bar.update()
            figures = {"failed": self.totals.failed, "retries": self._teacher.retries, "cost": self._cost()}
            bar.set_postfix({name: value for name, value in figures.items() if value}, refresh=False)

    async def _ask(self, query: Query, key: Key) -> bool:
        """Whether there is an answer to this sample now, in the journal."""
        async with self._places:
            if self.choice.max_cost is not None and (self._cost() or 0.0) >= self.choice.max_cost:
                self.totals.stopped = "max_cost"
            if self.totals.stopped:
                return False
            try:
                answer = await self._teacher.ask(self.request.body(query.row["prompt"], *key))
            except NoAnswer as failure:
                self._fail(failure)
                return False
            self.journal.add(key, answer)
        self._answered += 1
        self._failures = 0
        self._count(answer.tokens_in, answer.tokens_out)
        return True

    def _fail(self, failure: NoAnswer) -> None:
        self.totals.reason = str(failure)
        self.totals.refused += failure.refused
        self.totals.failed += not failure.refused
        self._failures += not failure.refused
        if self.totals.refused >= HOPELESS and not self._answered:
            raise InputError(f"refuses every question: {failure}", file="the endpoint", fix="change what is sent")
        if self._failures >= self._most_failures:
            self.totals.stopped = "no_answers"

    async def _status(self, query: Query, key: Key) -> Status | None:
        """How the answer does; None = it was cut off, and is not graded."""
        if not self.journal.entries[key].whole:
            return None
        status = self.journal.status(key, query.gold_key)
        if status is None:
            status, says = await self.verdicts.of(Submission(self.journal.text(key), query.row))
            if says:
                self.journal.add_status(key, query.gold_key, status)
            else:
                self._ungraded[key, query.gold_key] = status
        return status

    def _count(self, tokens_in: int | None, tokens_out: int | None) -> None:
        self.totals.answers += 1
        self.totals.tokens_in += tokens_in or 0
        self.totals.tokens_out += tokens_out or 0
        self.totals.uncounted += tokens_in is None or tokens_out is None

    def _cost(self) -> float | None:
        if self.choice.price_in is None and self.choice.price_out is None:
            return None
        spent = (self.choice.price_in or 0.0) * self.totals.tokens_in
        return round((spent + (self.choice.price_out or 0.0) * self.totals.tokens_out) / 1e6, 6)

    def _statuses(self, query: Query) -> dict[Key, str]:
        """The answers to a query and how each did."""
        statuses = {}
        for key in ((query.key, sample) for sample in range(self.choice.samples)):
            if key in self.journal.entries:
                entry = self.journal.entries[key]
                status = self.journal.status(key, query.gold_key) or self._ungraded.get((key, query.gold_key))
                statuses[key] = entry.finish if not entry.whole else status.value if status else "not graded"
        return statuses

    def _best(self, query: Query) -> Key | None:
        statuses = self._statuses(query)
        order = {"shortest": 1, "longest": -1, "first": 0}[self.choice.choose]
        usable = [key for key in statuses if self.journal.entries[key].whole]
        keys = [key for key in usable if statuses[key] == Status.CORRECT]
        if not keys and self.choice.keep_unverified:  # what could not be graded before what is known to be wrong
            keys = [key for key in usable if (key, query.gold_key) in self._ungraded] or usable
        return min(keys, key=lambda key: (order * self.journal.entries[key].chars, key[1]), default=None)

    def fill(self, source: Mapping[str, Any], query: Query | None) -> dict[str, Any]:
        """The row with what the teacher gave; None = it was not asked."""
        row = {**source, "teacher": source.get("teacher")}
        if query is None:
            return row
        statuses, best = self._statuses(query), self._best(query)
        if statuses:
            row["teacher"] = {
                "model": self.request.model,
                "samples": len(statuses),
                "correct": sum(status == Status.CORRECT for status in statuses.values()),
                "sample": best and best[1],
                "status": best and statuses[best],
                "tokens": best and self.journal.entries[best].tokens_out,
            }
        if best:
            # Guidance opens the thinking block itself, where the policy has one (guidance/placement.py).
            trace = self.journal.text(best).lstrip().removeprefix(THINK_OPEN).lstrip()
            row |= {"guidance": trace, "guidance_limit": safe_length(trace, row["answer"] or "")}
        return row

    def _sum_up(self, queries: Sequence[Query], different: Sequence[Query]) -> None:
        totals = self.totals
        for query in queries:
            statuses, best = self._statuses(query), self._best(query)
            complete = len(statuses) == self.choice.samples
            totals.annotated += best is not None
            totals.unverified += best is not None and statuses[best] != Status.CORRECT
            totals.not_solved += best is None and complete
            totals.incomplete += best is None and not complete
        totals.statuses = dict(Counter(status for query in different for status in self._statuses(query).values()))
        totals.cost = self._cost()
