"""`guided-grpo audit`: before training, whether guidance can help this policy on this data, and with which settings.

Writes audit.json, audit.html and, where training is worth its tokens, config.yaml into the output folder. The same
command goes on after a kill; `--groups`, `--alphas` and `--against` may change without sampling anything again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import torch
import yaml
from datasets import Dataset

from guided_grpo.commands.options import OneLineParser, add_map, mapping_of, wants_bars
from guided_grpo.commands.policies import embedded_source, load_for_sampling, load_tokenizer
from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.recipes import POLICIES, embedded_recipe
from guided_grpo.errors import InputError
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import HINT_TEMPLATE, PLACEMENTS, GuidanceTokenizer, check_hint_template
from guided_grpo.store import rundir
from guided_grpo.studies.audit.advice import advise
from guided_grpo.studies.audit.against import Comparison, compare, pooled
from guided_grpo.studies.audit.audit_page import audit_page
from guided_grpo.studies.audit.choice import Problem, choose, choose_first, tiers_of
from guided_grpo.studies.audit.estimates import Estimates, estimate
from guided_grpo.studies.audit.rules import Advice
from guided_grpo.studies.audit.sampling import Drawing, Sampler, TrialJournal, run_trials
from guided_grpo.studies.audit.trial_table import Table
from guided_grpo.studies.audit.trials import Setting, Trial
from guided_grpo.types import Row, Unit

JOURNAL, RESULT, PAGE, CONFIG = "trials.jsonl", "audit.json", "audit.html", "config.yaml"
SHARES = tuple(part / 8 for part in range(1, 9))
PROBLEMS_PER_STEP = 8


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Sample, estimate, advise, write."""
    options = _parse(arguments)
    mapping = mapping_of(options.map)
    rows = load_rows(options.data, mapping=mapping, split=options.split, limit=options.limit, reader=options.reader)
    difficulties = list(rows["difficulty"]) if "difficulty" in rows.column_names else [None] * len(rows)
    ordered = all(isinstance(value, int | float) for value in difficulties)
    if options.first and not ordered:
        raise InputError(
            "asks for the tier that a curriculum trains first, and the data does not say how hard its problems are",
            field="first",
            value=options.first,
            fix="leave it out, or name the column with --map difficulty=YOURS",
        )
    tiers = tiers_of(difficulties)
    trials, further = _trials(options, rows, tiers)
    found = estimate(
        trials,
        alphas=options.alphas,
        groups=options.groups,
        further=further,
        problems_per_step=PROBLEMS_PER_STEP,
    )
    advice = advise(found, ordered=ordered, problems_per_step=PROBLEMS_PER_STEP)
    names, sizes = dict(zip(difficulties, tiers, strict=True)), Counter(tiers)
    comparisons = [compare(Table(trials), run, tiers=names, sizes=sizes) for run in options.against]
    comparisons = pooled(comparisons) + comparisons
    result = {
        "settings": _plain(options),
        "advice": asdict(advice),
        "estimates": asdict(found),
        "against": [asdict(one) for one in comparisons],
    }
    rundir.write_json(options.output / RESULT, result)
    rundir.write_text(options.output / PAGE, audit_page(_title(options), found, advice, comparisons))
    _write_config(options, mapping, advice)
    print(json.dumps(result, indent=2) if as_json else summary(found, advice, comparisons))
    if not as_json:
        print(f"\n{options.output / PAGE}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    usual = Drawing()
    parser = OneLineParser(prog="guided-grpo audit", description="Can guidance help this model on this data, and how?")
    parser.add_argument(
        "--model", required=True, help=f"hub id, checkpoint folder, run directory, or one of {', '.join(POLICIES)}"
    )
    parser.add_argument("--data", required=True, help="the training data: hub id, file, or generator")
    parser.add_argument("--output", type=Path, default=Path("runs/audit"), help="folder for page, figures and config")
    add_map(parser)
    parser.add_argument("--split", default="train", help="split of a hub data set")
    parser.add_argument("--reader", help="plain or gsm8k; default: detect")
    parser.add_argument("--limit", type=int, help="draw from the first so many problems")
    parser.add_argument("--problems", type=int, default=60, help="drawn by seed, in proportion to the tiers")
    parser.add_argument(
        "--first", type=int, default=0, help="as many more of the easiest tier, which a curriculum trains first"
    )
    parser.add_argument(
        "--samples", type=int, default=usual.samples, help="K responses a problem and strength; best ≥ G"
    )
    parser.add_argument("--unguided", type=int, default=3, help="times as many responses without guidance")
    parser.add_argument("--strengths", type=float, nargs="+", default=list(SHARES), help="amounts in --unit, above 0")
    parser.add_argument("--unit", default="ratio", choices=get_args(Unit), help="of the strengths")
    parser.add_argument("--placement", default="prefix", choices=(*PLACEMENTS, "both"))
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8, 12], help="sizes G to look at")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0], help="shares guided")
    parser.add_argument("--temperature", type=float, default=usual.temperature, help="that of training")
    parser.add_argument("--top-p", type=float, default=usual.top_p)
    parser.add_argument("--top-k", type=int, default=usual.top_k, help="0 = off")
    parser.add_argument("--max-tokens", type=int, default=usual.max_tokens, help="max_completion_length of training")
    parser.add_argument("--batch-size", type=int, default=usual.batch_size, help="responses at a time")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument(
        "--template-kwargs", type=json.loads, default={}, help='JSON, such as {"enable_thinking": false}'
    )
    parser.add_argument("--thinking", default="auto", choices=("auto", "open", "none"), help="guidance_thinking")
    parser.add_argument("--hint-template", default=HINT_TEMPLATE, help="wording around {problem} and {hint}")
    parser.add_argument("--dtype", default="auto", help="of the weights")
    parser.add_argument("--embedded-base", type=Path, help="folder of an embedded model; default: runs/NAME-base")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUN", help="compare with finished runs")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    _check(options)
    options.strengths = sorted(set(options.strengths))
    options.groups, options.alphas = sorted(set(options.groups)), sorted(set(options.alphas))
    return options


