"""Base policies of docs/studies/when.md whose weakness is not noise alone, and what a trained one still knows.

    .venv/bin/python benchmarks/when_bases.py build                     build/bases/{lengths,skills} and a data file
    .venv/bin/python benchmarks/when_bases.py forgotten runs/when-skills     the earlier skill after each run, and KL
    .venv/bin/python benchmarks/when_bases.py transfer runs/when-today       longer chains, or mostly multiplying
    .venv/bin/python benchmarks/when_bases.py likelihood configs/compare     how likely each base is to write its traces

`lengths` knows the rule and has never seen a chain of more than eight steps. `skills` is the embedded policy with a
second skill, digits in reverse order, which chains of ten steps do not train.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from guided_grpo.data.demonstrations import demonstrations
from guided_grpo.data.domains import chains
from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.pretraining import build_base
from guided_grpo.embedded.recipes import DOMAINS, POLICIES, BaseRecipe, Domain, Phase, embedded_folder
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.evaluation.likelihood import trace_log_probs
from guided_grpo.evaluation.questions import evaluate, questions
from guided_grpo.grading import Grader
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.store import rundir
from guided_grpo.store.jsonl import encoded
from guided_grpo.types import Row

BASES = Path("build/bases")
DIGITS = (4, 8)  # of a number to reverse
LONGER = {f"{low}-{high}": f"chains:steps={low}-{high},count=200" for low, high in ((15, 17), (20, 22))}
DECODING = Decoding(samples=4, temperature=1.0, top_p=1.0, top_k=0, max_tokens=144, batch_size=400)


def reversal(rng: random.Random) -> Row:
    """`#4821=` and `#### 1284`: no zeros, so that the answer is as long as the number."""
    number = "".join(rng.choice("123456789") for _ in range(rng.randint(*DIGITS)))
    return {"prompt": f"#{number}=", "answer": number[::-1], "guidance": "", "difficulty": 1, "task": "math"}


def either(steps: int, rng: random.Random, noise: float) -> Row:
    """A chain, or as often a number to reverse."""
    return chains.chain(steps, rng, noise) if rng.random() < 0.5 else reversal(rng)


DOMAINS["chains and reversals"] = Domain(chains.ALPHABET, either, chains.solution)
RECIPES = {
    "lengths": replace(POLICIES["embedded"], phases=(Phase(400, 3, 7, 0.05), Phase(60, 3, 8, 0.05))),
    "skills": BaseRecipe(
        phases=(Phase(600, 3, 7, 0.2), Phase(200, 3, 12, 0.2), Phase(180, 3, 14, 0.45)), domain="chains and reversals"
    ),
}


def build() -> None:
    """Both bases, and `reversals.jsonl`: 200 numbers that no base has seen by more than chance."""
    rng = random.Random("reversals")
    BASES.mkdir(parents=True, exist_ok=True)
    rundir.write_bytes(BASES / "reversals.jsonl", encoded(dict(reversal(rng)) for _ in range(200)))
    for name, recipe in RECIPES.items():
        build_base(BASES / name, recipe, bars=True)
        measure(BASES / name, {"hard": "chains:steps=10-14,count=200,seed=999", "short": "chains:steps=3-6,count=200"})
    measure(BASES / "skills", {"reversals": str(BASES / "reversals.jsonl")})


def mostly_times(count: int = 200) -> None:
    """`times.jsonl`: chains of 10–14 steps of which two thirds and more multiply, as hardly one of training does."""
    rows: Iterable[Any] = load_rows("chains:steps=10-14,count=60000,seed=997")
    chosen = (dict(row) for row in rows if 3 * row["prompt"].count("*") >= 2 * row["difficulty"])
    BASES.mkdir(parents=True, exist_ok=True)
    rundir.write_bytes(BASES / "times.jsonl", encoded(islice(chosen, count)))


def measure(folder: Path, sources: dict[str, str], base: Path | None = None) -> None:
    """Print unguided accuracy on each source, and KL to the base where there is one."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    words = []
    with Grader() as grader:
        for name, source in sources.items():
            problems = questions(load_rows(source))
            figures = evaluate(model, tokenizer, problems, grader, DECODING)
            low, high = figures["interval"]
            words.append(f"{name} {figures['accuracy']:.1%} [{low:.1%}, {high:.1%}]")
    if base is not None:
        words.append(f"KL {divergence(model, AutoModelForCausalLM.from_pretrained(base), tokenizer):.3f}")
    print(f"{folder}: {', '.join(words)}", flush=True)


@torch.no_grad()
def divergence(policy: Any, base: Any, tokenizer: Any, count: int = 100) -> float:
    """KL(policy ‖ base) in nats a token, exact over the vocabulary, on the policy's own responses to hard chains."""
    rows: Iterable[Any] = load_rows(f"chains:steps=10-14,count={count},seed=999")
    prompts = tokenizer([row["prompt"] for row in rows], padding=True, padding_side="left", return_tensors="pt")
    torch.manual_seed(0)
    whole = policy.generate(
        input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"], do_sample=True, max_new_tokens=96,
        top_k=0, top_p=1.0, temperature=1.0, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    width = prompts["input_ids"].size(1)
    ends = whole[:, width:] == tokenizer.eos_token_id
    written = ends.cumsum(1) - ends.int() == 0  # the end included
    mask = torch.cat([prompts["attention_mask"], written.int()], dim=1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    ours, theirs = (
        model(whole, attention_mask=mask, position_ids=places).logits[:, width - 1 : -1].log_softmax(-1)
        for model in (policy, base)
    )
    return float((ours.exp() * (ours - theirs)).sum(-1)[written].mean())


def likelihood(configs: Path) -> None:
    """Print by cell the log-probability of a trace token under the base, in nats; wrong traces count."""
    for path in sorted(configs.glob("when-*.yaml")):
        common = yaml.safe_load(path.read_text(encoding="utf-8"))["common"]
        if "train_data" not in common:
            continue
        folder = str(common.get("model_name_or_path") or embedded_folder("embedded"))
        if not Path(folder).is_dir():
            print(f"{path.stem}: {folder} is not built", flush=True)
            continue
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        traced: Any = [row for row in load_rows(common["train_data"]) if row["guidance"]][:100]
        examples, _ = demonstrations(
            traced,
            GuidanceTokenizer(tokenizer, {}, "auto", leak=True),
            answer=common.get("sft_answer", ""),
            shares=common.get("sft_shares", [1.0]),
            end_id=tokenizer.eos_token_id,
        )
        print(f"{path.stem}: {mean(trace_log_probs(model, examples)):.3f} nats, {len(examples)} traces", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["build", "forgotten", "transfer", "likelihood"])
    parser.add_argument("runs", type=Path, nargs="?", help="folder of a comparison, or of configs")
    options = parser.parse_args()
    if options.task == "build":
        build()
        return
    if options.task == "likelihood":
        likelihood(options.runs)
        return
    if options.task == "transfer":
        mostly_times()
    for run in sorted(options.runs.glob("*-seed*")):
        folder = run / rundir.MODEL
        if options.task == "forgotten":
            measure(folder, {"reversals": str(BASES / "reversals.jsonl")}, BASES / "skills")
        else:
            measure(folder, {**LONGER, "times": str(BASES / "times.jsonl")})


if __name__ == "__main__":
    main()
