"""From raw records to checked rows, with a reason for every record that makes none.

    record → reader → proof? gold? tests? → duplicate? → contaminated? → prompt length → traces: complete, length,
    correct → row, checked (rows.py), leak limit → duplicate of a row that was kept meanwhile?

Records stream through in their order; in memory are one batch, the hashes of the rows kept (16 bytes each, in a table
at most two thirds full) and the word runs of the benchmarks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from guided_grpo.data.curriculum import MATHS_TIERS
from guided_grpo.data.preparing.overlap import Contamination, HashTable, text_hash
from guided_grpo.data.preparing.recipe import Recipe
from guided_grpo.data.preparing.traces import Candidates, Graders, candidates, choose
from guided_grpo.data.reading.drafts import Draft, RejectedError, asks_for_proof, tidy
from guided_grpo.data.reading.mapping import rename
from guided_grpo.data.reading.readers import READERS, find_reader
from guided_grpo.data.reading.rows import check_prompt, check_row, gold_fault
from guided_grpo.data.reading.streams import Item
from guided_grpo.errors import InputError
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.guidance.placement import Tokenizer, render
from guided_grpo.guidance.slicing import step_ends

REASONS: dict[str, str] = {
    "not-json": "the line is no JSON object, no UTF-8, or holds half a character",
    "missing-field": "a column of the schema, or of the mapping, is missing or empty",
    "bad-value": "a column holds something else than a prompt, answer, trace or difficulty",
    "flagged": "the data itself calls the problem or its solution invalid",
    "tier": "from a source that the recipe does not keep",
    "proof": "asks for a proof: nothing to verify",
    "no-answer": "has no gold answer, nor a solution that declares one",
    "unparseable-gold": "the gold answer is none that the verifier can grade",
    "bad-tests": "the tests can grade nothing",
    "duplicate": "the same problem was kept before",
    "contaminated": "shares a run of words with a benchmark",
    "prompt-long": "the prompt is over max_prompt",
    "no-trace": "has no trace",
    "bare-answer": "the trace is no more than the answer",
    "incomplete-trace": "the trace was cut off, or never closes its thought",
    "trace-short": "the trace is under min_trace",
    "trace-long": "the trace is over max_trace",
    "unanswered-trace": "the trace declares no answer",
    "wrong-trace": "the trace declares another answer, or fails the tests",
    "ungraded-trace": "the verifier could not tell (time, memory, own fault); never counted as wrong",
    "no-difficulty": "the recipe orders or filters by difficulty, and the row has none that it knows",
    "tier-full": "over per_tier",
    "limit": "over the limit",
    "hard": "a hard problem (sample filter remove)",
    "replaced": "a hard problem, exchanged for a moderate one (sample filter replace)",
}
BATCH = 256  # records in memory
UNKNOWN = "unknown"  # in `tiers`: rows whose data names no source


@dataclass(frozen=True, slots=True)
class RecordOutcome:
    """What became of one record: a row, or a reason of REASONS with what there is instead."""

    item: Item
    row: dict[str, Any] | None = None
    reason: str = ""
    detail: str = ""


class Curator:
    """Turns records into outcomes, in order; counts what it did. One run each.

    Args:
        recipe: the settings.
        contamination: the benchmarks to compare with; empty = none.
        tokenizer: counts lengths in tokens; None = in characters.
        graders: the verifiers; the caller closes them.
    """

    def __init__(
        self,
        recipe: Recipe,
        contamination: Contamination | None = None,
        tokenizer: Tokenizer | None = None,
        graders: Graders | None = None,
    ) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.contamination = contamination or Contamination(recipe.ngram)
        self.graders = graders or Graders(recipe.workers)
        self.agreement: Counter[str] = Counter()  # of what the data and the verifier say of traces
        self.readers: dict[str, str] = {}  # source → name of its reader
        self.read = 0
        self.counts: Counter[str] = Counter()  # rejected, by reason
        self.fault = ""  # of the first record that was rejected
        self.unguided: Counter[str] = Counter()  # kept without a trace, by the reason of its traces
        self._seen = HashTable()
        self._kind: type | None = None
        self._tiered: bool | None = None  # whether difficulties are tiers

    def to_json(self) -> dict[str, Any]:
        """What became of the records, for a card."""
        return {
            "rejected": dict(self.counts.most_common()),
            "without_trace": dict(self.unguided.most_common()),
            "contamination": self.contamination.to_json(),
            "labels_against_verifier": dict(self.agreement),
        }

    def run(self, items: Iterable[Item]) -> Iterator[RecordOutcome]:
        """One outcome a record, in order."""
        stream = iter(items)
        while batch := list(islice(stream, BATCH)):
            drafts = [self._draft(item) for item in batch]
            choose(
                [each for each in drafts if isinstance(each, Candidates)],
                self.graders,
                self.recipe.verify,
                self.agreement,
            )
            for item, each in zip(batch, drafts, strict=True):
                outcome = self._row(item, each) if isinstance(each, Candidates) else each
                self.read += 1
                if outcome.reason:
                    self.counts[outcome.reason] += 1
                    self.fault = self.fault or outcome.detail
                yield outcome

    def _draft(self, item: Item) -> Candidates | RecordOutcome:
        """Everything that needs no verifier."""
        if item.record is None:
            detail = item.fault if item.field is None else f"{item.field} {item.fault}"
            return RecordOutcome(item, reason="not-json", detail=detail)
        try:
            return self._check(self._read(item), item)
        except RejectedError as error:
            return RecordOutcome(item, reason=error.reason, detail=error.detail)

    def _read(self, item: Item) -> Draft:
        record = item.record or {}
        name = self.readers.get(item.source)
        if name is None:
            name = self.readers[item.source] = find_reader(self.recipe.reader, record, self.recipe.mapping)
        try:
            record = rename(record, self.recipe.mapping, item.source, item.line)
        except InputError as error:
            raise RejectedError("missing-field", _fault(error)) from None
        draft = READERS[name].read(record)
        if name != "plain":  # whose prompts are left as they are
            draft.problem = tidy(draft.problem)
        for column in self.recipe.keep:
            if column not in record:
                raise RejectedError("missing-field", f"no {column} to keep; the columns are {', '.join(record)}")
            draft.columns[column] = _as_text(record[column])
        return draft

    def _check(self, draft: Draft, item: Item) -> Candidates:
        recipe = self.recipe
        if recipe.tiers and (draft.tier or UNKNOWN) not in recipe.tiers:
            raise RejectedError("tier", draft.tier or "the data names no source")
        try:
            check_prompt(draft.problem, file=item.source, line=item.line)
        except InputError as error:
            raise RejectedError("bad-value", _fault(error)) from None
        text = draft.text
        prompt = self._prompt(draft, plain=self.readers[item.source] == "plain")
        if draft.task == "math" and recipe.drop_proofs and asks_for_proof(text):
            raise RejectedError("proof", text[:100])
        if draft.task == "code":
            try:
                if recipe.reference_tests and draft.inputs is not None:
                    draft.tests = self.graders.reference_tests(draft.inputs)
                    draft.columns["setup"] = "inf, nan = float('inf'), float('nan')"  # as repr writes them
                names = {name: draft.columns.get(name) or "" for name in ("entry_point", "setup")}
                parse_tests(draft.tests, **names)
            except ValueError as error:
                raise RejectedError("bad-tests", str(error)) from None
        elif draft.task == "math":
            if draft.answer is None or not draft.answer.strip():
                raise RejectedError("no-answer", "there is none")
            fault = gold_fault(draft.answer)
            if fault:
                raise RejectedError("unparseable-gold", f"{draft.answer[:80]!r} {fault}")
        if recipe.deduplicate:
            self._refuse_duplicate(text)
        hit = self.contamination.find(text)
        if hit:
            raise RejectedError("contaminated", f"{hit[0]}: {hit[1]}")
        if recipe.max_prompt is not None:
            length = self._prompt_length(prompt)
            if length > recipe.max_prompt:
                raise RejectedError("prompt-long", f"{length}, over {recipe.max_prompt}")
        result = candidates(draft, recipe.trace, length_fault=self._length_fault, drop_bare=recipe.drop_bare)
        result.prompt = prompt
        return result

    def _row(self, item: Item, traces: Candidates) -> RecordOutcome:
        draft, trace, recipe = traces.draft, traces.choice, self.recipe
        reason, detail = traces.reason()
        if trace is None and recipe.require_trace:
            return RecordOutcome(item, reason=reason, detail=detail)
        if trace is None:
            draft.columns.pop("guidance_limit", None)
        else:
            draft.columns = {"trace": trace.name, **draft.columns}
        try:
            record = draft.row(traces.prompt, trace, self._difficulty(draft, trace.text if trace else ""))
            row = check_row(record, file=item.source, line=item.line, kind=self._kind)
            for value in (draft.text, *row.values()):
                if isinstance(value, str) and not value.isascii():
                    value.encode()
            if recipe.deduplicate:
                self._refuse_duplicate(draft.text)
        except InputError as error:
            return RecordOutcome(item, reason="bad-value", detail=_fault(error))
        except UnicodeEncodeError:
            return RecordOutcome(item, reason="bad-value", detail="half of a character, as from a broken \\u escape")
        except RejectedError as error:
            return RecordOutcome(item, reason=error.reason, detail=error.detail)
        fault = self._difficulty_fault(row["difficulty"])
        if fault:
            return RecordOutcome(item, reason="no-difficulty", detail=fault)
        self._kind = self._kind or type(row["prompt"])
        if recipe.deduplicate:
            self._seen.add(text_hash(draft.text), item.line)
        row["guidance_share"] = round(row["guidance_limit"] / len(trace.text), 4) if trace else 0.0
        if trace is None:
            self.unguided[reason] += 1
        return RecordOutcome(item, row=row)

    def _prompt(self, draft: Draft, *, plain: bool) -> Any:
        """The problem as the policy gets it: instruction below, as a chat unless text is asked for."""
        recipe = self.recipe
        if not isinstance(draft.problem, str):
            return draft.problem
        text = draft.question(recipe.instruction)
        if recipe.prompt_form == "text" or (recipe.prompt_form is None and plain and not recipe.system):
            return text
        opening = [{"role": "system", "content": recipe.system}] if recipe.system else []
        return [*opening, {"role": "user", "content": text}]

    def _refuse_duplicate(self, text: str) -> None:
        first = self._seen.get(text_hash(text))
        if first is not None:
            raise RejectedError("duplicate", f"the problem of line {first}")

    def _difficulty_fault(self, value: Any) -> str:
        """Why a row cannot be ordered among the others; found here, not after hours of grading."""
        if self.recipe.order != "difficulty" and self.recipe.sample_filter.mode == "keep":
            return ""
        tier = isinstance(value, str)
        if value is None or value != value or (tier and value not in MATHS_TIERS):
            return f"difficulty: {value!r}"
        if self._tiered is None:
            self._tiered = tier
        return "" if tier == self._tiered else f"difficulty: {value!r} among {'tiers' if self._tiered else 'numbers'}"

    def _length_fault(self, text: str) -> tuple[str, str] | None:
        low, high = self.recipe.min_trace, self.recipe.max_trace
        if low is None and high is None:
            return None
        length = self.length(text)
        if low is not None and length < low:
            return "trace-short", f"{length}, under {low}"
        return ("trace-long", f"{length}, over {high}") if high is not None and length > high else None

    def length(self, text: str) -> int:
        """Tokens of `text`, or characters where there is no tokenizer."""
        if self.tokenizer is None:
            return len(text)
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt_length(self, prompt: Any) -> int:
        if self.tokenizer is None or (not isinstance(prompt, str) and not self.tokenizer.chat_template):
            return len(prompt) if isinstance(prompt, str) else sum(len(each["content"]) for each in prompt)
        return self.length(render(prompt, self.tokenizer, {}))

    def _difficulty(self, draft: Draft, trace: str) -> Any:
        rule, tier = self.recipe.difficulty, draft.tier
        if rule == "steps":
            return len(step_ends(trace))
        if rule == "length":
            return len(trace)
        if rule == "none":
            return None
        tiers = self.recipe.tiers
        place: Any = tier if tier in MATHS_TIERS else None
        if set(tiers) - set(MATHS_TIERS) and (tier or UNKNOWN) in tiers:  # the recipe's own tiers, easy to hard
            place = tiers.index(tier or UNKNOWN)
        return place if rule == "tier" or draft.difficulty is None else draft.difficulty


def _fault(error: InputError) -> str:
    """What an error says of a value, without place and fix: these are the reject's own."""
    text = str(error).partition("; fix: ")[0]
    return text[text.find("field '") :] if "field '" in text else text


def _as_text(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | Mapping) else str(value)
