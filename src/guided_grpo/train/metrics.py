"""Names of the metrics, and their reduction from sums and counts (never means of means).

Every step, in metrics.jsonl and in the tracker, beside TRL's own:

    reward/accuracy  reward/guided  reward/unguided    mean accuracy reward, of all rollouts and of each arm
    reward/first                                       of unguided rollouts of the first sampling, before any rescue
    advantage/std  advantage/guided  advantage/unguided
    signal/zero_groups                                 share of groups whose advantages are all 0
    signal/difficult                                   share of groups whose first sampling has no success
    problems/difficult_to_solved                       problems that were difficult when last seen and now are not
    problems/solved_to_difficult                       and the other way
    guidance/length                                    what the controller asks for, in guidance_unit
    guidance/given                                     mean tokens that guided rollouts got
    guidance/ratio                                     share of rollouts that got guidance
    guidance/tokens                                    guidance tokens of the step
    guidance/missing                                   share of rollouts to be guided that got nothing (no trace)
    guidance/clipped  guidance/leaked                  share of guided rollouts cut at, or past, the stated answer
    rescue/1  rescue/2 …  rescue/lost                  share of groups rescued at each attempt, and by none of them
    rescue/unguidable                                  share of groups that are difficult and have no trace, or no room
    rescue/omega                                       mean ω at which groups were rescued
    rescue/calls  rescue/rows  rescue/tokens           generation calls, rollouts and tokens spent on rescue
    tokens/generated  tokens/trained                   of the step, thrown-away rollouts too; with weight in the loss
    tokens/generated_total                             since the start of the run
    tokens/traces_total                                of traces, given as guidance or to be imitated, since the start
    flops/total                                        of all ranks since the start (flops.py)
    tokens/forward                                     read by forward passes of the update, this rank
    completions/generated_length  completions/truncated
    grad_norm/mean  grad_norm/variance                 over the run so far
    time/generate  time/reward  time/rescue  time/update    seconds, summed over the step, this rank
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from guided_grpo.train.advantage import zero_groups
from guided_grpo.train.rescue import outcomes
from guided_grpo.train.rollout import FACTS

if TYPE_CHECKING:
    import torch

    from guided_grpo.train.resampling import Rescued


class MetricSums:
    """Running sums and counts between two rows of the log."""

    def __init__(self) -> None:
        self._means: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._totals: dict[str, float] = defaultdict(float)
        self._latest: dict[str, float] = {}

    def mean(self, name: str, total: float, count: float) -> None:
        """Add to a metric that is logged as total/count; left out of the log while the count is 0."""
        self._means[name][0] += total
        self._means[name][1] += count

    def total(self, name: str, amount: float) -> None:
        """Add to a metric that is logged as a sum."""
        self._totals[name] += amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that it takes."""
        started = time.perf_counter()
        yield
        self.total(name, time.perf_counter() - started)

    def latest(self, name: str, value: float) -> None:
        """Set a metric of which the last value is logged."""
        self._latest[name] = value

    def reduce(self) -> dict[str, float]:
        """What to log now; starts the next interval."""
        means = {name: total / count for name, (total, count) in self._means.items() if count}
        row = {**means, **self._totals, **self._latest}
        self.load_state_dict({"means": {}, "totals": {}, "latest": {}})
        return row

    def state_dict(self) -> dict[str, dict[str, object]]:
        """JSON-able; an interval survives a checkpoint in its middle."""
        return {"means": dict(self._means), "totals": dict(self._totals), "latest": dict(self._latest)}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """The inverse of `state_dict`."""
        self.__init__()  # type: ignore[misc]  # back to empty
        for name, (total, count) in state["means"].items():  # type: ignore[misc]
            self.mean(name, total, count)  # type: ignore[has-type]
        self._totals.update(state["totals"])  # type: ignore[arg-type]
        self._latest.update(state["latest"])  # type: ignore[arg-type]


