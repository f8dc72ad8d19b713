"""What follows from the trials: success by strength and tier, what groups would teach, the ladder, the cost.

`estimate` is pure: the same trials give the same figures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from guided_grpo.evaluation.scoring import tier_order
from guided_grpo.evaluation.stats import Interval, difference_interval, mean_interval
from guided_grpo.guidance.allocation import guided_count
from guided_grpo.studies.audit.predict import Array, arm, expectations, formula_variance, shrunk, zero_by_problem
from guided_grpo.studies.audit.trials import GuidanceSetting, Trial
from guided_grpo.types import Status

LADDER = (0.25, 0.5, 0.75)  # shares of the trace that a rescue tries (rescue.py)


class Table:
    """Trials by setting, problems in one order: tier by tier."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        by_setting: dict[GuidanceSetting, dict[int, Trial]] = defaultdict(dict)
        for trial in trials:
            by_setting[trial.setting][trial.problem] = trial
        # A problem without a verdict in some setting can be compared with nothing.
        graded = [{n for n, trial in by_problem.items() if trial.graded} for by_problem in by_setting.values()]
        whole = set.intersection(*graded) if graded else set()
        first = next(iter(by_setting.values()), {})
        self.names = sorted({first[n].tier for n in whole}, key=tier_order)
        self.order = sorted(whole, key=lambda n: (self.names.index(first[n].tier), n))
        self.rows = {
            setting: [by_problem[n] for n in self.order]
            for setting, by_problem in sorted(by_setting.items(), key=lambda item: (item[0].amount > 0, item[0]))
        }
        self._arms: dict[tuple[GuidanceSetting, int], Array] = {}

    @cached_property
    def tier_of(self) -> list[str]:
        """By problem."""
        return [trial.tier for trial in next(iter(self.rows.values()))]

    @property
    def unguided(self) -> GuidanceSetting:
        """The setting without guidance."""
        return next(setting for setting in self.rows if not setting.amount)

    @property
    def guided(self) -> list[GuidanceSetting]:
        """All others, by placement and strength."""
        return [setting for setting in self.rows if setting.amount]

    def counts(self, setting: GuidanceSetting) -> list[tuple[int, int]]:
        """Successes and graded samples of each problem."""
        return [(trial.successes, trial.graded) for trial in self.rows[setting]]

    def rates(self, setting: GuidanceSetting) -> list[float]:
        """Success of each problem."""
        return [trial.successes / trial.graded for trial in self.rows[setting]]

    def arm(self, setting: GuidanceSetting, draws: int) -> Array:
        """`predict.arm`, remembered."""
        key = setting, draws
        if key not in self._arms:
            counts = self.counts(setting)
            by_tier = [
                [pair for pair, tier in zip(counts, self.tier_of, strict=True) if tier == name] for name in self.names
            ]
            self._arms[key] = arm(by_tier, draws)
        return self._arms[key]

    def by_tier(self, values: Sequence[float]) -> dict[str, list[float]]:
        """Values of the problems, tier by tier."""
        tiers: dict[str, list[float]] = {name: [] for name in self.names}
        for tier, value in zip(self.tier_of, values, strict=True):
            tiers[tier].append(value)
        return tiers

    def zero_by_tier(self, setting: GuidanceSetting, guided: int, size: int) -> dict[str, float]:
        """Share of zero-signal groups of each tier."""
        return self.shrunk(zero_by_problem(self.arm(setting, guided), self.arm(self.unguided, size - guided)))

    def shrunk(self, values: Array) -> dict[str, float]:
        """Means of the tiers, from values of the problems."""
        parts = self.by_tier(list(values))
        return dict(zip(parts, shrunk([np.array(part) for part in parts.values()]), strict=True))

    def variance_by_tier(self, setting: GuidanceSetting, guided: int, size: int) -> dict[str, float]:
        """Variance of rewards inside a group of each tier."""
        with_help, alone = self.arm(setting, guided), self.arm(self.unguided, size - guided)
        tiers = np.array(self.tier_of)
        return {tier: expectations(with_help[tiers == tier], alone[tiers == tier]).variance for tier in self.names}


@dataclass(frozen=True)
class Point:
    """One setting: success over all problems and by tier, how responses ended, what they cost."""

    setting: GuidanceSetting
    success: Interval
    tiers: Mapping[str, Interval]
    gain: Interval | None  # paired, against unguided; 95 % for all settings together; None = it is unguided
    clean_gain: Interval | None  # the same over the problems whose slice does not state the answer; None = none of them
    stated: float  # share of the guided problems whose slice states the answer
    without: float  # share of the problems that got nothing: no trace, or none before the answer
    given: float  # mean guidance tokens
    generated: float  # mean generated tokens
    truncated: float  # share of responses
    no_answer: float  # share of responses that declare no answer


