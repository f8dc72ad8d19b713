"""How often the 95 % intervals hold the truth, on simulated problems.

    python benchmarks/interval_coverage.py [--trials 2000]

Each problem has a success rate of its own, drawn from a beta distribution: `spread` is α + β, so that 0.5 makes nearly
all problems easy or hopeless and 10 makes them alike. Each is sampled a few times. For differences the second model
has the rates of the first but for a tenth of the problems, which have other ones (`paired`) or are solved 90 % of the
time (`rare gains`), or other rates throughout (`unlike`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from tqdm.auto import tqdm

from guided_grpo.evaluation.stats import Interval, difference_interval, mean_interval, seeds_interval

PROBLEMS, SAMPLES = (10, 30, 100, 500), (1, 4, 16, 64)
SHARES, SPREADS = (0.02, 0.1, 0.5, 0.9, 0.98), (0.5, 2.0, 10.0)
Array = np.ndarray


def accuracies(source: np.random.Generator, shape: tuple[int, int], share: float, spread: float) -> Array:
    """True success rates, trials × problems."""
    return source.beta(share * spread, (1 - share) * spread, size=shape)


def coverage_of_means(
    interval: Callable[[list[float]], Interval], trials: int, problems: int, samples: int
) -> Iterator[float]:
    """One share of trials for each distribution of success rates."""
    for share in SHARES:
        for spread in SPREADS:
            source = np.random.default_rng([problems, samples, int(100 * share), int(10 * spread)])
            rates = accuracies(source, (trials, problems), share, spread)
            seen = (source.binomial(samples, rates) / samples).tolist()
            yield sum(found.low <= share <= found.high for found in map(interval, seen)) / trials


def coverage_of_differences(
    trials: int, problems: int, samples: int, changed: float, gain: float = 0.0
) -> Iterator[float]:
    """The same for paired differences; the second model differs on a share `changed`, or is at least `gain` there."""
    for share in SHARES[1:4]:
        for spread in SPREADS:
            source = np.random.default_rng([problems, samples, int(100 * share), int(10 * spread), int(10 * changed)])
            first = accuracies(source, (trials, problems), share, spread)
            other = np.maximum(first, gain) if gain else accuracies(source, first.shape, share, spread)
            second = np.where(source.random(first.shape) < changed, other, first)
            pairs = [(source.binomial(samples, rates) / samples).tolist() for rates in (first, second)]
            found = [difference_interval(a, b) for a, b in zip(*pairs, strict=True)]
            truth = 0.0
            if gain:
                truth = changed * (np.maximum(accuracies(source, (1, 1_000_000), share, spread), gain).mean() - share)
            yield sum(each.low <= truth <= each.high for each in found) / trials


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    rows: dict[str, Callable[[int, int], Iterator[float]]] = {
        "mean_interval": lambda n, k: coverage_of_means(mean_interval, trials, n, k),
        "plain t (not used)": lambda n, k: coverage_of_means(seeds_interval, trials, n, k),
        "difference, paired": lambda n, k: coverage_of_differences(trials, n, k, 0.1),
        "difference, rare gains": lambda n, k: coverage_of_differences(trials, n, k, 0.1, gain=0.9),
        "difference, unlike": lambda n, k: coverage_of_differences(trials, n, k, 1.0),
    }
    print(
        f"| interval | problems | samples | least | mean | most |  ({trials} trials a case)\n|---|---|---|---|---|---|"
    )
    bar = tqdm(total=len(rows) * len(PROBLEMS) * len(SAMPLES), unit="row")
    for name, measure in rows.items():
        for problems in PROBLEMS:
            for samples in SAMPLES:
                shares = list(measure(problems, samples))
                figures = (min(shares), sum(shares) / len(shares), max(shares))
                bar.write(f"| {name} | {problems} | {samples} | " + " | ".join(f"{x:.1%}" for x in figures) + " |")
                bar.update()


if __name__ == "__main__":
    main()
