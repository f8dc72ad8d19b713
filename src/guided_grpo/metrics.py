"""Names of the metrics, and their reduction from sums and counts (never means of means).

Every step, in metrics.jsonl and in the tracker, beside TRL's own:

    reward/accuracy  reward/guided  reward/unguided    mean accuracy reward, of all rollouts and of each arm
    advantage/std  advantage/guided  advantage/unguided
    signal/zero_groups                                 share of groups whose advantages are all 0
    guidance/length                                    what the controller asks for, in guidance_unit
    guidance/given                                     mean tokens that guided rollouts got
    guidance/ratio                                     share of rollouts that got guidance
    guidance/tokens                                    guidance tokens of the step
    guidance/missing                                   share of rollouts to be guided whose problem has no trace
    guidance/clipped  guidance/leaked                  share of guided rollouts cut at, or past, the stated answer
    tokens/generated  tokens/trained                   of the step; trained = tokens with weight in the loss
    tokens/generated_total                             since the start of the run
    completions/generated_length  completions/truncated
    time/generate  time/reward                         seconds, summed over the step, this rank
"""

from __future__ import annotations

from collections import defaultdict


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
