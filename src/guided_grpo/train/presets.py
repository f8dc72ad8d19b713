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
from guided_grpo.train.dynamic import DynamicSettings
from guided_grpo.train.failures import FailureSettings
from guided_grpo.train.imitation import ImitationSettings
from guided_grpo.train.rescue import LadderSettings
from guided_grpo.train.turns import TurnSettings


@dataclass
class Axes(
    DynamicSettings,
    CurriculumSettings,
    FailureSettings,
    TurnSettings,
    LadderSettings,
    ImitationSettings,
    CreditSettings,
    PlacementSettings,
    AllocationSettings,
    StrengthSettings,
):
    """The space: each axis is stated next to the rule that reads it. A method is a point in it."""


DEFAULTS: Final[dict[str, Any]] = {axis.name: axis.default for axis in describe(Axes)}


@dataclass(frozen=True)
class Method:
    """A named point: the values in which it differs from `DEFAULTS`, what it does, and where it is from."""

    values: Mapping[str, Any]
    text: str  # what guidance does over time, in one sentence
    source: str
    taught_first: bool = False  # `train` fine-tunes on the traces before it, until unguided accuracy falls


# Plain GRPO; then the groups that failed again, whole, with a hint that is never in the loss.
_GHPO: Final[dict[str, Any]] = {
    "guidance_trigger": "rescue",
    "guidance_placement": "hint",
    "guidance_ratio": 1.0,
    "guidance_weight": 0.0,
}
# Neither ℓ0 nor α is the user's to choose: guidance is a share, and every rollout gets it.
_AUTO: Final[dict[str, Any]] = {
    "guidance_strength": "left",
    "guidance_unit": "ratio",
    "guidance_length": 0.9,
    "guidance_ratio": 1.0,
    "guidance_target": 0.8,
    "guidance_credit": "positive",
}
_OFFICIAL: Final[dict[str, Any]] = {
    "guidance_strength": "ratio-official",
    "guidance_max": 3072.0,
    "curriculum": "difficulty",
}


def _strength(name: str, **more: Any) -> dict[str, Any]:
    return {"guidance_strength": name, **more}


