"""Figures of a stream of rows in constant memory: lengths as histograms, random rows as a reservoir."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any, Generic, TypeVar

from guided_grpo.data.preparing.curate import BATCH, RecordOutcome
from guided_grpo.guidance.placement import Tokenizer, render

T = TypeVar("T")
_STEP = math.log1p(0.01)  # bins of one per cent
EXACT = 200  # values up to here have bins of their own
MOST_DIFFICULTIES = 50  # different ones that are listed


class Lengths:
    """Lengths as counts in bins: exact up to 200, to one per cent above; smallest and largest are exact."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.count, self.total = 0, 0
        self.smallest, self.largest = 0, 0

    def add(self, length: int) -> None:
        """Take one length, 0 or more."""
        self.smallest = min(self.smallest, length) if self.count else length
        self.largest = max(self.largest, length)
        self.count, self.total = self.count + 1, self.total + length
        self.bins[length if length <= EXACT else EXACT + math.ceil(math.log(length / EXACT) / _STEP)] += 1

    def quantile(self, share: float) -> int:
        """The smallest length that at least `share` of the lengths do not exceed; 0 where there are none."""
        rest = max(1, math.ceil(share * self.count))
        for number in sorted(self.bins):
            rest -= self.bins[number]
            if rest <= 0:
                top = number if number <= EXACT else math.floor(EXACT * math.exp((number - EXACT) * _STEP))
                return max(self.smallest, min(top, self.largest))
        return 0

    def to_json(self) -> dict[str, float]:
        """Count, min, median, 90 %, 99 %, max, mean."""
        return {
            "count": self.count,
            "min": self.smallest,
            "median": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": self.largest,
            "mean": round(self.total / self.count, 1) if self.count else 0.0,
        }


class Reservoir(Generic[T]):
    """`size` values of a stream, each as likely as any other; the same for the same seed and stream."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.count = size, 0
        self.values: list[tuple[int, T]] = []  # place in the stream, value
        self._rng = random.Random(f"reservoir/{seed}")

    def add(self, value: T) -> None:
        """Take one value of the stream."""
        self.count += 1
        if len(self.values) < self.size:
            self.values.append((self.count, value))
            return
        place = self._rng.randrange(self.count)
        if place < self.size:
            self.values[place] = (self.count, value)

    def sample(self) -> list[T]:
        """What was drawn, in the order of the stream."""
        return [value for _, value in sorted(self.values, key=lambda pair: pair[0])]


def as_text(prompt: Any, tokenizer: Tokenizer | None) -> str:
    """A prompt as the policy sees it; without a chat template, its messages with their roles."""
    if isinstance(prompt, str):
        return prompt
    if tokenizer is not None and tokenizer.chat_template:
        return render(prompt, tokenizer, {})
    return "".join(f"[{message['role']}]\n{message['content']}\n" for message in prompt) + "[assistant]\n"


class Survey:
    """What `data check` and the card say of rows.

    Args:
        samples: random rows to keep.
        examples: rejected records to keep for each reason.
        seed: of the random rows.
        tokenizer: of the policy, for lengths in tokens too; None = in characters only.
    """

    def __init__(self, samples: int = 0, examples: int = 0, seed: int = 0, tokenizer: Tokenizer | None = None) -> None:
        self.rows, self.tokenizer = 0, tokenizer
        self.characters = {name: Lengths() for name in ("prompt", "trace", "usable")}
        self.tokens = {name: Lengths() for name in self.characters if tokenizer is not None}
        self._batch: list[dict[str, Any]] = []  # whose tokens are not counted yet
        self.guided, self.stated, self.share_total = 0, 0, 0.0
        self.difficulties: Counter[Any] = Counter()
        self.sources: Counter[str] = Counter()
        self.samples: Reservoir[dict[str, Any]] = Reservoir(samples, seed)
        self.examples: dict[str, list[RecordOutcome]] = {}
        self._most_examples = examples

    def add(self, outcome: RecordOutcome) -> None:
        """Take one outcome, kept or rejected."""
        row = outcome.row
        if row is None:
            examples = self.examples.setdefault(outcome.reason, [])
            if len(examples) < self._most_examples:
                examples.append(outcome)
            return
        self.rows += 1
        self.samples.add(row)
        prompt = row["prompt"]
        self.characters["prompt"].add(
            len(prompt) if isinstance(prompt, str) else sum(len(str(each["content"])) for each in prompt)
        )
        if row["guidance"]:
            self.guided += 1
            self.characters["trace"].add(len(row["guidance"]))
            self.characters["usable"].add(row["guidance_limit"])
            self.stated += row["guidance_limit"] < len(row["guidance"])
            self.share_total += row["guidance_share"]
        if self.tokenizer is not None:
            self._batch.append(row)
            if len(self._batch) == BATCH:
                self._count_tokens()
        self._count(self.difficulties, row["difficulty"])
        self._count(self.sources, row.get("source"))

    def _count_tokens(self) -> None:
        rows, self._batch = self._batch, []
        texts = {
            "prompt": [as_text(row["prompt"], self.tokenizer) for row in rows],
            "trace": [row["guidance"] for row in rows if row["guidance"]],
            "usable": [row["guidance"][: row["guidance_limit"]] for row in rows if row["guidance"]],
        }
        tokenizer: Any = self.tokenizer
        for name, lengths in self.tokens.items():
            for ids in tokenizer(texts[name], add_special_tokens=False)["input_ids"] if texts[name] else ():
                lengths.add(len(ids))

    def _count(self, counts: Counter[Any], value: Any) -> None:
        if value in counts or len(counts) < MOST_DIFFICULTIES:
            counts[value] += 1
        else:
            counts["others"] += 1

    def to_json(self) -> dict[str, Any]:
        """All figures; difficulties and sources easy to hard, or by name."""
        self._count_tokens()
        return {
            "rows": self.rows,
            "guided": self.guided,
            "states_answer": self.stated,
            "usable_share": round(self.share_total / self.guided, 4) if self.guided else None,
            **{f"{name}_characters": lengths.to_json() for name, lengths in self.characters.items()},
            "difficulty": _by_name(self.difficulties),
            "source": _by_name(self.sources),
            **{f"{name}_tokens": lengths.to_json() for name, lengths in self.tokens.items()},
        }


def _by_name(counts: Counter[Any]) -> dict[str, int]:
    def key(value: Any) -> tuple[int, Any]:
        return (0, value) if isinstance(value, int | float) else (1, str(value))

    return {"unknown" if value is None else str(value): counts[value] for value in sorted(counts, key=key)}