def _check(options: argparse.Namespace) -> None:
    top = 1.0 if options.unit.startswith("ratio") else float("inf")
    for name, least, most, words in (
        ("problems", 2, float("inf"), "2 or more"),
        ("first", 0, float("inf"), "0 or more"),
        ("samples", 2, float("inf"), "2 or more"),
        ("unguided", 1, float("inf"), "1 or more"),
        ("groups", 2, float("inf"), "sizes of 2 or more"),
        ("alphas", 1e-9, 1.0, "shares above 0 and up to 1"),
        ("strengths", 1e-9, top, f"amounts above 0 in {options.unit}" + (", up to 1" if top == 1 else "")),
        ("max_tokens", 1, float("inf"), "1 or more"),
        ("batch_size", 1, float("inf"), "1 or more"),
        ("temperature", 1e-9, float("inf"), "a temperature above 0: at 0 all samples are equal"),
    ):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if not least <= value <= most:
                raise InputError("is out of range", field=name, value=value, fix=f"use {words}")
    check_hint_template(options.hint_template)
    embedded_recipe(options.model)  # refuses an unknown one before anything is written


def _trials(options: argparse.Namespace, rows: Dataset, tiers: Sequence[str]) -> tuple[list[Trial], set[int]]:
    """From the journal, and what it lacks from the policy; and the problems beyond the share of their tier."""
    shares = choose(tiers, options.problems, options.seed)
    further = choose_first(tiers, shares, options.first, options.seed)
    chosen = sorted([*shares, *further])
    problems = [Problem(index, tiers[index], cast(Row, rows[index])) for index in chosen]
    placements = PLACEMENTS if options.placement == "both" else (options.placement,)
    settings = [Setting(placements[0], options.unit, 0.0)] * options.unguided
    settings += [Setting(one, options.unit, amount) for one in placements for amount in options.strengths]
    drawing = Drawing(
        options.samples,
        options.temperature,
        options.top_p,
        options.top_k,
        options.max_tokens,
        options.batch_size,
        options.seed,
    )
    kept = (
        *("model", "data", "map", "split", "reader", "limit", "problems", "first", "unguided", "strengths"),
        *("unit", "placement", "dtype", "template_kwargs", "thinking", "hint_template"),
    )
    shaping = {name: getattr(options, name) for name in kept} | asdict(drawing) | {"rows": chosen}
    with TrialJournal(options.output / JOURNAL, shaping) as journal:
        batches = -(-len(problems) * len(settings) // max(1, drawing.batch_size // drawing.samples))
        if len(journal.batches) < batches:
            _ask(options, problems, settings, drawing, journal)
        return [trial for batch in journal.batches for trial in batch], set(further)


def _ask(
    options: argparse.Namespace,
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    drawing: Drawing,
    journal: TrialJournal,
) -> None:
    """What the journal lacks, of the policy."""
    source = _source(options)
    tokenizer = load_tokenizer(source)
    guides = {
        one: GuidanceTokenizer(
            tokenizer, options.template_kwargs, options.thinking, placement=one, template=options.hint_template
        )
        for one in {setting.placement for setting in settings}
    }
    with Grader() as grader:
        grader.start(sorted({str(problem.row.get("task")) for problem in problems}))
        sampler = Sampler(
            load_for_sampling(source, options.dtype),
            tokenizer,
            guides,
            grader,
            drawing,
        )
        sampler.check_room(problems, settings)
        run_trials(sampler, problems, settings, journal, bars=wants_bars(options.quiet))


def _source(options: argparse.Namespace) -> str:
    folder = embedded_source(options.model, options.embedded_base, quiet=options.quiet)
    return rundir.model_of(options.model) if folder is None else str(folder)


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return json.loads(json.dumps(vars(options), default=str))  # type: ignore[no-any-return]  # a dict of plain values


def _title(options: argparse.Namespace) -> str:
    return f"{options.model} on {options.data}"


def _write_config(options: argparse.Namespace, mapping: dict[str, str], advice: Advice) -> None:
    """The advice as a config of `train`; none where training is not worth its tokens."""
    path = options.output / CONFIG
    if advice.method is None:
        path.unlink(missing_ok=True)
        return
    data = {"train_data": options.data, "data_mapping": mapping or None, "data_reader": options.reader,
            "data_split": options.split, "data_limit": options.limit}  # fmt: skip
    policy = {
        "model_name_or_path": options.model,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "max_completion_length": options.max_tokens,
        "chat_template_kwargs": options.template_kwargs or None,
        "guidance_thinking": options.thinking,
        "hint_template": options.hint_template,
        "per_device_train_batch_size": advice.settings["num_generations"],
        "gradient_accumulation_steps": PROBLEMS_PER_STEP,
        "bf16": None if torch.cuda.is_available() else False,  # its default asks for a GPU
    }
    fields = {name: value for name, value in {**data, **policy, **advice.settings}.items() if value is not None}
    head = f"# {advice.headline} Add output_dir, learning_rate and a budget; see guided-grpo train --help.\n"
    rundir.write_text(path, head + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def summary(found: Estimates, advice: Advice, comparisons: list[Comparison]) -> str:
    """For the terminal."""
    tiers = list(found.tiers)
    lines = [found.drawn, ""]
    head = f"{'setting':<24}{'success':>9}{'95 % interval':>18}"
    lines.append(head + "".join(f"{tier:>9}" for tier in tiers) + f"{'given':>8}{'tokens':>8}{'no answer':>11}")
    for point in found.points:
        one = point.success
        cells = "".join(f"{point.tiers[tier].mean:>9.1%}" for tier in tiers)
        lines.append(
            f"{point.setting.label:<24}{one.mean:>9.1%}{f'[{one.low:.1%}, {one.high:.1%}]':>18}{cells}"
            f"{point.given:>8.0f}{point.generated:>8.0f}{point.no_answer:>11.1%}"
        )
    size = advice.cell.group if advice.cell else max(cell.group for cell in found.cells)
    lines += ["", f"predicted share of zero-signal groups, G = {size}", *_zero_table(found, size)]
    lines += ["", advice.headline, *(f"- {reason}" for reason in advice.reasons)]
    for comparison in comparisons:
        lines += ["", f"against {comparison.run}", *(f"- {window.words}" for window in comparison.windows)]
    return "\n".join(lines)


def _zero_table(found: Estimates, size: int) -> list[str]:
    cells = {(cell.setting, cell.alpha): cell for cell in found.cells if cell.group == size}
    alphas = sorted({alpha for _, alpha in cells if alpha})
    lines = [f"{'setting':<24}" + "".join(f"{f'α = {alpha:g}':>11}" for alpha in alphas)]
    lines.append(f"{'plain GRPO':<24}{found.plain(size).zero:>11.1%}")
    for point in found.points[1:]:
        shown = "".join(f"{cells[point.setting, alpha].zero:>11.1%}" for alpha in alphas)
        lines.append(f"{point.setting.label:<24}{shown}")
    return lines
