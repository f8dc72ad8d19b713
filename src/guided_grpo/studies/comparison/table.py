"""A comparison's summary, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guided_grpo.studies.comparison.measured import ALL, SEEDS

UNKNOWN = "–"
_BUDGETS = {
    "max_flops": "{:.3g} FLOPs",
    "max_generated_tokens": "{:,} tokens",
    "max_train_seconds": "{:,g} s",
    "max_steps": "{:,} steps",
    "num_train_epochs": "{:g} epochs",
}


def table(summary: Mapping[str, Any]) -> str:
    """What summary.json of a comparison says: results and cost, differences to the baseline, tokens to accuracies."""
    lines = [*_results(summary["variants"]), *_differences(summary), *_reaches(summary), *_searches(summary)]
    lines += [f"failed: {run['run']}: {run['error']}" for run in summary["runs"] if "error" in run]
    lines += [f"{run['run']}: {', '.join(run['warnings'])}" for run in summary["runs"] if run.get("warnings")]
    if "report" in summary:
        lines.append(f"report: {summary['report']}")
    return "\n".join(lines)


def _results(variants: Mapping[str, Any]) -> Iterator[str]:
    titles = f"{'method':<20} {'before':>8} {'after':>8}  {'95 % interval':<18} {'no signal':>9} {'grad variance':>13}"
    costs = f"{'FLOPs':>9} {'tokens':>10} {'rescue':>7} {'of traces':>10} {'seconds':>8}"
    yield f"{titles}  {'budget':<16} {costs}  seeds"
    for name, entry in variants.items():
        cost = {key: part["mean"] for key, part in entry.items() if isinstance(part, dict) and "mean" in part}
        tokens, rescued = cost["tokens_generated"], cost["rescue_tokens"]
        rescue = None if not tokens or rescued is None else rescued / tokens
        before, after = entry["before"], entry["after"]
        yield (
            f"{name:<20} {_accuracy(before):>8} {_accuracy(after):>8}  {_interval(after):<18} "
            f"{_form(cost['zero_groups'], '.0%'):>9} {_form(cost['grad_norm_variance'], '.3g'):>13}  "
            f"{_budget(entry['budget']):<16} {_form(cost['flops'], '.2e'):>9} {_form(tokens, ',.0f'):>10} "
            f"{_form(rescue, '.0%'):>7} {_form(cost['trace_tokens'], ',.0f'):>10} "
            f"{_form(cost['train_seconds'], ',.0f'):>8}  {len(entry['seeds'])}"
        )


def _budget(budget: Mapping[str, float] | None) -> str:
    """The first that is set: it is what a run ends on, while steps are often more than it leaves room for."""
    spent = budget or {}
    return next((form.format(spent[name]) for name, form in _BUDGETS.items() if name in spent), UNKNOWN)


def _differences(summary: Mapping[str, Any]) -> Iterator[str]:
    """By variant and tier, beside the baseline. Nothing where there is nothing to compare and no tier."""
    variants, baseline = summary["variants"], summary["baseline"]
    tiers = list(dict.fromkeys(tier for entry in variants.values() for tier in (entry["after"] or {}).get("tiers", {})))
    if not tiers and len(variants) < 2:
        return
    width = max(map(len, (ALL, "tier", *tiers)))
    titles = f" {'tier':<{width}} {'before':>8} {'after':>8}  {'95 % interval':<18}" if tiers else ""
    yield ""
    yield f"{'against ' + baseline:<20}{titles} {'difference':>10}  {'95 % interval':<20} {'p':>7}  over"
    for name, entry in variants.items():
        for tier in (ALL, *tiers):
            before, after, change = (_part(entry[key], tier) for key in ("before", "after", "difference"))
            line = f"{name:<20}"
            if tiers:  # else the first table says it
                line += f" {tier:<{width}} {_accuracy(before):>8} {_accuracy(after):>8}  {_interval(after):<18}"
            if change is not None:
                p_value = "<0.0001" if change["p_value"] < 1e-4 else f"{change['p_value']:.4f}"
                line += (
                    f" {change['accuracy']:>+10.1%}  {_interval(change, sign='+'):<20} {p_value:>7}  "
                    f"{len(change['seeds']) if change['over'] == 'seeds' else change['problems']} {change['over']}"
                )
            elif name != baseline:
                line += f" {UNKNOWN:>10}"
            if tiers or name != baseline:
                yield line.rstrip()


def _reaches(summary: Mapping[str, Any]) -> Iterator[str]:
    target = "" if summary["target"] == ALL else f" on {summary['target']}"
    lines = []
    for name, entry in summary["variants"].items():
        for other, reach in entry["reaches"].items():
            what = f"{name} reaches {other}'s {reach['accuracy']:.1%}{target}"
            if reach["tokens"] is None:
                lines.append(f"{name} does not reach {other}'s {reach['accuracy']:.1%}{target}{_seeds(reach)}")
                continue
            share = UNKNOWN if reach["share"] is None else f"{reach['share']:.2f}"
            spent = _form(reach["of"], ",.0f")
            lines.append(f"{what} with {reach['tokens']:,.0f} of its {spent} tokens ({share}){_seeds(reach)}")
    if lines:
        yield ""
        yield from lines


def _searches(summary: Mapping[str, Any]) -> Iterator[str]:
    """What each variant's search found, the best first."""
    if summary.get("search"):
        yield ""
    for name, entry in (summary.get("search") or {}).items():
        candidates = [candidate for candidate in entry["candidates"] if candidate["accuracy"] is not None]
        ordered = sorted(candidates, key=lambda candidate: -candidate["accuracy"])
        found = [f"{_values(candidate['values'])} {candidate['accuracy']:.1%}" for candidate in ordered]
        lost = len(entry["candidates"]) - len(candidates)
        where = f"seed {entry['seed']}, {entry['share']:g} of the budget, {entry['data']}"
        yield f"{name} searched: {'; '.join(found) or UNKNOWN}{f'; {lost} failed' if lost else ''} ({where})"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _seeds(reach: Mapping[str, Any]) -> str:
    if "interval" in reach:
        low, high = reach["interval"]
        return f"; 95 % interval over seeds {max(0.0, low):,.0f} to {high:,.0f}"
    count = sum(tokens is not None for tokens in reach["by_seed"])
    return f"; {count} of {len(reach['by_seed'])} seeds do" if len(reach["by_seed"]) >= SEEDS else ""


def _part(entry: Mapping[str, Any] | None, tier: str) -> Any:
    return entry if entry is None or tier == ALL else entry["tiers"][tier]


def _accuracy(entry: Mapping[str, Any] | None) -> str:
    return UNKNOWN if entry is None else f"{entry['accuracy']:.1%}"


def _interval(entry: Mapping[str, Any] | None, sign: str = "") -> str:
    if entry is None:
        return UNKNOWN
    low, high = entry["interval"]
    return f"[{low:{sign}.1%}, {high:{sign}.1%}]"


def _form(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else f"{value:{form}}"
