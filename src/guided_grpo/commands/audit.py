"""`guided-grpo audit`: before training, whether guidance can help this policy on this data, and with which settings.

Writes audit.json, audit.html and, where training is worth its tokens, config.yaml into the output folder. The same
command goes on after a kill; `--groups`, `--alphas` and `--against` may change without sampling anything again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Annotated, cast

import yaml
from annotated_types import Ge, Gt, Interval
from datasets import Dataset

from guided_grpo.commands import sft
from guided_grpo.commands.data_stream import add_data_options, rows_of
from guided_grpo.commands.options import OneLineParser, mapping_of, wants_bars
from guided_grpo.commands.parsing import StageArguments, TeachingArguments
from guided_grpo.commands.policies import (
    MODEL_HELP,
    check_prompts,
    context_of,
    load_for_sampling,
    load_tokenizer,
    policy_source,
)
from guided_grpo.data.demonstrations import demonstrations, grade_traces
from guided_grpo.errors import InputError
from guided_grpo.evaluation.completions import CompletionRun
from guided_grpo.evaluation.engines import TransformersEngine
from guided_grpo.evaluation.likelihood import trace_log_probs
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import PLACEMENTS, GuidanceTokenizer, PlacementSettings, check_hint_template
from guided_grpo.guidance.slicing import UNITS
from guided_grpo.settings import OneOf, add_options, again, read_options, setting
from guided_grpo.store import jsonl, rundir
from guided_grpo.studies.audit.advice import Advice, advise
from guided_grpo.studies.audit.against import Comparison, compare, pooled
from guided_grpo.studies.audit.audit_page import audit_page
from guided_grpo.studies.audit.estimates import Estimates, Table, estimate
from guided_grpo.studies.audit.imitation_trial import (
    LONGER,
    ImitationTrial,
    imitation_trial,
    is_undecided,
    with_imitation,
)
from guided_grpo.studies.audit.trials import (
    AuditProblem,
    GuidanceSetting,
    Trial,
    TrialDecoding,
    check_room,
    choose,
    choose_first,
    tiers_of,
    trial_requests,
    trials_of,
)
from guided_grpo.types import Row

JOURNAL, RESULT, PAGE, CONFIG = "trials.jsonl", "audit.json", "audit.html", "config.yaml"
IMITATION = "imitation"  # the run directory of the trial of fine-tuning
PROBLEMS_PER_STEP = 8
TRACES = 100  # whose likelihood is measured


@dataclass(frozen=True)
class AuditSettings:
    """What is asked, and which groups are looked at."""

    problems: Annotated[int, Ge(2)] = setting(60, "drawn by seed, in proportion to the tiers")
    first: Annotated[int, Ge(0)] = setting(0, "as many more of the easiest tier, which a curriculum trains first")
    unguided: Annotated[int, Ge(1)] = setting(3, "times as many responses without guidance")
    strengths: Annotated[list[float], Gt(0)] = setting([part / 8 for part in range(1, 9)], "amounts in --unit")
    unit: Annotated[str, OneOf(UNITS)] = setting("ratio", "of the strengths")
    placement: Annotated[str, OneOf((*PLACEMENTS, "both"))] = setting("prefix", "of guidance")
    groups: Annotated[list[int], Ge(2)] = setting([4, 8, 12], "sizes G to look at")
    alphas: Annotated[list[float], Interval(gt=0, le=1)] = setting([0.25, 0.5, 0.75, 1.0], "shares guided")
    imitate: Annotated[int, Ge(0)] = setting(
        0,
        "steps of fine-tuning on the traces that are tried on a copy of the policy; four times as many where neither "
        "they nor guidance help; 0 = none",
    )
    imitate_rate: Annotated[float, Gt(0)] = again(StageArguments, "sft_learning_rate", meaning="of these steps")
    imitate_batch: Annotated[int, Ge(1)] = setting(8, "traces a step of these")
    imitate_problems: Annotated[int, Ge(1)] = again(TeachingArguments, "sft_held_out")
    sft_answer: str = again(TeachingArguments, "sft_answer")
    thinking: Annotated[str, OneOf(("auto", "open", "none"))] = again(PlacementSettings, "guidance_thinking")
    hint_template: str = again(PlacementSettings, "hint_template")


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Sample, estimate, advise, write."""
    options = _parse(arguments)
    rows = rows_of(options)
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
    estimates = estimate(
        trials,
        alphas=options.alphas,
        groups=options.groups,
        further=further,
        problems_per_step=PROBLEMS_PER_STEP,
    )
    advice = advise(estimates, ordered=ordered, problems_per_step=PROBLEMS_PER_STEP)
    trial = None
    if options.imitate:
        log_prob = _log_prob(options, rows)
        trial = _imitate(options, options.imitate, log_prob)
        if is_undecided(advice, trial):
            trial = _imitate(options, LONGER * options.imitate, log_prob)
        advice = with_imitation(advice, trial, max(options.groups))
    names, sizes = dict(zip(difficulties, tiers, strict=True)), Counter(tiers)
    comparisons = [compare(Table(trials), run, tiers=names, sizes=sizes) for run in options.against]
    comparisons = pooled(comparisons) + comparisons
    result = {
        "settings": json.loads(json.dumps(vars(options), default=str)),
        "advice": asdict(advice),
        "imitation": trial and asdict(trial),
        "estimates": asdict(estimates),
        "against": [asdict(one) for one in comparisons],
    }
    rundir.write_json(options.output / RESULT, result)
    title = f"{options.model} on {options.data}"
    rundir.write_text(options.output / PAGE, audit_page(title, estimates, advice, comparisons))
    _write_config(options, advice)
    print(json.dumps(result, indent=2) if as_json else summary(estimates, advice, comparisons))
    if not as_json:
        print(f"\n{options.output / PAGE}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="guided-grpo audit", description="Can guidance help this model on this data, and how?")
    parser.add_argument("--model", required=True, help=MODEL_HELP)
    parser.add_argument("--data", required=True, help="the training data: hub id, file, or generator")
    parser.add_argument("--output", type=Path, default=Path("runs/audit"), help="folder for page, figures and config")
    add_data_options(parser)
    add_options(parser, AuditSettings)
    add_options(parser, TrialDecoding)
    parser.add_argument(
        "--template-kwargs", type=json.loads, default={}, help='JSON, such as {"enable_thinking": false}'
    )
    parser.add_argument("--dtype", default="auto", help="of the weights")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUN", help="compare with finished runs")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    read_options(options, AuditSettings)
    read_options(options, TrialDecoding)
    if options.unit.startswith("ratio") and max(options.strengths) > 1:
        raise InputError(
            "is out of range", field="strengths", value=max(options.strengths),
            fix=f"use amounts above 0 in {options.unit}, up to 1",
        )  # fmt: skip
    check_hint_template(options.hint_template)
    policy_source(options.model)  # refuses an unknown one before anything is written
    for name in ("strengths", "groups", "alphas"):
        setattr(options, name, sorted(set(getattr(options, name))))
    return options


def _trials(options: argparse.Namespace, rows: Dataset, tiers: Sequence[str]) -> tuple[list[Trial], set[int]]:
    """From the journal, and what it lacks from the policy; and the problems beyond the share of their tier."""
    shares = choose(tiers, options.problems, options.seed)
    further = choose_first(tiers, shares, options.first, options.seed)
    chosen = sorted([*shares, *further])
    problems = [AuditProblem(index, tiers[index], cast(Row, rows[index])) for index in chosen]
    placements = PLACEMENTS if options.placement == "both" else (options.placement,)
    settings = [GuidanceSetting(placements[0], options.unit, 0.0)] * options.unguided
    settings += [GuidanceSetting(one, options.unit, amount) for one in placements for amount in options.strengths]
    names = (
        *("model", "data", "map", "split", "reader", "limit", "problems", "first", "unguided", "strengths"),
        *("unit", "placement", "dtype", "template_kwargs", "thinking", "hint_template"),
    )
    shaping = {name: getattr(options, name) for name in names} | {"rows": chosen}
    with CompletionRun(
        len(problems) * len(settings), read_options(options, TrialDecoding), shaping, options.output / JOURNAL,
        what="audit that is", line="an audit",
    ) as run:  # fmt: skip
        if run.missing:
            _sample(options, rows, problems, settings, run)
        return trials_of(run.records), set(further)


def _sample(
    options: argparse.Namespace,
    rows: Dataset,
    problems: Sequence[AuditProblem],
    settings: Sequence[GuidanceSetting],
    run: CompletionRun,
) -> None:
    """What the journal lacks, of the policy."""
    source = policy_source(options.model)
    tokenizer = load_tokenizer(source)
    check_prompts(rows, tokenizer, options.model)
    guides = {
        one: GuidanceTokenizer(
            tokenizer, options.template_kwargs, options.thinking, placement=one, template=options.hint_template
        )
        for one in {setting.placement for setting in settings}
    }
    requests = trial_requests(problems, settings, guides)
    check_room(requests, options.max_tokens, context_of(source))
    engine = TransformersEngine(load_for_sampling(source, options.dtype), tokenizer)
    with Grader() as grader:
        run.run(requests, engine, grader, label="audit", bars=wants_bars(options.quiet))


def _log_prob(options: argparse.Namespace, rows: Dataset) -> float:
    """Of a token of the first traces, as they are taught, in nats."""
    source = policy_source(options.model)
    tokenizer = load_tokenizer(source)
    traced = list(islice((cast(Row, row) for row in rows if row["guidance"]), TRACES))
    with Grader() as grader:
        worth = grade_traces(traced, options.sft_answer, grader)
    examples, _ = demonstrations(
        traced,
        GuidanceTokenizer(tokenizer, options.template_kwargs, options.thinking, leak=True),
        worth=worth,
        answer=options.sft_answer,
        end_id=tokenizer.eos_token_id,
        max_tokens=context_of(source),
    )
    if not examples:
        raise InputError("has no right trace to imitate", file=options.data, fix="leave --imitate out")
    return mean(trace_log_probs(load_for_sampling(source, options.dtype), examples))


def _imitate(options: argparse.Namespace, steps: int, log_prob: float) -> ImitationTrial:
    """A few steps of `guided-grpo sft` in a folder of their own, asked with early stopping's questions."""
    folder = IMITATION if steps == options.imitate else f"{IMITATION}-{steps}"
    fields = {
        "model_name_or_path": options.model, "output_dir": str(options.output / folder), "quiet": options.quiet,
        "train_data": options.data, "data_mapping": mapping_of(options.map) or None, "data_reader": options.reader,
        "data_split": options.split, "data_limit": options.limit,
        "learning_rate": options.imitate_rate, "lr_scheduler_type": "constant", "max_steps": steps,
        "loss_type": "dft", "sft_floor": sft.floor_of(log_prob),  # as auto fine-tunes
        "per_device_train_batch_size": options.imitate_batch, "sft_every": ceil(steps / 3),
        "sft_patience": 3, "sft_held_out": options.imitate_problems, "sft_answer": options.sft_answer,
        "guidance_thinking": options.thinking, "chat_template_kwargs": options.template_kwargs or None,
        "eval_samples": 4, "eval_temperature": options.temperature, "eval_top_p": options.top_p,
        "eval_top_k": options.top_k, "eval_max_tokens": options.max_tokens, "eval_batch_size": options.batch_size,
        "seed": options.seed, "save_strategy": "no", "report_to": "none", "gradient_checkpointing": False,
    }  # fmt: skip
    known = {name: value for name, value in fields.items() if value is not None}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(known, file)
        file.flush()
        settings = sft.parse(["--config", file.name])
    summary = sft.run(settings)
    asked = list(jsonl.whole_rows(settings.output / rundir.STOPPING))
    return imitation_trial(asked, summary["demonstrations"], summary["left_out"]["wrong answer"], log_prob)


def _write_config(options: argparse.Namespace, advice: Advice) -> None:
    """The advice as a config of `train`; none where training is not worth its tokens."""
    path = options.output / CONFIG
    if advice.method is None:
        path.unlink(missing_ok=True)
        return
    data = {"train_data": options.data, "data_mapping": mapping_of(options.map) or None, "data_reader": options.reader,
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
        "sft_answer": options.sft_answer or None,
        "per_device_train_batch_size": advice.settings["num_generations"],
        "gradient_accumulation_steps": PROBLEMS_PER_STEP,
    }
    fields = {name: value for name, value in {**data, **policy, **advice.settings}.items() if value is not None}
    head = f"# {advice.headline} Add output_dir, learning_rate and a budget; see guided-grpo train --help.\n"
    rundir.write_text(path, head + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def summary(estimates: Estimates, advice: Advice, comparisons: list[Comparison]) -> str:
    """For the terminal."""
    tiers = list(estimates.tiers)
    lines = [estimates.words, ""]
    head = f"{'setting':<24}{'success':>9}{'95 % interval':>18}"
    lines.append(head + "".join(f"{tier:>9}" for tier in tiers) + f"{'given':>8}{'tokens':>8}{'no answer':>11}")
    for point in estimates.points:
        one = point.success
        cells = "".join(f"{point.tiers[tier].mean:>9.1%}" for tier in tiers)
        lines.append(
            f"{point.setting.label:<24}{one.mean:>9.1%}{f'[{one.low:.1%}, {one.high:.1%}]':>18}{cells}"
            f"{point.given:>8.0f}{point.generated:>8.0f}{point.no_answer:>11.1%}"
        )
    size = advice.cell.group if advice.cell else max(cell.group for cell in estimates.cells)
    lines += ["", f"predicted share of zero-signal groups, G = {size}", *_zero_table(estimates, size)]
    lines += ["", advice.headline, *(f"- {reason}" for reason in advice.reasons)]
    for comparison in comparisons:
        lines += ["", f"against {comparison.run}", *(f"- {window.words}" for window in comparison.windows)]
    return "\n".join(lines)


def _zero_table(estimates: Estimates, size: int) -> list[str]:
    cells = {(cell.setting, cell.alpha): cell for cell in estimates.cells if cell.group == size}
    alphas = sorted({alpha for _, alpha in cells if alpha})
    lines = [f"{'setting':<24}" + "".join(f"{f'α = {alpha:g}':>11}" for alpha in alphas)]
    lines.append(f"{'plain GRPO':<24}{estimates.plain(size).zero:>11.1%}")
    for point in estimates.points[1:]:
        shown = "".join(f"{cells[point.setting, alpha].zero:>11.1%}" for alpha in alphas)
        lines.append(f"{point.setting.label:<24}{shown}")
    return lines
