"""What an audit asks, and what the responses to one problem in one setting come to.

The problems are a seeded part of the data: every tier in proportion, more of the one trained first. The prompts are
those of training: the same slices, placement and chat template, the same ids.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

from guided_grpo.data.leak import safe_length, safe_program_length
from guided_grpo.errors import InputError
from guided_grpo.evaluation.completions import Request
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.scoring import tier_order
from guided_grpo.guidance.placement import GuidanceTokenizer, token_ends
from guided_grpo.guidance.slicing import Slice, slice_text
from guided_grpo.settings import again
from guided_grpo.types import Row, Strength, Unit

MAX_TIERS = 6  # numbers of more different values are cut into that many tiers
ANSWERED = 0.5  # an accuracy reward above it is a success


@dataclass(frozen=True)
class AuditProblem:
    """One problem of the audit."""

    index: int  # row of the data
    tier: str
    row: Row


def tiers_of(difficulties: Sequence[Any]) -> list[str]:
    """A tier for each row: its difficulty where there are few, else one of `MAX_TIERS` ranges of equally many rows."""
    values = [value for value in difficulties if value is not None]
    numbers = [value for value in values if not isinstance(value, str)]
    if len(set(values)) <= MAX_TIERS or len(numbers) < len(values):
        rest = "unknown" if values else "all"
        return [rest if value is None else value if isinstance(value, str) else f"{value:g}" for value in difficulties]
    ordered = sorted(numbers)
    cuts = sorted({ordered[len(ordered) * part // MAX_TIERS] for part in range(1, MAX_TIERS)})
    edges = [ordered[0], *[cut for cut in cuts if cut > ordered[0]], ordered[-1]]

    def name(value: float) -> str:
        place = max(n for n in range(len(edges) - 1) if value >= edges[n])
        return f"{edges[place]:g}–{edges[place + 1]:g}"

    return ["unknown" if value is None else name(value) for value in difficulties]


def choose(tiers: Sequence[str], count: int, seed: int) -> list[int]:
    """Numbers of `count` rows, in their order: every tier in proportion, rows of a tier at random."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, tier in enumerate(tiers):
        places[tier].append(place)
    total = min(count, len(tiers))
    exact = {tier: total * len(rows) / len(tiers) for tier, rows in places.items()}
    shares = {tier: int(value) for tier, value in exact.items()}
    for tier in sorted(exact, key=lambda tier: shares[tier] - exact[tier])[: total - sum(shares.values())]:
        shares[tier] += 1
    rng = random.Random(f"audit/{seed}")
    return sorted(row for tier, rows in places.items() for row in rng.sample(rows, shares[tier]))


def choose_first(tiers: Sequence[str], chosen: Sequence[int], count: int, seed: int) -> list[int]:
    """Numbers of up to `count` further rows of the easiest tier, which a curriculum trains first."""
    easiest, others = min(tiers, key=tier_order), set(chosen)
    rest = [row for row, tier in enumerate(tiers) if tier == easiest and row not in others]
    return sorted(random.Random(f"audit/{seed}/first").sample(rest, min(count, len(rest))))


@dataclass(frozen=True)
class TrialDecoding(Decoding):
    """Responses are sampled as training will."""

    samples: Annotated[int, Ge(2)] = again(
        Decoding, "samples", default=12, meaning="K responses a problem and strength; best ≥ G"
    )
    temperature: Annotated[float, Gt(0)] = again(
        Decoding, "temperature", default=1.0, meaning="that of training; at 0 all samples would be equal"
    )
    top_p: Annotated[float, Interval(gt=0, le=1)] = again(Decoding, "top_p", default=1.0)
    top_k: Annotated[int, Ge(0)] = again(Decoding, "top_k", default=0)
    max_tokens: Annotated[int, Ge(1)] = again(Decoding, "max_tokens", meaning="max_completion_length of training")
    batch_size: Annotated[int, Ge(1)] = again(Decoding, "batch_size", default=96)


@dataclass(frozen=True, order=True)
class GuidanceSetting:
    """Where guidance stands and how much of it; amount 0 = unguided."""

    placement: str  # prefix | hint
    unit: Unit
    amount: float

    @property
    def strength(self) -> Strength:
        """For the slicer."""
        return Strength(self.unit, self.amount)

    @property
    def label(self) -> str:
        """For people: `unguided`, `prefix 45 tokens`, `hint 25 %`."""
        return "unguided" if not self.amount else f"{self.placement} {self.length}"

    @property
    def length(self) -> str:
        """The amount with its unit."""
        if not self.unit.startswith("ratio"):
            return f"{self.amount:g} {self.unit}"
        of = {"ratio": "", "ratio-steps": " of the steps", "ratio-chars": " of the characters"}[self.unit]
        return f"{100 * self.amount:.3g} %{of}"


