"""From kept completions to figures: avg@k, pass@k, majority vote, paired differences; the unit is the problem.

avg      mean over problems of the share of its samples that are right
pass@k   mean over problems of 1 − C(n − c, k) / C(n, k); problems with fewer than k graded samples are left out
maj      the answer that most samples of a problem give is right; of m answers that tie, the right one counts 1/m

Equal answers: those that are right are equal to the gold answer by the verifier, and so to each other; others are equal
where the verifier's exact comparison says so. Wrong answers that only algebra could join stay apart, which can only
help the right one. A response without an answer does not vote. Programs have no majority.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.evaluation.stats import Interval, difference_interval, mean_interval, pass_at_k
from guided_grpo.grading.maths import compare_exactly
from guided_grpo.grading.strict import compare_as
from guided_grpo.types import Status

Record = Mapping[str, Any]  # a line of completions.jsonl
Key = tuple[str, int]  # key of a problem, and which of several equal ones it is


@dataclass
class Tally:
    """The graded samples of one problem."""

    tier: str = "all"
    kind: str | None = None  # how answers are compared; None = programs
    scores: list[float] = field(default_factory=list)
    right: int = 0
    votes: list[tuple[str, bool]] = field(default_factory=list)  # answers, and whether each is right

    @property
    def accuracy(self) -> float:
        """Share of the samples that are right, or their mean reward where that is not 0 or 1."""
        return sum(self.scores) / len(self.scores)

    def passed(self, k: int) -> float | None:
        """pass@k; None where there are fewer graded samples."""
        return pass_at_k(len(self.scores), self.right, k) if k <= len(self.scores) else None

    def majority(self) -> float | None:
        """1 where the vote is right, a share where it ties, 0 where it is wrong; None for programs."""
        if self.kind is None:
            return None
        wrong: list[list[str]] = []
        for answer, is_right in self.votes:
            if not is_right:
                match = next((group for group in wrong if _equal(self.kind, answer, group[0])), None)
                if match is None:
                    wrong.append([answer])
                else:
                    match.append(answer)
        right = sum(is_right for _, is_right in self.votes)
        most = max([right, *map(len, wrong)])
        return 1 / (1 + sum(len(group) == most for group in wrong)) if right == most and right else 0.0


def tallies(records: Iterable[Record]) -> dict[Key, Tally]:
    """Samples by problem, in the data's order. Those that could not be graded are left out."""
    by_place: dict[int, tuple[str, Tally]] = {}
    for record in records:
        _, tally = by_place.setdefault(record["problem"], (record["key"], Tally(record["tier"], record["kind"])))
        if record["score"] is None:
            continue
        is_right = record["verdict"] == Status.CORRECT
        tally.scores.append(float(record["score"]))
        tally.right += is_right
        if record["extracted"] is not None:
            tally.votes.append((record["extracted"], is_right))
    seen: Counter[str] = Counter()
    by_key: dict[Key, Tally] = {}
    for _, (key, tally) in sorted(by_place.items()):
        by_key[key, seen[key]] = tally
        seen[key] += 1
    return by_key


