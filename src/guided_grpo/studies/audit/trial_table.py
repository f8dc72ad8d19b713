"""Trials as a table: problems against settings, with the tiers, and what a group of one setting does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from guided_grpo.evaluation.scoring import tier_order
from guided_grpo.studies.audit.predict import Array, arm, group, shrunk, zero_by_problem
from guided_grpo.studies.audit.trials import GuidanceSetting, Trial


class Table:
    """Trials by setting, problems in one order: tier by tier."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        by_setting: dict[GuidanceSetting, dict[int, Trial]] = defaultdict(dict)
        for trial in trials:
            by_setting[trial.setting][trial.problem] = trial
        # A problem without a verdict in some setting can be compared with nothing.
        graded = [{n for n, trial in found.items() if trial.graded} for found in by_setting.values()]
        whole = set.intersection(*graded) if graded else set()
        first = next(iter(by_setting.values()), {})
        self.names = sorted({first[n].tier for n in whole}, key=tier_order)
        self.order = sorted(whole, key=lambda n: (self.names.index(first[n].tier), n))
        self.rows = {
            setting: [found[n] for n in self.order]
            for setting, found in sorted(by_setting.items(), key=lambda item: (item[0].amount > 0, item[0]))
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
        found: dict[str, list[float]] = {name: [] for name in self.names}
        for tier, value in zip(self.tier_of, values, strict=True):
            found[tier].append(value)
        return found

    def zero_by_tier(self, setting: GuidanceSetting, guided: int, size: int) -> dict[str, float]:
        """Share of zero-signal groups of each tier."""
        return self.shrunk(zero_by_problem(self.arm(setting, guided), self.arm(self.unguided, size - guided)))

    def shrunk(self, values: Array) -> dict[str, float]:
        """Means of the tiers, from values of the problems."""
        parts = self.by_tier(list(values))
        return dict(zip(parts, shrunk([np.array(part) for part in parts.values()]), strict=True))

    def variance_by_tier(self, setting: GuidanceSetting, guided: int, size: int) -> dict[str, float]:
        """Variance of rewards inside a group of each tier."""
        with_help, alone, tiers = (
            self.arm(setting, guided),
            self.arm(self.unguided, size - guided),
            np.array(self.tier_of),
        )
        return {tier: group(with_help[tiers == tier], alone[tiers == tier]).variance for tier in self.names}