@dataclass(frozen=True)
class Cell:
    """Groups of G with ⌊αG⌉ guided rollouts at one setting."""

    setting: GuidanceSetting
    alpha: float  # 0 = plain GRPO
    group: int  # G
    zero: float  # share of groups whose rewards are all equal
    interval: tuple[float, float]  # of `zero`, 95 %, over problems
    failed: float  # share of groups that fail whole, part of `zero`
    tiers: Mapping[str, float]  # `zero` by tier, shrunk towards that of all
    variance: float  # of rewards inside a group, measured
    variances: Mapping[str, float]  # the same by tier
    formula: float | None  # μ(1 − μ), of an endless group; None = too few graded samples
    unguided_advantage: float  # mean, scaled as TRL does
    tokens: float  # generated for a group
    wasted: float  # share of the tokens that goes into zero-signal groups


@dataclass(frozen=True)
class Rung:
    """One stage of the rescue ladder: share of all groups that reach it, and that it rescues."""

    setting: GuidanceSetting
    reached: float
    rescued: float


@dataclass(frozen=True)
class Climbing:
    """What the ladder would do to plain groups of G."""

    group: int
    difficult: float  # share of groups without a success at first
    rungs: tuple[Rung, ...]
    lost: float  # share of groups that no stage rescues
    zero: float  # share of zero-signal groups at the end
    calls: float  # generation calls of a step, the first one included
    rollouts: float  # sampled for a group on average, thrown-away ones included


@dataclass(frozen=True)
class Estimates:
    """All figures of an audit."""

    problems: int
    tiers: Mapping[str, int]  # problems of each, easy to hard
    further: int  # problems of the easiest tier beyond its share: they count in the figures of that tier alone
    points: tuple[Point, ...]  # unguided first, then by placement and strength
    cells: tuple[Cell, ...]
    ladders: Mapping[str, tuple[Climbing, ...]]  # by placement; those whose stages were all audited

    @property
    def words(self) -> str:
        """How many problems of which tier, for people."""
        shares = ", ".join(f"{count} of tier {tier}" for tier, count in self.tiers.items())
        more = f", and {self.further} more of tier {next(iter(self.tiers))}" if self.further else ""
        return f"{self.problems} problems ({shares}){more}"

    @property
    def unguided(self) -> Point:
        """The policy alone."""
        return self.points[0]

    def plain(self, size: int) -> Cell:
        """Groups of plain GRPO."""
        return next(cell for cell in self.cells if cell.group == size and not cell.alpha)


def estimate(
    trials: Iterable[Trial],
    *,
    alphas: Sequence[float],
    groups: Sequence[int],
    further: Collection[int] = (),
    problems_per_step: int = 8,
) -> Estimates:
    """All figures.

    Args:
        trials: every problem in every setting, one of them unguided.
        alphas: shares of guided rollouts to look at, above 0.
        groups: sizes G to look at.
        further: problems beyond the share of their tier, left out of the figures over all tiers.
        problems_per_step: of training, for the calls of a step.
    """
    every = list(trials)
    by_tier = Table(every)
    table = Table(trial for trial in every if trial.problem not in further) if further else by_tier
    level = 1 - 0.05 / max(1, len(table.guided))  # the best of many settings must not pass by chance
    points = [_point(table, by_tier, setting, level) for setting in table.rows]
    lengths = {point.setting: point.generated for point in points}
    cells = [_cell(table, by_tier, table.unguided, 0.0, size, lengths) for size in groups]
    for setting in table.guided:
        for size in groups:
            counts = {guided_count(size, alpha): alpha for alpha in reversed(alphas)}  # the smallest α of each count
            cells += [_cell(table, by_tier, setting, alpha, size, lengths) for count, alpha in counts.items() if count]
    ladders = {}
    for placement in sorted({setting.placement for setting in table.guided}):
        stages = stages_of(table, placement)
        if stages:
            ladders[placement] = tuple(_climb(table, stages, size, problems_per_step) for size in groups)
    return Estimates(
        problems=len(table.order),
        tiers={name: table.tier_of.count(name) for name in table.names},
        further=len(by_tier.order) - len(table.order),
        points=tuple(points),
        cells=tuple(cells),
        ladders=ladders,
    )


