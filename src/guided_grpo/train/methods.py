"""Methods are named points in the space of axes: trigger, strength, slice, allocation, placement, credit, order.
One flat dict, values only.

A field that the user sets wins over the preset. Lengths default to the papers' (ℓ0 = 3072 tokens). Where a config file
was written for one method and the command line names another, `foreign` says which of the file's fields give way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from guided_grpo.train.rescue import STAGES

DEFAULTS: Final[dict[str, Any]] = {
    "guidance_trigger": "always",  # always | rescue (groups that failed) | both
    "guidance_strength": "none",  # guidance/strength.py; none = no guidance but the ladder's, whatever other fields say
    "guidance_unit": "tokens",  # guidance/slicing.py: tokens | ratio | steps | ratio-steps | chars | ratio-chars
    "guidance_length": 3072.0,  # ℓ0 in guidance_unit
    "guidance_min": None,  # lower clamp of the controllers; None = 1 token, step or character, or 0.01 of the trace
    "guidance_max": None,  # upper clamp of the controllers; None = none
    "guidance_final": 0.0,  # final length of rdp
    "guidance_power": 2.0,  # β of concave
    "guidance_decay": 0.5,  # γ of stepwise
    "guidance_interval": 10,  # s of stepwise, optimizer steps
    "guidance_history": 2,  # T of ratio, generation batches
    "guidance_target": 0.5,  # guided success that setpoint and left hold
    "guidance_gain": 0.5,  # η of setpoint and left
    "guidance_ratio": 0.25,  # α
    "guidance_allocation": "first",  # first | spread
    "guidance_placement": "prefix",  # prefix | hint
    "guidance_weight": 1.0,  # w_g, weight of guidance tokens in the loss
    "guidance_credit": "signed",  # advantage.py: signed | positive | unguided
    "advantage_baseline": "group",  # group | arm
    "curriculum": "none",  # none | random | difficulty | tiers | success | adaptive
    "rescue_strength": None,  # rescue.py: stages | memory | controller; None = controller if there is one, or stages
    "rescue_stages": None,  # increasing; None = .25 .5 .75 of the trace, or 1 × the controller's length
    "rescue_slice": "chars",  # what a share of the trace is of: chars | tokens | steps
    "rescue_cold_start": 20,  # optimizer steps before the first rescue
    "rescue_cold_format": None,  # mean format reward that ends the cold start in place of the steps; None = steps
    "rescue_target": 0.5,  # p* of memory
    "rescue_gain": 0.5,  # η of memory
}

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


def foreign(fields: Mapping[str, Any], method: str) -> tuple[str, ...]:
    """Fields of a config that was written for another method and that `method` has values of its own for.

    Those are the guidance fields that its preset sets, and all lengths where it counts in another unit: 3072 tokens of
    `g2rpo-a` are no share of a trace for `auto`. Nothing where the config names no method, or this one.
    """
    theirs = fields.get("method")
    if theirs in (None, method) or method not in METHODS:
        return ()
    preset, other = METHODS[method], {**DEFAULTS, **METHODS.get(str(theirs), {}), **fields}
    own = {name for name in preset if name.startswith("guidance_")}
    if preset.get("guidance_unit", other["guidance_unit"]) != other["guidance_unit"]:
        own.update(_LENGTHS)
    return tuple(name for name in fields if name in own)


def resolve(method: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """All axis values of `method`; an override that is not None wins. Raises `KeyError` for an unknown method."""
    chosen = {key: value for key, value in overrides.items() if value is not None}
    values = {**DEFAULTS, **METHODS[method], **chosen}
    if values["guidance_min"] is None:  # never 0: a length that is multiplied would stay there
        values["guidance_min"] = 0.01 if str(values["guidance_unit"]).startswith("ratio") else 1.0
    if values["rescue_strength"] is None:
        adaptive = values["guidance_trigger"] == "rescue" and values["guidance_strength"] != "none"
        values["rescue_strength"] = "controller" if adaptive else "stages"
    if values["rescue_stages"] is None:
        values["rescue_stages"] = [1.0] if values["rescue_strength"] == "controller" else list(STAGES)
    return values
