"""Which embedded policies there are, and how each is made.

A policy is a size and a domain. Its recipe is tuned to one end: it knows the rule of its domain and is unreliable, so
that it solves short problems now and then, and 1–5 % of the hard tier (10–14 steps) at temperature 1.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guided_grpo.data.domains import chains, programs
from guided_grpo.errors import InputError
from guided_grpo.types import Row

EMBEDDED = "embedded"
SHIPPED = Path(__file__).parent / "weights"  # a checkpoint folder for every policy
RECIPE, LOSSES = "recipe.json", "losses.json"  # in that folder, beside the weights


@dataclass(frozen=True)
class Domain:
    """What a policy is pre-trained on: its characters, a demonstrator (steps, rng, noise) → row, and the response."""

    alphabet: str
    demonstrate: Callable[[int, random.Random, float], Row]
    solution: Callable[[Row], str]


DOMAINS = {
    "chains": Domain(chains.ALPHABET, chains.chain, chains.solution),
    "programs": Domain(programs.ALPHABET, programs.program, programs.solution),
}


@dataclass(frozen=True)
class Phase:
    """`steps` batches of demonstrations with `low`–`high` steps, each step wrong with probability `noise`."""

    steps: int
    low: int
    high: int
    noise: float


@dataclass(frozen=True)
class BaseRecipe:
    """How a base policy is made."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 384
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0
    phases: tuple[Phase, ...] = (Phase(300, 3, 7, 0.2), Phase(100, 3, 12, 0.2), Phase(90, 3, 14, 0.45))
    domain: str = "chains"  # a name in DOMAINS

    def to_json(self) -> dict[str, Any]:
        """As recipe.json holds it."""
        return dict(json.loads(json.dumps(asdict(self))))


POLICIES = {
    EMBEDDED: BaseRecipe(),
    "embedded-small": BaseRecipe(
        hidden_size=96,
        layers=2,
        intermediate_size=256,
        batch_size=64,
        learning_rate=3e-3,
        phases=(
            *(Phase(900, 3, 6, 0.1), Phase(100, 3, 8, 0.1), Phase(100, 3, 10, 0.1)),
            *(Phase(150, 3, 14, 0.1), Phase(80, 3, 14, 0.3)),
        ),
    ),
    # Lengths grow in small steps: one that has seen programs of 2–5 lines for long does not find its place in longer
    # ones.
    "embedded-code": BaseRecipe(
        batch_size=64,
        learning_rate=1.5e-3,
        phases=(
            *(Phase(150, 2, 5, 0.1), Phase(100, 2, 7, 0.1), Phase(100, 3, 10, 0.1)),
            *(Phase(150, 3, 14, 0.1), Phase(80, 3, 14, 0.2)),
        ),
        domain="programs",
    ),
}


def embedded_folder(model: str, *, field: str = "model") -> Path | None:
    """The checkpoint folder of the embedded policy `model`; None where it is a hub id or another folder.

    Args:
        model: as the user named it.
        field: where it stood, for the message.

    Raises InputError for an id that begins like an embedded policy, and is none.
    """
    if model in POLICIES:
        return SHIPPED / model
    if model.startswith(f"{EMBEDDED}-") and not Path(model).exists():
        raise InputError("is no embedded policy", field=field, value=model, fix=f"choose from {', '.join(POLICIES)}")
    return None
