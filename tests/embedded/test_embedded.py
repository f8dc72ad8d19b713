"""The embedded domain and its base policy."""

from __future__ import annotations

import importlib
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from guided_grpo.cli import main
from guided_grpo.commands.parsing import VOLATILE, parse
from guided_grpo.commands.policies import embedded_source, policy_source
from guided_grpo.data.domains import programs
from guided_grpo.data.domains.chains import chain, chains, solution
from guided_grpo.embedded.pretraining import build_base, character_tokenizer, new_policy
from guided_grpo.embedded.recipes import DOMAINS, POLICIES, Phase, base_folder, embedded_recipe
from guided_grpo.errors import InputError
from guided_grpo.grading.maths import check_maths
from guided_grpo.store import rundir
from parts import TINY


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


def test_base_policy_is_an_ordinary_checkpoint_and_is_built_once(tmp_path: Path) -> None:
    recipe = replace(TINY, batch_size=8, phases=(Phase(2, 3, 4, 0.1),))
    folder = build_base(tmp_path / "base", recipe)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "qwen3"
    text = "4+3*7=+3=7;*7=9;#### 79"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text) and tokenizer.decode(ids) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert build_base(folder, recipe) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    build_base(folder, replace(recipe, seed=1))
    assert (folder / "model.safetensors").stat().st_mtime_ns != stamp
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


def test_interrupted_pre_training_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, batch_size=4, phases=(Phase(3, 3, 4, 0.1), Phase(3, 4, 5, 0.3)))
    whole = build_base(tmp_path / "whole", recipe, save_every=2)
    steps: list[int] = []
    real = Trainer.training_step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", counted)
    with pytest.raises(KeyboardInterrupt):
        build_base(tmp_path / "cut", recipe, save_every=2)
    assert not (tmp_path / "cut").exists()
    cut = build_base(tmp_path / "cut", recipe, save_every=2)
    assert steps == [0, 1, 2, 3, 2, 3, 4, 5]
    ours, theirs = load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "cut"}


def test_folders_of_the_first_policy_stay_whole() -> None:
    """What its recipe.json has held since there were no others."""
    assert POLICIES["embedded"].to_json() == {
        "hidden_size": 128, "layers": 4, "heads": 4, "intermediate_size": 384, "batch_size": 128,
        "learning_rate": 0.001, "seed": 0,
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


def test_each_named_policy_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(base_folder(name, None)) for name in ("embedded", "embedded-small", "embedded-code")] == [
        "runs/embedded-base",
        "runs/embedded-small-base",
        "runs/embedded-code-base",
    ]
    tiny = replace(TINY, batch_size=4, phases=(Phase(1, 2, 3, 0.1),))
    assert policy_source(run_settings("embedded-small"), tiny) == "runs/embedded-small-base"
    assert Path("runs/embedded-small-base/model.safetensors").is_file()
    assert policy_source(run_settings("embedded", "--embedded_base", "mine"), tiny) == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "runs"]
    assert embedded_source("owner/embedded-small", None, quiet=True) is None
    assert policy_source(run_settings("owner/embedded-small"), None) == "owner/embedded-small"
    Path("embedded-mine").mkdir()
    assert embedded_recipe("embedded-mine") is None  # the user's own folder


def test_a_run_from_when_the_folder_had_a_default_goes_on(tmp_path: Path) -> None:
    settings = run_settings("embedded").to_json()
    assert settings["embedded_base"] is None
    rundir.claim(tmp_path, {**settings, "embedded_base": "runs/embedded-base"})
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


@pytest.mark.parametrize("rescue", [False, True])
def test_the_specification_runs(rescue: bool, tokenizer: Any, policy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    importlib.import_module("test_minimal_loop")
    from minimal_loop import train

    torch.manual_seed(0)
    options = argparse.Namespace(
        learning_rate=1e-4, seed=0, length=9.0, steps=2, problems=2, group_size=4, ratio=0.5, max_tokens=8,
        guidance_weight=1.0, window=2, longest=75.0, rescue=rescue,
    )  # fmt: skip
    train(policy, tokenizer, options)
    assert len(re.findall(r"step +\d  length +9\.0  reward", capsys.readouterr().out)) == 2
