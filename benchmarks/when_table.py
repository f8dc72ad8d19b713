"""Table and picture of docs/studies/when.md, from finished runs of configs/compare/when-*.yaml.

    .venv/bin/python benchmarks/when_table.py --runs runs --picture docs/studies/when.svg

By cell, the accuracy of each arm with its interval, and `auto` against the best other arm, paired on the same problems
and seeds. The best other arm is chosen by its mean, which favours it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guided_grpo.evaluation.stats import mean_interval, seeds_interval
from guided_grpo.store import rundir
from guided_grpo.studies.comparison.measured import Measured, load
from guided_grpo.studies.comparison.summary import paired

CELLS = ("today", "some", "few", "fewest", "wrong", "wrong-20", "slip", "cut", "ahead", "renamed", "merged", "answers")
OWN_GRPO = ("lengths", "skills")  # cells of another base
COLOURS = {
    "grpo": "#8c8c8c", "sft-1": "#9ecae1", "sft-2": "#6baed6", "sft": "#4c78a8", "sft+grpo": "#72b7b2",
    "auto-guide": "#f58518", "auto-nll": "#eca3a3", "sft-dft": "#1f3d66", "sft-dft-long": "#6a51a3",
    "sft-long": "#9e9ac8", "sft-blind": "#bcbddc",
    "sft-dft+grpo": "#2a7f62", "auto": "#d62728",
}  # fmt: skip
ARMS = tuple(COLOURS)
WIDTH, LEFT, ROW = 720, 110, 34
FONT = 'font-family="sans-serif" font-size="13"'


def runs_of(folder: Path) -> dict[str, list[Measured]]:
    """Finished runs by arm, in the order of their seeds."""
    arms: dict[str, list[Measured]] = {}
    for arm in ARMS:
        for run in sorted(folder.glob(f"{arm}-seed*")):
            summary = rundir.read_json(run / rundir.SUMMARY)
            if summary:
                arms.setdefault(arm, []).append(load({**summary, "run": str(run), "seed": summary["seed"]}))
    return arms


def percent(values: Sequence[float]) -> str:
    """In points."""
    return ", ".join(f"{100 * value:.1f}" for value in values)


def interval(runs: Sequence[Measured]) -> str:
    """Mean and 95 % interval, over problems or over seeds, the wider."""
    columns = list(zip(*[run.after or () for run in runs], strict=True))
    bounds = [mean_interval([sum(score or 0.0 for score in column) / len(column) for column in columns])]
    if len(runs) >= 3:
        bounds.append(seeds_interval(accuracies(runs)))
    low, high = min(one.low for one in bounds), max(one.high for one in bounds)
    return f"{100 * bounds[0].mean:.1f} [{100 * max(0.0, low):.0f}, {100 * min(1.0, high):.0f}]"


def against(baseline: Sequence[Measured], runs: Sequence[Measured]) -> dict[str, Any]:
    """The paired difference, of which both must have the same seeds and problems."""
    found = paired(baseline, runs)
    assert found is not None
    return found


def with_grpo(cells: dict[str, dict[str, list[Measured]]]) -> dict[str, dict[str, list[Measured]]]:
    """The runs of grpo in every cell of one base and budget: it reads no trace."""
    shared = cells.get("today", {}).get("grpo", [])
    return {name: {"grpo": shared, **arms} if shared and name not in OWN_GRPO else arms for name, arms in cells.items()}


def table(cells: dict[str, dict[str, list[Measured]]]) -> list[str]:
    """The rows of both tables, as Markdown."""
    arms_shown = [arm for arm in ARMS if any(arm in arms for arms in cells.values())]
    lines = ["| cell | " + " | ".join(arms_shown) + " |", "|" + "---|" * (len(arms_shown) + 1)]
    by_seed = ["", *lines]
    more = [
        "",
        "| cell | best other arm | `auto` against it | `auto` against the best sft | p |",
        "|---|---|---|---|---|",
    ]
    for name, all_arms in cells.items():
        means = {arm: sum(accuracies(runs)) / len(runs) for arm, runs in all_arms.items() if runs}
        best = max(means.values())
        shown = []
        for arm in arms_shown:
            text = interval(all_arms[arm]) if arm in means else "–"
            shown.append(f"**{text}**" if means.get(arm) == best else text)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
        by_seed.append(
            f"| {name} | " + " | ".join(percent(accuracies(all_arms.get(arm, []))) for arm in arms_shown) + " |"
        )
        if "auto" not in means or not any(arm.startswith("sft") for arm in means):
            continue
        other = max((arm for arm in means if arm != "auto"), key=lambda arm: means[arm])
        taught = max((arm for arm in means if arm.startswith("sft") and "+" not in arm), key=lambda arm: means[arm])
        first, second = (against(all_arms[arm], all_arms["auto"]) for arm in (other, taught))
        words = [f"{100 * one['accuracy']:+.1f} [{100 * one['interval'][0]:+.1f}, {100 * one['interval'][1]:+.1f}]"
                 for one in (first, second)]  # fmt: skip
        more.append(f"| {name} | {other} | {words[0]} | {words[1]} | {first['p_value']:.3f} |")
    return [*lines, *by_seed, *more]


def accuracies(runs: Sequence[Measured]) -> list[float]:
    """After training, by seed."""
    return [sum(score or 0.0 for score in run.after or ()) / len(run.after or ()) for run in runs]


def picture(cells: dict[str, dict[str, list[Measured]]]) -> str:
    """A line for each cell, a dot for each run, its mean as a bar."""
    scale, height = (WIDTH - LEFT - 30) / 100, 80 + ROW * len(cells)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    arms_shown = [arm for arm in ARMS if any(arm in arms for arms in cells.values())]
    for number, arm in enumerate(arms_shown):
        x, y = 20 + 105 * (number % 6), 16 + 20 * (number // 6)
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="5" fill="{COLOURS[arm]}"/><text x="{x + 10}" y="{y + 5}">{arm}</text>'
        )
    for place, (name, arms) in enumerate(cells.items()):
        y = 76 + ROW * place
        parts.append(f'<text x="8" y="{y + 4}">{name}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + 100 * scale:.0f}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        for arm, runs in arms.items():
            values = accuracies(runs)
            for value in values:
                x, look = LEFT + 100 * value * scale, f'fill="{COLOURS[arm]}" fill-opacity=".45"'
                parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4" {look}/>')
            if values:
                x = LEFT + 100 * scale * sum(values) / len(values)
                parts.append(f'<rect x="{x - 1.5:.1f}" y="{y - 11}" width="3" height="22" fill="{COLOURS[arm]}"/>')
    for tick in range(0, 101, 20):
        x = LEFT + tick * scale
        parts.append(f'<text x="{x:.0f}" y="{height - 8}" text-anchor="middle" fill="#555">{tick} %</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of when-*/")
    parser.add_argument("--picture", type=Path, help="an SVG to write")
    options = parser.parse_args()
    names = (*CELLS, *OWN_GRPO)
    cells = with_grpo({cell: arms for cell in names if (arms := runs_of(options.runs / f"when-{cell}"))})
    print("\n".join(table(cells)))
    if options.picture:
        options.picture.write_text(picture(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