def count_batch(
    sums: MetricSums,
    facts_BK: torch.Tensor,
    accuracy_B: torch.Tensor,
    advantages_B: torch.Tensor,
    *,
    group_size: int,
    length: float,
    guidance_trained: bool,
) -> int:
    """Add one training batch of all ranks to the metrics; returns the tokens it generated.

    Args:
        sums: where to add.
        facts_BK: `rollout.FACTS` of each rollout.
        accuracy_B: the accuracy reward; NaN = not graded.
        advantages_B: what goes into the loss.
        group_size: G.
        length: the guidance length that the controller asked for.
        guidance_trained: whether guidance tokens have weight in the loss.
    """
    fact = {name: facts_BK[:, place] for place, name in enumerate(FACTS)}
    total = {name: int(fact[name].sum()) for name in FACTS if name not in ("problem", "tier", "stage")}
    rollouts, guided_B, graded_B = len(accuracy_B), fact["guidance_tokens"] > 0, ~accuracy_B.isnan()
    guidance, generated, spent = total["guidance_tokens"], total["generated_tokens"], total["spent_tokens"]
    guided = int(guided_B.sum())
    for name, arm_B in (("accuracy", graded_B), ("guided", guided_B), ("unguided", ~guided_B)):
        rows_B = arm_B & graded_B
        sums.mean(f"reward/{name}", float(accuracy_B[rows_B].sum()), int(rows_B.sum()))
    for name, arm_B in (("guided", guided_B), ("unguided", ~guided_B)):
        sums.mean(f"advantage/{name}", float(advantages_B[arm_B].sum()), int(arm_B.sum()))
    sums.mean("advantage/std", float(advantages_B.std()), 1)
    sums.mean("signal/zero_groups", *zero_groups(advantages_B, group_size))
    sums.mean("guidance/length", length, 1)
    sums.mean("guidance/given", guidance, guided)
    sums.mean("guidance/ratio", guided, rollouts)
    sums.total("guidance/tokens", guidance)
    sums.mean("guidance/missing", total["due"] - guided, total["due"])
    sums.mean("guidance/clipped", total["clipped"], guided)
    sums.mean("guidance/leaked", total["leaked"], guided)
    sums.total("tokens/generated", spent)
    sums.total("tokens/trained", generated + (guidance if guidance_trained else 0))
    sums.mean("completions/generated_length", generated, rollouts)
    sums.mean("completions/truncated", total["truncated"], rollouts)
    return spent


def count_first_sampling(
    sums: MetricSums,
    accuracy_B: torch.Tensor,
    difficult: Sequence[int],
    unguided_G: Sequence[bool],
) -> int:
    """Add what the first sampling of a batch says of its problems; returns how many groups were graded at all.

    Args:
        sums: where to add.
        accuracy_B: the accuracy reward before any rescue; NaN = not graded.
        difficult: numbers of the difficult groups.
        unguided_G: places in a group that the first sampling does not guide.
    """
    rewards_PG = accuracy_B.view(-1, len(unguided_G))
    alone = rewards_PG[:, [place for place, unguided in enumerate(unguided_G) if unguided]]
    graded = int((~rewards_PG.isnan()).any(dim=1).sum())
    sums.mean("reward/first", float(alone.nansum()), int((~alone.isnan()).sum()))
    sums.mean("signal/difficult", len(difficult), graded)
    return graded


def count_rescue(sums: MetricSums, rescued: Rescued, *, groups: int, attempts: int) -> None:
    """Add what the ladder did for a batch of so many graded groups; `attempts` is the most that a group can make."""
    climbs = rescued.climbs.values()
    for name, count in outcomes(climbs, attempts).items():
        sums.mean(f"rescue/{name}", count, groups)
    omegas = [climb.omega for climb in climbs if climb.rescued]
    sums.mean("rescue/omega", sum(omegas), len(omegas))
    sums.total("rescue/calls", rescued.calls)
    sums.total("rescue/rows", rescued.rows)
    sums.total("rescue/tokens", rescued.tokens)


def count_transition(sums: MetricSums, before: bool | None, now: bool) -> None:
    """Add one problem of the batch: whether it was difficult when last seen (None = new), and whether it is."""
    sums.total("problems/difficult_to_solved", float(before is True and not now))
    sums.total("problems/solved_to_difficult", float(before is False and now))


class RunningVariance:
    """Mean and variance of a series, from its moments (Welford)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """One more value; NaN and infinities are left out."""
        if math.isfinite(value):
            self.count += 1
            step = value - self.mean
            self.mean += step / self.count
            self.squares += step * (value - self.mean)

    @property
    def variance(self) -> float:
        """With n − 1; 0.0 below two values."""
        return self.squares / (self.count - 1) if self.count > 1 else 0.0

    def state_dict(self) -> list[float]:
        """JSON-able."""
        return [self.count, self.mean, self.squares]

    def load_state_dict(self, state: Sequence[float]) -> None:
        """The inverse of `state_dict`."""
        self.count, self.mean, self.squares = int(state[0]), float(state[1]), float(state[2])


@contextmanager
def not_logged(metrics: dict[str, list[float]], pending: dict[str, list[float]]) -> Iterator[None]:
    """What is added meanwhile to TRL's metrics, and to those of reward functions that it takes later, goes again."""
    lengths = {name: len(values) for name, values in metrics.items()}
    before = {name: list(values) for name, values in pending.items()}
    yield
    for name, values in metrics.items():
        del values[lengths.get(name, 0) :]
    pending.clear()
    pending.update(before)


def plain_number(value: Any) -> Any:
    """The value, or None for the numbers that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
