"""The papers' recipes as shipped: `data prepare`, then `train`, on records of the published schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from guided_grpo.cli import main
from guided_grpo.commands.parsing import parse
from guided_grpo.commands.train import load_data
from guided_grpo.data.curriculum import MATHS_TIERS
from guided_grpo.data.reading.readers import find_reader
from guided_grpo.store import jsonl
from guided_grpo.train.checks import check_columns
from schemas import published

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
RECIPES = {  # of data → of training
    "g2rpo-a-math": "math-1.7b",
    "g2rpo-a-code": "code-1.7b",
    "s1k": "s1k-7b",
    "ghpo-math3to5": "ghpo-7b",
    "ghpo-numinamath-s": "ghpo-7b",
    "gsm8k": "gsm8k",
}
HERE = ["--use_vllm", "false", "--bf16", "false", "--use_cpu", "--dtype", "float32", "--report_to", "none", "--quiet"]


def prepare(recipe: str, policy: Path, folder: Path) -> Path:
    """The rows that the recipe makes of records of its schema."""
    sources = []
    for number, records in enumerate(published(recipe)):
        sources.append(folder / f"{number}.jsonl")
        sources[-1].write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["data", "prepare", "--config", str(CONFIGS / "data" / f"{recipe}.yaml"), "--output", str(folder / "set")]
    words += ["--source", *map(str, sources), "--tokenizer", str(policy), "--offline_benchmarks", "skip"]
    assert main([*words, "--workers", "1", "--quiet"]) == 0
    return folder / "set" / "rows.jsonl"


@pytest.mark.parametrize("recipe", RECIPES)
def test_prepare_then_train(recipe: str, gsm8k_policy: Path, tmp_path: Path) -> None:
    """Every column that the config of training needs is there, and every row has a trace."""
    rows_file = prepare(recipe, gsm8k_policy, tmp_path)
    prepared = list(jsonl.whole_rows(rows_file))
    # Of NuminaMath-1.5 two of the five tiers are kept.
    assert len(prepared) == (56 if recipe == "ghpo-numinamath-s" else 40) and all(row["guidance"] for row in prepared)
    config = CONFIGS / f"{RECIPES[recipe]}.yaml"
    settings = parse(["--config", str(config), *HERE, "--train_data", str(rows_file), "--output_dir", str(tmp_path)])
    rows = load_data(settings)
    check_columns(rows, settings.training)
    assert rows["guidance"][:] == [row["guidance"] for row in prepared]
    if recipe == "g2rpo-a-math":  # long generations, in five tiers from easy to hard
        assert {row["trace"] for row in prepared} == {"generations[2]"}
        assert list(dict.fromkeys(rows["difficulty"])) == list(MATHS_TIERS)
        assert settings.training.curriculum == "difficulty"
    if recipe == "g2rpo-a-code":
        assert {row["trace"] for row in prepared} == {"generations[0]"}
        assert rows["difficulty"][:] == sorted(len(row["guidance"]) for row in prepared)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["g2rpo-a-math", "ghpo-math3to5", "s1k"])
def test_two_steps(recipe: str, gsm8k_policy: Path, tmp_path: Path) -> None:
    rows = prepare(recipe, gsm8k_policy, tmp_path)
    small = ["--max_steps", "2", "--max_completion_length", "16", "--gradient_accumulation_steps", "1"]
    small += ["--per_device_train_batch_size", "24", "--gradient_checkpointing", "false", "--save_strategy", "no"]
    words = ["train", "--config", str(CONFIGS / f"{RECIPES[recipe]}.yaml"), *HERE, *small, "--train_data", str(rows)]
    run = tmp_path / "run"
    assert main([*words, "--model_name_or_path", str(gsm8k_policy), "--output_dir", str(run)]) == 0
    metrics = list(jsonl.whole_rows(run / "metrics.jsonl"))
    assert [row["step"] for row in metrics] == [1, 2]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_every_path_of_a_config_is_there(path: Path) -> None:
    """The files that its head names, and the set that it trains on: what a recipe writes, or a generator."""
    for name in re.findall(r"configs/[\w./-]+\.yaml", path.read_text()):
        assert (ROOT / name).is_file(), name
    config = yaml.safe_load(path.read_text())
    if path.parent != CONFIGS:
        return
    outputs = {f"{yaml.safe_load(each.read_text())['output']}/rows.jsonl" for each in CONFIGS.glob("data/*.yaml")}
    source = config["train_data"]
    assert source in outputs or source.partition(":")[0] in ("chains", "programs")
    if source in outputs:  # two commands in the head, the first of which makes what the second reads
        head = path.read_text().partition("model_name_or_path")[0]
        commands = re.findall(r"^#   (.*)$", head, re.MULTILINE)
        assert commands[0] == f"guided-grpo data prepare --config configs/{Path(source).parent}.yaml"
        assert f"train --config configs/{path.name}" in commands[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_the_reader_that_its_columns_tell(recipe: str) -> None:
    named: Any = yaml.safe_load((CONFIGS / "data" / f"{recipe}.yaml").read_text()).get("reader")
    for records in published(recipe):
        assert named is None or find_reader(None, records[0]) == named
