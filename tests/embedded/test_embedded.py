"""The embedded domain and its base policy."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from guided_grpo.cli import main
from guided_grpo.commands.parsing import VOLATILE, parse
from guided_grpo.commands.policies import policy_source
from guided_grpo.data.domains import programs
from guided_grpo.data.domains.chains import chain, chains, solution
from guided_grpo.embedded.pretraining import build_base, character_tokenizer, held_out_loss, new_policy
from guided_grpo.embedded.recipes import DOMAINS, LOSSES, POLICIES, RECIPE, SHIPPED, Phase
from guided_grpo.errors import InputError
from guided_grpo.grading.maths import check_maths
from guided_grpo.store import rundir
from parts import TINY

# Nats a token of `held_out_loss`, of the policies in the package.
HELD_OUT = {"embedded": 0.2830, "embedded-small": 0.2315, "embedded-code": 0.0996}


def recomputed(prompt: str) -> list[int]:
    """Running values of a problem, by Python's own arithmetic."""
    start, *operations = re.findall(r"^\d|[+\-*]\d", prompt)
    value, values = int(start), []
    for operation in operations:
        value = eval(f"{value}{operation}") % 10
        values.append(value)
    return values


def test_traces_and_answers_are_right() -> None:
    for row in chains(200, 3, 14, seed=4):
        values = recomputed(row["prompt"])
        assert [int(v) for v in re.findall(r"=(\d);", row["guidance"])] == values
        assert row["answer"] == "".join(map(str, values[-3:]))
        assert row["difficulty"] == len(values)
        assert check_maths(solution(row), row["answer"]).status == "correct"


def test_every_operation_can_be_undone() -> None:
    """So that an early mistake is never forgiven."""
    seen = {m for row in chains(300, 10, 10, seed=1) for m in re.findall(r"[+\-*]\d", row["prompt"])}
    assert seen == {f"{op}{x}" for op in "+-" for x in range(1, 10)} | {"*3", "*7", "*9"}
    for operation in seen:
        assert len({eval(f"{value}{operation}") % 10 for value in range(10)}) == 10


def test_no_constant_guess_pays() -> None:
    answers = Counter(row["answer"] for row in chains(20_000, 10, 14, seed=2))
    assert max(answers.values()) / 20_000 < 0.005  # the best constant guess


def test_the_noisy_demonstrator_is_wrong_as_often_as_told_and_goes_on_from_there() -> None:
    rng, wrong, steps = random.Random(0), 0, 0
    for _ in range(500):
        row = chain(8, rng, noise=0.2)
        value = int(row["prompt"][0])
        for operation, written in re.findall(r"([+\-*]\d)=(\d);", row["guidance"]):
            wrong += eval(f"{value}{operation}") % 10 != int(written)
            steps += 1
            value = int(written)
        assert row["answer"] == "".join(re.findall(r"=(\d);", row["guidance"])[-3:])
    assert wrong / steps == pytest.approx(0.2, abs=0.03)


def test_problems_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    assert list(chains(5, 3, 6, seed=1)) == list(chains(5, 3, 6, seed=1))
    assert list(chains(5, 3, 6, seed=1)) != list(chains(5, 3, 6, seed=2))


def test_base_policy_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    recipe = replace(TINY, batch_size=8, phases=(Phase(2, 3, 4, 0.1),))
    folder = build_base(tmp_path / "base", recipe)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "qwen3"
    text = "4+3*7=+3=7;*7=9;#### 79"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text) and tokenizer.decode(ids) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    again = load_file(build_base(tmp_path / "again", recipe) / "model.safetensors")
    other = load_file(build_base(tmp_path / "other", replace(recipe, seed=1)) / "model.safetensors")
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert not any(torch.equal(other[name], weights[name]) for name in weights if "norm" not in name)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "again", "other"}


def test_the_recipe_of_the_first_policy() -> None:
    """Every figure of the docs rests on it."""
    assert POLICIES["embedded"].to_json() == {
        "hidden_size": 128, "layers": 4, "heads": 4, "intermediate_size": 384, "batch_size": 128,
        "learning_rate": 0.001, "seed": 0, "domain": "chains",
        "phases": [
            {"steps": 300, "low": 3, "high": 7, "noise": 0.2},
            {"steps": 100, "low": 3, "high": 12, "noise": 0.2},
            {"steps": 90, "low": 3, "high": 14, "noise": 0.45},
        ],
    }  # fmt: skip
    assert character_tokenizer().get_vocab() == {
        character: place for place, character in enumerate(["<pad>", "<eos>", "<unk>", *"0123456789+-*=;# "])
    }
    assert POLICIES["embedded-code"].to_json()["domain"] == "programs"