METHODS: Final[dict[str, Method]] = {
    "grpo": Method({}, "no guidance; with forward: plain equal to TRL's to the bit", "TRL"),
    "naive": Method(
        _strength("constant", guidance_ratio=1.0), "one length in front of every rollout", "G²RPO-A §4.1, Figs. 1, 5"
    ),
    "fixed": Method(_strength("constant"), "one length in front of α·G rollouts", "G²RPO-A Eq. 3, Table 1"),
    "linear": Method(_strength("linear"), "a length that falls to nothing", "G²RPO-A Eq. 4, Table 2"),
    "concave": Method(_strength("concave"), "the same, faster at first", "G²RPO-A Eq. 4, Table 2"),
    "stepwise": Method(_strength("stepwise"), "a length that falls in steps", "G²RPO-A Eq. 4, Table 2"),
    "rdp": Method(_strength("rdp"), "a length that falls to a final one", "G²RPO-A Tables 10–11"),
    "g2rpo-a": Method(
        _strength("ratio", curriculum="difficulty"),
        "shorter when rewards rise, on every batch; easy problems first",
        "G²RPO-A Eq. 5 (with its erratum), §4.3, Table 6",
    ),
    "g2rpo-a-official": Method(
        _OFFICIAL, "the same on every third batch, in whole tokens from 1 to 3072", "G²RPO-A's code"
    ),
    "ghpo": Method(
        _GHPO,
        "none for 20 steps; then groups without a success again with 25, 50, 75 % of the solution as a hint",
        "GHPO §3.3–3.5",
    ),
    "ghpo-continuous": Method(
        {**_GHPO, "rescue_strength": "memory"},
        "the same; every problem remembers how long a hint it needs, and starts there",
        "GHPO's open question",
    ),
    "auto": Method(
        {
            **_AUTO,
            "guidance_credit": "signed",
            "guidance_loss": "likelihood",
            "imitation_mean": "joint",
            "imitation_gate": "rate",
            "imitation_tokens": "p",
        },
        "fine-tuning on the traces while held-out accuracy rises, each token as much as the policy believes it (in a "
        "foreign form at first all alike); rounds on what the policy makes of problems without a whole right trace; "
        "then auto-guide, with each trace imitated in the same way, as much as its group succeeds",
        "ours, from what was measured",
        taught_first=True,
    ),
    "auto-guide": Method(
        _AUTO,
        "the end of every problem is left to the policy, as much as four in five rollouts finish; a trace is imitated "
        "where it led to success, and never pushed down",
        "ours, from what was measured",
    ),
    "uft": Method(
        _strength(
            "binomial-cosine",
            guidance_unit="ratio-steps",
            guidance_length=0.95,
            guidance_final=0.05,
            guidance_ratio=1.0,
            guidance_loss="likelihood",
            imitation_weight=0.001,
        ),
        "so many of five segments in front of a whole group, drawn anew, fewer over time, none at last; the hint by "
        "likelihood at .001",
        "UFT, arXiv 2505.16984 (its code)",
    ),
    "prefix-rft": Method(
        _strength(
            "uniform",
            guidance_unit="ratio",
            guidance_length=0.95,
            guidance_final=0.05,
            guidance_ratio=0.125,
            guidance_loss="top-entropy",
        ),
        "one rollout in eight behind a share drawn between a falling bound and 95 %; of the prefix the fifth with the "
        "highest entropy is trained; with scale_rewards: none, loss_type: dr_grpo",
        "Prefix-RFT, arXiv 2507.01679",
    ),
    "adaback": Method(
        _strength("bisect", guidance_unit="ratio", guidance_length=0.98, guidance_ratio=1.0, guidance_weight=0.0),
        "a share drawn between bounds that each problem's success moves; masked",
        "AdaBack, arXiv 2506.18110",
    ),
    "adaprefix": Method(
        _strength(
            "withdraw",
            guidance_unit="ratio",
            guidance_length=0.5,
            guidance_gain=0.2,
            guidance_ratio=1.0,
            guidance_weight=0.0,
        ),
        "each problem's share follows its success to one half, and is withdrawn in the last third; masked",
        "AdaPrefix-GRPO, arXiv 2607.07674 (abstract; reconstructed)",
    ),
    "prefixrl": Method(
        _strength(
            "random-cut",
            guidance_unit="ratio",
            guidance_length=0.8,
            guidance_final=0.4,
            guidance_ratio=1.0,
            guidance_weight=0.0,
        ),
        "three cuts of each trace between 40 and 80 %, drawn once, and a quarter of the groups plain; masked",
        "PrefixRL, arXiv 2601.18795 (abstract); its traces are the policy's own",
    ),
    "r3": Method(
        _strength(
            "random-cut",
            guidance_unit="ratio-steps",
            guidance_length=1.0,
            guidance_cuts=0,
            guidance_plain=0.0,
            guidance_ratio=1.0,
            guidance_weight=0.0,
        ),
        "a cut at any step, drawn anew; masked",
        "R3, arXiv 2402.05808, and UFT's code",
    ),
    "questa": Method(
        _strength(
            "steps",
            guidance_unit="ratio-chars",
            guidance_length=0.5,
            guidance_placement="hint",
            guidance_ratio=1.0,
            guidance_weight=0.0,
        ),
        "half of the solution as a hint, a quarter after 100 steps; with scale_rewards: none",
        "QuestA, arXiv 2507.13266 (its code)",
    ),
    "luffy": Method(
        {"guidance_rows": 1, "guidance_loss": "shaped"},
        "the whole trace is one rollout of the group, its tokens weighed by π/(π + 0.1); "
        "with scale_rewards: none, loss_type: dr_grpo",
        "LUFFY, arXiv 2504.14945 (its script)",
    ),
    "stephint": Method(
        _strength(
            "constant",
            guidance_unit="ratio-steps",
            guidance_length=0.875,
            guidance_ratio=7 / 12,
            guidance_allocation="spread",
            guidance_credit="positive",
            guidance_rows=1,
        ),
        "of twelve rollouts one is the trace, six begin with 1/8 to 6/8 of its steps, five are plain; a trace is not "
        "pushed down where it failed",
        "StepHint, arXiv 2507.02841 (abstract); it has 1/4, 2/4, 3/4 twice each",
    ),
    "hpt": Method(
        {"guidance_rows": 1, "guidance_loss": "likelihood", "imitation_gate": "failure"},
        "groups without a success imitate the whole trace, the others reinforce; "
        "with scale_rewards: none, loss_type: dr_grpo",
        "HPT, arXiv 2509.04419 (its code)",
    ),
    "chord": Method(
        {
            "guidance_rows": 1,
            "guidance_loss": "likelihood",
            "imitation_tokens": "p(1-p)",
            "imitation_weight": 1 / 9,  # μ/(1 − μ), μ = 0.1
        },
        "plain GRPO, and likelihood of each problem's whole trace, tokens weighed by p(1 − p)",
        "CHORD-φ, arXiv 2508.11408; its traces are a stream of their own",
    ),
    "relift": Method(
        {"guidance_loss": "likelihood", "failure_buffer": 128},
        "plain GRPO; the traces of groups without a success are kept, and learned in a step of their own once there "
        "are 128; with scale_rewards: none, loss_type: dr_grpo",
        "ReLIFT, arXiv 2506.07527 (its code); one optimizer, a step of traces in the place of a batch",
    ),
    "scaf": Method(
        {**_GHPO, "rescue_rows": 1, "rescue_slice": "steps", "rescue_stages": [0.25, 0.5, 0.75, 1.0]},
        "as ghpo, but one rollout of a failed group climbs, and the others stay; all of the trace at last",
        "Scaf-GRPO, arXiv 2510.19807; its hints are of three kinds, here the solution alone",
    ),
    "nurl": Method(
        {**_GHPO, "guidance_ratio": 0.875, "rescue_stages": [1.0]},
        "none for 20 steps; then groups without a success again, all but one in eight with the whole cue as a hint",
        "NuRL, arXiv 2509.25666 (abstract); its cues are written by the policy beforehand, here they are the traces",
    ),
    "bread": Method(
        {
            **_GHPO,
            "guidance_placement": "prefix",
            "rescue_strength": "bisect",
            "rescue_slice": "steps",
            "rescue_stages": [round(0.1 * part, 1) for part in range(1, 11)],
            "rescue_cold_start": 0,
        },
        "groups without a success again, all of them behind one prefix, whose tenths are searched by halves for one "
        "that some finish and some do not; masked",
        "BREAD, arXiv 2506.17211 (abstract; range and probes are our reading)",
    ),
    "trapo": Method(
        {
            "guidance_trigger": "turns",
            "guidance_ratio": 1.0,
            "guidance_loss": "trust",
            "rescue_slice": "tokens",
            "rescue_stages": [0.2, 0.5, 1.0],
            "rescue_cold_start": 0,
        },
        "half of a group first; while too few succeed, the next ones begin with 20 %, then 50 % of the trace, and the "
        "last one is the trace; guidance by its own term; with scale_rewards: none, loss_type: dr_grpo",
        "TRAPO, arXiv 2512.17636 (thresholds of the paper, loss of its code)",
    ),
    "dapo": Method(
        {"dynamic_sampling": 10},
        "plain GRPO on groups that teach something: problems are sampled until the batch is full of them; "
        "with epsilon_high: 0.28",
        "DAPO, arXiv 2503.14476",
    ),
    "setpoint": Method(
        _strength("setpoint", curriculum="difficulty"), "holds the guided success rate at a target", "ours"
    ),
    "spread": Method(
        _strength("constant", guidance_allocation="spread"), "lengths spread over the guided rollouts", "ours"
    ),
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
    values = METHODS[str(theirs)].values if theirs in METHODS else {}
    preset, other = METHODS[method].values, {**DEFAULTS, **values, **fields}
    own = {name for name in preset if name.startswith("guidance_")}
    if preset.get("guidance_unit", other["guidance_unit"]) != other["guidance_unit"]:
        own.update(_LENGTHS)
    return own & set(fields)