def figures(records: Sequence[Record], samples: int) -> dict[str, Any]:
    """What eval.json says of these completions.

    Args:
        records: lines of completions.jsonl, but the first.
        samples: a problem.
    """
    by_problem = list(tallies(records).values())
    graded = [tally for tally in by_problem if tally.scores]
    if not graded:
        raise InputError("could not be graded, not one of them", field="completions", fix="see guided-grpo grade")
    return {
        **_measures(graded, samples),
        "ungraded": sum(record["score"] is None for record in records),  # responses
        "tokens": sum(record["tokens"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 3),  # of sampling
        "truncated": sum(not record["ended"] for record in records) / len(records),
        "tiers": {tier: _measures([t for t in graded if t.tier == tier], samples) for tier in _tiers(graded)},
        "verdicts": dict(sorted(Counter(record["verdict"] for record in records if record["verdict"]).items())),
        "scores": [tally.accuracy if tally.scores else None for tally in by_problem],
        "difficulty": [tally.tier for tally in by_problem],  # as scores, in the data's order
    }


def compare(first: Sequence[Record], second: Sequence[Record], samples: int) -> dict[str, Any]:
    """Paired differences second − first over the problems that both have.

    Args:
        first: completions of one model.
        second: completions of the other, on the same problems.
        samples: the smaller number of samples a problem.

    Raises InputError where the problems are not the same.
    """
    a, b = tallies(first), tallies(second)
    if set(a) != set(b):
        raise InputError(
            f"has {len(set(b) - set(a))} problems that the first has not, and lacks {len(set(a) - set(b))} of its",
            field="compare",
            fix="evaluate both on the same data with the same limit and seed",
        )
    pairs = [(a[key], b[key]) for key in a if a[key].scores and b[key].scores]
    if not pairs:
        raise InputError("has no problem that was graded for both", field="compare", fix="see guided-grpo grade")
    tiers = _tiers(first for first, _ in pairs)
    return {
        **_differences(pairs, samples),
        "left_out": len(a) - len(pairs),  # problems without a grade for one of the two
        "tiers": {tier: _differences([pair for pair in pairs if pair[0].tier == tier], samples) for tier in tiers},
    }


def tier_order(tier: str) -> tuple[int, float, str]:
    """Numbers, and ranges such as 10–14, by size; then names."""
    try:
        return (0, float(tier.split("–")[0]), tier)
    except ValueError:
        return (1, 0.0, tier)


def _tiers(tallies: Iterable[Tally]) -> list[str]:
    return sorted({tally.tier for tally in tallies}, key=tier_order)


def counts_of(samples: int) -> list[int]:
    """The k of pass@k that are reported: powers of two, and all samples."""
    return sorted({*(2**power for power in range(samples.bit_length()) if 2**power <= samples), samples})


def _measures(graded: Sequence[Tally], samples: int) -> dict[str, Any]:
    mean = mean_interval([tally.accuracy for tally in graded])
    passes = {k: _interval([tally.passed(k) for tally in graded]) for k in counts_of(samples)}
    return {
        "accuracy": mean.mean,
        "interval": (mean.low, mean.high),
        "problems": mean.problems,
        "pass": {str(k): interval for k, interval in passes.items() if interval},
        "majority": _interval([tally.majority() for tally in graded]),
    }


def _interval(values: Iterable[float | None]) -> dict[str, Any] | None:
    numbers = [value for value in values if value is not None]
    return _json(mean_interval(numbers)) if numbers else None


def _differences(pairs: Sequence[tuple[Tally, Tally]], samples: int) -> dict[str, Any]:
    def paired(measure: Callable[[Tally], float | None]) -> dict[str, Any] | None:
        values = [(measure(a), measure(b)) for a, b in pairs]
        both = [(a, b) for a, b in values if a is not None and b is not None]
        if not both:
            return None
        first, second = [a for a, _ in both], [b for _, b in both]
        means = {"first": sum(first) / len(both), "second": sum(second) / len(both)}
        return {**means, **_json(difference_interval(first, second))}

    passes = {str(k): paired(lambda tally, k=k: tally.passed(k)) for k in counts_of(samples)}  # type: ignore[misc]
    return {
        "accuracy": paired(lambda tally: tally.accuracy),
        "pass": {k: difference for k, difference in passes.items() if difference},
        "majority": paired(lambda tally: tally.majority()),
    }


def _json(interval: Interval) -> dict[str, Any]:
    data = asdict(interval)
    low, high = data.pop("low"), data.pop("high")
    return {"mean": data.pop("mean"), "interval": (low, high), **data}


def _equal(kind: str, answer: str, other: str) -> bool:
    if answer.strip() == other.strip():
        return True
    verdict = compare_exactly(answer, other) if kind == "math" else compare_as(kind, answer, other)
    return verdict is not None and verdict.status is Status.CORRECT
