"""`guided-grpo methods`: the methods and the axes that they are points of, as docs/methods.md shows them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from guided_grpo.commands.options import OneLineParser
from guided_grpo.data.curriculum import CurriculumSettings
from guided_grpo.errors import InputError
from guided_grpo.guidance.allocation import AllocationSettings
from guided_grpo.guidance.placement import PlacementSettings
from guided_grpo.guidance.strength import StrengthSettings
from guided_grpo.settings import Setting, describe
from guided_grpo.train.advantage import CreditSettings
from guided_grpo.train.dynamic import DynamicSettings
from guided_grpo.train.failures import FailureSettings
from guided_grpo.train.imitation import ImitationSettings
from guided_grpo.train.presets import METHODS
from guided_grpo.train.rescue import LadderSettings
from guided_grpo.train.turns import TurnSettings

HEAD = """# Methods

A method is a named point in a space of axes. `--method NAME` takes its values; any axis can be set
on top. What a method does not name has the default of the axis. This page is what
`guided-grpo methods` prints.

Any method takes the ladder: `--guidance_trigger rescue` guides only groups that failed, by the
method's own length; `--guidance_trigger both` adds the ladder to what the method gives. Over a
config that was written for another method, guidance fields of the file give way where NAME has
values of its own, and a line says which.

What of `auto` is ours: the control of what is *left* of a trace, by log-integrators of batch, tier
and problem; a round that finishes traces from their beginnings; the floor under the weights of DFT;
the combination. Others came before with control per problem (AdaBack, SEELE, AdaPrefix-GRPO, SAGE),
with no push down of guidance (ADHint, StepHint), with fine-tuning weighed by probability (DFT) and
with fine-tuning on the policy's own right solutions (STaR, rejection sampling).
"""
# Axis group → the module whose rule reads it.
GROUPS: dict[str, tuple[type, str]] = {
    "Strength: how much, over time": (StrengthSettings, "guidance/strength.py"),
    "Allocation: which rollouts": (AllocationSettings, "guidance/allocation.py"),
    "Placement: where": (PlacementSettings, "guidance/placement.py"),
    "Ladder: which groups again": (LadderSettings, "train/rescue.py"),
    "Turns: a group one part after another": (TurnSettings, "train/turns.py"),
    "Credit: what it weighs": (CreditSettings, "train/advantage.py"),
    "Imitation: guidance by a term of its own": (ImitationSettings, "train/imitation.py"),
    "Failures: traces learned later": (FailureSettings, "train/failures.py"),
    "Sampling: until the batch teaches": (DynamicSettings, "train/dynamic.py"),
    "Order: which problems when": (CurriculumSettings, "data/curriculum.py"),
}
# Of the table: heading → axes.
_COLUMNS = {
    "when": ("guidance_trigger", "dynamic_sampling", "failure_buffer"),
    "how much": ("guidance_strength", "guidance_unit", "rescue_strength"),
    "α": ("guidance_ratio",),
    "traces as rollouts": ("guidance_rows",),
    "where": ("guidance_placement",),
    "weight": ("guidance_weight", "guidance_credit"),
    "trained by": ("guidance_loss", "imitation_gate", "imitation_tokens"),
    "order": ("curriculum",),
}


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Print the page, or one method."""
    parser = OneLineParser(prog="guided-grpo methods", description="The methods and their axes.")
    parser.add_argument("name", nargs="?", help="one method; default: all, and the axes")
    name = parser.parse_args(arguments).name
    if name is not None and name not in METHODS:
        raise InputError("is not a method", field="name", value=name, fix=f"choose one of {', '.join(METHODS)}")
    if as_json:
        values = {key: {"text": one.text, "source": one.source, **one.values} for key, one in METHODS.items()}
        print(json.dumps(values if name is None else values[name], indent=2, ensure_ascii=False))
    else:
        print(page() if name is None else "\n".join(_method(name)))
    return 0


def page() -> str:
    """docs/methods.md."""
    lines = [HEAD]
    lines += ["# At a glance", "", *_table(), ""]
    for name in METHODS:
        lines += [*_method(name), ""]
    lines += ["# Axes", ""]
    for title, (group, module) in GROUPS.items():
        lines += [f"## {title}", "", f"`{module}`", ""]
        for item in describe(group):
            lines += _axis(item)
        lines.append("")
    return "\n".join(lines).rstrip()


def _table() -> list[str]:
    """Methods × axes, in the words of the axes; an empty place is the default."""
    head = ["method", *_COLUMNS]
    rows = [[name, *(_place(method.values, axes) for axes in _COLUMNS.values())] for name, method in METHODS.items()]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _place(values: Mapping[str, Any], axes: Sequence[str]) -> str:
    return ", ".join(_shown(values[axis]) for axis in axes if axis in values)


def _method(name: str) -> list[str]:
    method = METHODS[name]
    values = ", ".join(f"{key}: {_shown(value)}" for key, value in method.values.items())
    return [f"## {name}", "", *_wrap(f"{method.text[0].upper()}{method.text[1:]}. From: {method.source}.", ""),
            *([""] if values else []), *_wrap(f"`{values}`" if values else "", "")]  # fmt: skip


def _axis(item: Setting) -> list[str]:
    default = "" if item.default is None or len(str(item.default)) > 40 else f"default {_shown(item.default)}"
    limits = "; ".join(part for part in (item.range, default) if part)
    return _wrap(f"- `{item.name}`{f' ({limits})' if limits else ''}: {item.meaning}", "  ")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else " ".join(str(value).split()) or '""'


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
