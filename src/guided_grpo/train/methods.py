"""Methods are named points in the space of axes: trigger, strength, slice, allocation, placement, credit, order.

One flat dict of the values in which a method differs from the defaults of `Axes`. Lengths default to the papers'
(ℓ0 = 3072 tokens). Where a config file was written for one method and the command line names another, `foreign` says
which of the file's fields give way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from guided_grpo.data.curriculum import CurriculumSettings
from guided_grpo.guidance.allocation import AllocationSettings
from guided_grpo.guidance.placement import PlacementSettings
from guided_grpo.guidance.strength import StrengthSettings
from guided_grpo.settings import describe
from guided_grpo.train.advantage import CreditSettings
from guided_grpo.train.rescue import LadderSettings


@dataclass
class Axes(CurriculumSettings, LadderSettings, CreditSettings, PlacementSettings, AllocationSettings, StrengthSettings):
    """The space: each axis is stated next to the rule that reads it. A method is a point in it."""


DEFAULTS: Final[dict[str, Any]] = {axis.name: axis.default for axis in describe(Axes)}

# GHPO: plain GRPO; then the groups that failed again, whole, with a hint that is never in the loss.
_GHPO: Final[dict[str, Any]] = {
    "guidance_trigger": "rescue",
    "guidance_placement": "hint",
    "guidance_ratio": 1.0,
    "guidance_weight": 0.0,
}

METHODS: Final[dict[str, dict[str, Any]]] = {
    # No guidance: TRL's GRPO, to the bit.
    "grpo": {},
    # Guidance of one length in front of every rollout (G²RPO-A §4.1, Figs. 1 and 5).
    "naive": {"guidance_strength": "constant", "guidance_ratio": 1.0},
    # One length in front of α·G rollouts (Eq. 3, Table 1).
    "fixed": {"guidance_strength": "constant"},
    # The schedules of Eq. 4 (Table 2) and the rule-based decay of Tables 10–11.
    "linear": {"guidance_strength": "linear"},
    "concave": {"guidance_strength": "concave"},
    "stepwise": {"guidance_strength": "stepwise"},
    "rdp": {"guidance_strength": "rdp"},
    # Eq. 5 on every generation batch, easy problems first (§4.3, Table 6).
    "g2rpo-a": {"guidance_strength": "ratio", "curriculum": "difficulty"},
    # Eq. 5 as the official code runs it: every third batch, whole tokens, clamped to [1, 3072].
    "g2rpo-a-official": {
        "guidance_strength": "ratio-official",
        "guidance_max": 3072.0,
        "curriculum": "difficulty",
    },
    # The rescue ladder of GHPO: 25, 50, 75 % of the solution's characters, after 20 steps of plain GRPO (§3.3–3.5).
    "ghpo": _GHPO,
    # Its open question: every problem remembers how long a hint it needs, and starts there.
    "ghpo-continuous": {**_GHPO, "rescue_strength": "memory"},
    # Ours, chosen by what was measured (docs/results.md): the end of every problem is left to the policy, as much of it
    # as four in five rollouts finish; a trace is imitated where it led to success, and never pushed down. In shares, so
    # that neither ℓ0 nor α is the user's to choose.
    "auto": {
        "guidance_strength": "left",
        "guidance_unit": "ratio",
        "guidance_length": 0.9,
        "guidance_ratio": 1.0,
        "guidance_target": 0.8,
        "guidance_credit": "positive",
    },
    # Not in the papers: the same allocation, with the guided success rate held at a target.
    "setpoint": {"guidance_strength": "setpoint", "curriculum": "difficulty"},
    # Not in the papers: lengths spread over the guided rollouts of a group.
    "spread": {"guidance_strength": "constant", "guidance_allocation": "spread"},
}


_LENGTHS = ("guidance_unit", "guidance_length", "guidance_min", "guidance_max", "guidance_final")


def foreign(fields: Mapping[str, Any], method: str) -> set[str]:
    """Fields of a config that was written for another method and that `method` has values of its own for.

    Those are the guidance fields that its preset sets, and all lengths where it counts in another unit: 3072 tokens of
    `g2rpo-a` are no share of a trace for `auto`. Nothing where the config names no method, or this one.
    """
    theirs = fields.get("method")
    if theirs in (None, method) or method not in METHODS:
        return set()
    preset, other = METHODS[method], {**DEFAULTS, **METHODS.get(str(theirs), {}), **fields}
    own = {name for name in preset if name.startswith("guidance_")}
    if preset.get("guidance_unit", other["guidance_unit"]) != other["guidance_unit"]:
        own.update(_LENGTHS)
    return own & set(fields)