def test_sizes_of_the_policies() -> None:
    sizes = {
        name: new_policy(recipe, character_tokenizer(DOMAINS[recipe.domain].alphabet)).num_parameters()
        for name, recipe in POLICIES.items()
    }
    assert sizes["embedded-small"] < 0.25e6 < 0.85e6 < sizes["embedded"] < 0.87e6
    assert sizes["embedded-code"] == pytest.approx(sizes["embedded"], rel=0.01)


def test_a_policy_of_the_program_domain(tmp_path: Path) -> None:
    recipe = replace(TINY, batch_size=4, domain="programs", phases=(Phase(2, 2, 3, 0.1),))
    tokenizer = AutoTokenizer.from_pretrained(build_base(tmp_path / "base", recipe))
    row = programs.program(14, random.Random(3))
    text = row["prompt"] + programs.solution(row)
    for written in (text, "\n\n x+=3\n\n"):
        ids = tokenizer(written)["input_ids"]
        assert len(ids) == len(written) and tokenizer.decode(ids) == written
        assert tokenizer.unk_token_id not in ids


def run_settings(model: str, *more: str) -> Any:
    return parse(
        ["--model_name_or_path", model, "--output_dir", "out", "--train_data", "chains:steps=3,count=4", "--quiet",
         "--bf16", "false", "--use_cpu", *more]
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_comes_with_the_package(name: str) -> None:
    """By its recipe, in float32, ready to load, and with what the recipe teaches."""
    folder, recipe = SHIPPED / name, POLICIES[name]
    assert json.loads((folder / RECIPE).read_text()) == recipe.to_json()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == character_tokenizer(DOMAINS[recipe.domain].alphabet).get_vocab()
    shapes = {name: weight.shape for name, weight in new_policy(recipe, tokenizer).state_dict().items()}
    assert {name: weight.shape for name, weight in model.state_dict().items()} == shapes
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert held_out_loss(folder, recipe) == pytest.approx(HELD_OUT[name], abs=1e-3)


@pytest.mark.slow
def test_the_smallest_policy_begins_again_as_it_did(tmp_path: Path) -> None:
    """The first 100 steps of its recipe give the losses that lie beside it. The whole: `make policies`.

    With one thread in place of two, which rounds otherwise, step 100 is off by 0.3 %; with noise 0.12 in place of 0.1,
    a tenth off the learning rate or another seed by 4–6 %. Later the rule is learned, and rounding moves when.
    """
    recipe = POLICIES["embedded-small"]
    folder = build_base(tmp_path / "policy", replace(recipe, phases=(replace(recipe.phases[0], steps=100),)))
    losses, theirs = (json.loads((place / LOSSES).read_text()) for place in (folder, SHIPPED / "embedded-small"))
    assert losses == pytest.approx({step: theirs[step] for step in ("50", "100")}, rel=0.015)


def test_each_named_policy_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [policy_source(name) for name in ("embedded", "embedded-small", "embedded-code")]
    assert [Path(folder).name for folder in folders] == ["embedded", "embedded-small", "embedded-code"]
    assert all(Path(folder, "model.safetensors").is_file() for folder in folders)
    assert policy_source("owner/embedded-small") == "owner/embedded-small"
    Path("embedded-mine").mkdir()
    assert policy_source("embedded-mine") == "embedded-mine"  # the user's own folder
    Path("runs/mine/model").mkdir(parents=True)
    assert policy_source("runs/mine") == "runs/mine/model"


def test_another_policy_is_another_run(tmp_path: Path) -> None:
    settings = run_settings("embedded").to_json()
    rundir.claim(tmp_path, settings)
    rundir.check(tmp_path, settings, VOLATILE)
    with pytest.raises(InputError, match="embedded-small"):
        rundir.check(tmp_path, run_settings("embedded-small").to_json(), VOLATILE)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["train", "--train_data", "chains:steps=3,count=8", "--output_dir", "out", "--method", "grpo",
          "--per_device_train_batch_size", "8", "--use_cpu", "--bf16", "false", "--model_name_or_path"],
         "model_name_or_path"),
        (["audit", "--data", "chains:steps=3,count=8", "--output", "out", "--problems", "2", "--model"], "model"),
    ],
    ids=["train", "audit"],
)  # fmt: skip
def test_an_unknown_embedded_policy(
    words: list[str], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "embedded-xyz"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith(
        f"field '{field}': 'embedded-xyz' is no embedded policy; "
        "fix: choose from embedded, embedded-small, embedded-code"
    )
    assert len(error.splitlines()) == 1
    assert not any(tmp_path.iterdir())