@dataclass(frozen=True)
class Trial:
    """All responses to one problem in one setting: K, or a multiple without guidance."""

    problem: int  # row of the data
    tier: str
    setting: GuidanceSetting
    graded: int  # responses with a verdict that counts
    successes: int
    tokens: int  # generated, all responses
    truncated: int  # responses that reached the limit
    statuses: Mapping[str, int]  # how the responses were graded
    guidance_tokens: int  # guidance tokens; 0 = no trace, or unguided
    clipped: bool  # the leak limit cut the slice
    states_answer: bool  # the slice states the answer all the same

    @property
    def responses(self) -> int:
        """How many there are."""
        return sum(self.statuses.values())


def trial_requests(
    problems: Sequence[AuditProblem], settings: Sequence[GuidanceSetting], guides: Mapping[str, GuidanceTokenizer]
) -> list[Request]:
    """Every problem in every setting.

    Args:
        problems: of the audit.
        settings: one may stand there several times, for as many times the samples.
        guides: cut and place a trace, by placement.
    """
    requests = []
    for number, setting in enumerate(settings):
        guide = guides[setting.placement]
        for problem in problems:
            piece = guide.slice(problem.row, setting.strength)
            ids = [*guide.prompt_ids(guide.prompt(problem.row["prompt"], piece)), *piece.ids]
            facts = {
                "setting": asdict(setting),
                "guidance_tokens": piece.tokens,
                "clipped": piece.clipped,
                "states_answer": _states_answer(problem.row, piece, setting, guide),
            }
            key, prompt = f"{number}/{problem.index}", str(guide.tokenizer.decode(ids))
            requests.append(
                Request(problem.index, key, problem.tier, problem.row, prompt, ids, prefix_ids=piece.ids, facts=facts)
            )
    return requests


def check_room(requests: Sequence[Request], max_tokens: int, context: int | None) -> None:
    """Raise InputError where prompt, guidance and response would outgrow the model's context; None = it has no end."""
    request = max(requests, key=lambda request: len(request.prompt_ids))
    length = len(request.prompt_ids)
    if context is not None and length + max_tokens > context:
        fewer = f"use --max-tokens {context - length}" if length < context else "use a model with more"
        raise InputError(
            f"and {length} tokens of prompt and guidance (row {request.problem}, "
            f"{GuidanceSetting(**request.facts['setting']).label}) outgrow the context of {context}",
            field="max_tokens",
            value=max_tokens,
            fix=f"{fewer}, drop long rows, or audit shorter strengths",
        )


def trials_of(records: Iterable[Mapping[str, Any]]) -> list[Trial]:
    """What the completions of an audit come to."""
    groups: dict[tuple[int, GuidanceSetting], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["problem"], GuidanceSetting(**record["setting"])].append(record)
    trials = []
    for (problem, setting), group in groups.items():
        scores = [record["score"] for record in group if record["score"] is not None]
        trials.append(
            Trial(
                problem=problem,
                tier=group[0]["tier"],
                setting=setting,
                graded=len(scores),
                successes=sum(score > ANSWERED for score in scores),
                tokens=sum(record["tokens"] for record in group),
                truncated=sum(not record["ended"] for record in group),
                statuses=dict(sorted(Counter(record["verdict"] or "ungraded" for record in group).items())),
                **{name: group[0][name] for name in ("guidance_tokens", "clipped", "states_answer")},
            )
        )
    return trials


def _states_answer(row: Row, piece: Slice, setting: GuidanceSetting, guide: GuidanceTokenizer) -> bool:
    """Whether the slice reaches into what states the answer, by our own measure, whatever `guidance_limit` says."""
    trace = row.get("guidance")
    if not trace or not piece.tokens:
        return False
    answer = row.get("answer")
    safe = safe_program_length(trace) if answer is None else safe_length(trace, str(answer))
    limit = row.get("guidance_limit")
    text, _, _ = slice_text(
        trace,
        setting.strength,
        len(trace) if limit is None else limit,
        token_ends=lambda text: token_ends(text, guide.tokenizer),
    )
    return len(text.rstrip()) > safe