def _point(table: Table, by_tier: Table, setting: GuidanceSetting, level: float) -> Point:
    rows, rates, alone = table.rows[setting], table.rates(setting), table.rates(table.unguided)
    responses = sum(trial.responses for trial in rows)
    ended: Counter[str] = Counter()
    for trial in rows:
        ended.update(trial.statuses)
    clean = [place for place, trial in enumerate(rows) if not trial.states_answer]
    guided = [trial for trial in rows if trial.guidance_tokens]
    gain = clean_gain = None
    if setting.amount:
        gain = difference_interval(alone, rates, level)
        if clean:
            clean_gain = difference_interval([alone[n] for n in clean], [rates[n] for n in clean], level)
    return Point(
        setting=setting,
        success=mean_interval(rates),
        tiers={tier: mean_interval(part) for tier, part in by_tier.by_tier(by_tier.rates(setting)).items()},
        gain=gain,
        clean_gain=clean_gain,
        stated=sum(trial.states_answer for trial in guided) / len(guided) if guided else 0.0,
        without=1 - len(guided) / len(rows) if setting.amount else 0.0,
        given=sum(trial.guidance_tokens for trial in rows) / len(rows),
        generated=sum(trial.tokens for trial in rows) / responses,
        truncated=sum(trial.truncated for trial in rows) / responses,
        no_answer=ended[Status.NO_ANSWER.value] / responses,
    )


def _cell(
    table: Table,
    by_tier: Table,
    setting: GuidanceSetting,
    alpha: float,
    size: int,
    lengths: Mapping[GuidanceSetting, float],
) -> Cell:
    m = guided_count(size, alpha)
    u = size - m
    guided, unguided = table.arm(setting, m), table.arm(table.unguided, u)
    outlook = expectations(guided, unguided)
    by_problem = zero_by_problem(guided, unguided)
    interval = mean_interval(list(by_problem))
    costs = [
        (m * with_help.tokens / with_help.responses) + (u * alone.tokens / alone.responses)
        for with_help, alone in zip(table.rows[setting], table.rows[table.unguided], strict=True)
    ]
    return Cell(
        setting=setting,
        alpha=alpha,
        group=size,
        zero=outlook.zero,
        interval=(interval.low, interval.high),
        failed=outlook.failed,
        tiers=by_tier.zero_by_tier(setting, m, size),
        variance=outlook.variance,
        variances=by_tier.variance_by_tier(setting, m, size),
        formula=_formula(table, setting, m / size),
        unguided_advantage=outlook.unguided_advantage,
        tokens=m * lengths[setting] + u * lengths[table.unguided],
        wasted=float(np.dot(by_problem, costs) / np.sum(costs)),
    )


def _formula(table: Table, setting: GuidanceSetting, share: float) -> float | None:
    pairs = [
        (with_help, alone)
        for with_help, alone in zip(table.counts(setting), table.counts(table.unguided), strict=True)
        if min(with_help[1], alone[1]) >= 2
    ]
    return formula_variance([pair[0] for pair in pairs], [pair[1] for pair in pairs], share) if pairs else None


def stages_of(table: Table, placement: str) -> list[GuidanceSetting]:
    """The audited settings that the ladder climbs; none where one of them is missing."""
    shares = {
        setting.amount: setting
        for setting in table.guided
        if setting.placement == placement and setting.unit.startswith("ratio")
    }
    return [shares[stage] for stage in LADDER] if all(stage in shares for stage in LADDER) else []


def climb(table: Table, stages: Sequence[GuidanceSetting], size: int) -> tuple[list[Array], Array, Array]:
    """Whole groups of G at every stage, those alone that have failed so far.

    Returns, by problem: the share of groups that reach each stage; that is lost after the last one; and that ends
    without a signal.
    """
    first = table.arm(table.unguided, size)
    open_P, right_P, reached = first[:, 0], first[:, -1], []
    for setting in stages:
        again = table.arm(setting, size)
        reached.append(open_P)
        right_P = right_P + open_P * again[:, -1]
        open_P = open_P * again[:, 0]
    return reached, open_P, right_P + open_P


def _climb(table: Table, stages: Sequence[GuidanceSetting], size: int, problems_per_step: int) -> Climbing:
    reached_P, lost_P, zero_P = climb(table, stages, size)
    reached = [float(share.mean()) for share in reached_P]
    lost = float(lost_P.mean())
    rungs = tuple(
        Rung(setting, here, here - later)
        for setting, here, later in zip(stages, reached, [*reached[1:], lost], strict=True)
    )
    return Climbing(
        group=size,
        difficult=reached[0],
        rungs=rungs,
        lost=lost,
        zero=float(zero_P.mean()),
        calls=1 + sum(1 - (1 - share) ** problems_per_step for share in reached),
        rollouts=size * (1 + sum(reached)),
    )
