"""Problems that are generated, with traces and exact answers: what the embedded policies learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from guided_grpo.types import Row

Generate = Callable[[int, random.Random, float], Row]  # (steps, rng, noise) → one problem


def rows_by_steps(
    name: str, generate: Generate, count: int, low: int, high: int, seed: int, noise: float
) -> Iterator[Row]:
    """`count` problems of a domain whose number of steps is uniform in [low, high]; the same for the same arguments."""
    rng = random.Random(f"{name}/{count}/{low}/{high}/{seed}/{noise}")
    for _ in range(count):
        yield generate(rng.randint(low, high), rng, noise)
