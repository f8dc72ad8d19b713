"""Names of the metrics, and their reduction from sums and counts (never means of means).

Every step, in metrics.jsonl and in the tracker, beside TRL's own:

    reward/accuracy  reward/guided  reward/unguided    mean accuracy reward, of all rollouts and of each arm
    advantage/std  advantage/guided  advantage/unguided
    signal/zero_groups                                 share of groups whose advantages are all 0
    guidance/length                                    what the controller asks for, in guidance_unit
    guidance/given                                     mean tokens that guided rollouts got
    guidance/ratio                                     share of rollouts that got guidance
    guidance/tokens                                    guidance tokens of the step
    guidance/missing                                   share of rollouts to be guided that got nothing (no trace)
    guidance/clipped  guidance/leaked                  share of guided rollouts cut at, or past, the stated answer
    tokens/generated  tokens/trained                   of the step; trained = tokens with weight in the loss
    tokens/generated_total                             since the start of the run
    completions/generated_length  completions/truncated
    time/generate  time/reward                         seconds, summed over the step, this rank
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from guided_grpo.advantage import zero_groups

if TYPE_CHECKING:
    import torch


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
    asked: float,
    guidance_trained: bool,
) -> int:
    """Add one training batch of all ranks to the metrics; returns the tokens it generated.

    Args:
        sums: where to add.
        facts_BK: `rollout.FACTS` of each rollout.
        accuracy_B: the accuracy reward; NaN = not graded.
        advantages_B: what goes into the loss.
        group_size: G.
        asked: the guidance length that the controller asked for.
        guidance_trained: whether guidance tokens have weight in the loss.
    """
    rollouts, guided_B, graded_B = len(accuracy_B), facts_BK[:, 1] > 0, ~accuracy_B.isnan()
    wanted, given, generated, clipped, leaked, truncated = (int(total) for total in facts_BK.sum(dim=0).tolist())
    guided = int(guided_B.sum())
    for name, chosen_B in (("accuracy", graded_B), ("guided", guided_B), ("unguided", ~guided_B)):
        kept_B = chosen_B & graded_B
        sums.mean(f"reward/{name}", float(accuracy_B[kept_B].sum()), int(kept_B.sum()))
    for name, chosen_B in (("guided", guided_B), ("unguided", ~guided_B)):
        sums.mean(f"advantage/{name}", float(advantages_B[chosen_B].sum()), int(chosen_B.sum()))
    sums.mean("advantage/std", float(advantages_B.std()), 1)
    sums.mean("signal/zero_groups", *zero_groups(advantages_B, group_size))
    sums.mean("guidance/length", asked, 1)
    sums.mean("guidance/given", given, guided)
    sums.mean("guidance/ratio", guided, rollouts)
    sums.total("guidance/tokens", given)
    sums.mean("guidance/missing", wanted - guided, wanted)
    sums.mean("guidance/clipped", clipped, guided)
    sums.mean("guidance/leaked", leaked, guided)
    sums.total("tokens/generated", generated)
    sums.total("tokens/trained", generated + (given if guidance_trained else 0))
    sums.mean("completions/generated_length", generated, rollouts)
    sums.mean("completions/truncated", truncated, rollouts)
    return generated


def plain_number(value: Any) -> Any:
    """The value, or None for the numbers that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
