"""Tables of `guided-grpo eval`, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]


def figures_table(figures: Figures, name: str = "") -> str:
    """Accuracy by tier, then pass@k, majority vote and what it cost."""
    samples = figures["samples"]
    lines = [name] if name else []
    lines.append(f"{'tier':>20} {'problems':>9} {f'avg@{samples}':>9}   95 % interval")
    for tier, part in [*figures["tiers"].items(), ("all", figures)]:
        if tier != "all" or part is figures:
            lines.append(_row(tier, part["problems"], part["accuracy"], part["interval"]))
    more = {f"pass@{k}": part for k, part in figures["pass"].items() if k != "1"}
    if figures["majority"] and samples > 1:
        more[f"maj@{samples}"] = figures["majority"]
    for label, part in more.items():
        lines.append(_row(label, part["problems"], part["mean"], part["interval"]))
    verdicts = ", ".join(f"{count} {status}" for status, count in figures["verdicts"].items())
    lines.append(f"{verdicts}; {figures['ungraded']} ungraded; {figures['truncated']:.1%} truncated")
    lines.append(f"{figures['tokens']} tokens in {figures['seconds']:.1f} s")
    if figures["skipped"]:
        lines.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in figures["skipped"].items()))
    return "\n".join(lines)


def comparison_table(differences: Figures) -> str:
    """Differences second − first, set by set."""
    lines = [f"{differences['second']} − {differences['first']}, paired over problems"]
    for name, figures in differences["sets"].items():
        samples = figures["samples"]
        lines.append(f"\n{name}: {figures['accuracy']['problems']} problems, {samples} samples each")
        lines.append(f"{'':>20} {'first':>8} {'second':>8} {'difference':>11}   95 % interval       p (paired t)")
        rows = {f"avg@{samples}": figures["accuracy"]}
        rows |= {f"pass@{k}": each for k, each in figures["pass"].items() if k != "1"}
        rows |= {f"maj@{samples}": figures["majority"]} if figures["majority"] and samples > 1 else {}
        if len(figures["tiers"]) > 1:
            rows |= {f"avg, {tier}": each["accuracy"] for tier, each in figures["tiers"].items()}
        for label, each in rows.items():
            low, high = each["interval"]
            lines.append(
                f"{label:>20} {each['first']:>8.1%} {each['second']:>8.1%} {each['mean']:>+11.1%}   "
                f"{f'[{low:+.1%}, {high:+.1%}]':<18}  {each['p_value']:.2g}"
            )
        if figures["left_out"]:
            lines.append(f"left out: {figures['left_out']} problems without a grade for one of the two")
    return "\n".join(lines)


def _row(label: str, problems: int, mean: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{label:>20} {problems:>9} {mean:>9.1%}   [{low:.1%}, {high:.1%}]"
