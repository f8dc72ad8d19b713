"""How many of the right answers of an evaluation on chains stand on a right chain.

    guided-grpo eval --model MODEL --data chains:steps=10-14,count=200,seed=999 --max-tokens 96 --output EVAL …
    python benchmarks/exact_chains.py EVAL [EVAL …]

The answer repeats the last three running values, and all three follow from the one before them: who errs early and does
the last three steps right is right one time in ten. A grader of answers cannot tell that from a solved problem.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from guided_grpo.data.domains.chains import chains, solution
from guided_grpo.evaluation.completions import read_evaluation
from guided_grpo.evaluation.stats import mean_interval


def main() -> None:
    """Print, for each evaluation, the share graded right and the share whose whole response is the solution."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluations", nargs="+", type=Path, metavar="EVAL")
    parser.add_argument("--steps", type=int, nargs=2, default=(10, 14), metavar=("LOW", "HIGH"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=999)
    options = parser.parse_args()
    rows = list(chains(options.count, *options.steps, options.seed))
    for folder in options.evaluations:
        right: list[list[float]] = [[] for _ in rows]
        whole: list[list[float]] = [[] for _ in rows]
        for record in read_evaluation(folder)[1]:
            right[record["problem"]].append(float(record["score"] or 0))
            whole[record["problem"]].append(float(record["response"] == solution(rows[record["problem"]])))
        words = []
        for name, scores in (("graded right", right), ("whole chain right", whole)):
            found = mean_interval([sum(row) / len(row) for row in scores])
            words.append(f"{name} {found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]")
        print(f"{folder}: {', '.join(words)}")


if __name__ == "__main__":
    main()
