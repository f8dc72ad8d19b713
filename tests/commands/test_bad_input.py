"""Bad input: one line that names the place and the fix, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from guided_grpo.cli import main

GOOD = {"prompt": "1+2+3+4=", "answer": "360", "guidance": "+2=3;+3=6;+4=0;", "difficulty": 3}


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


def arguments(output: Path, policy: Path, data: str, *more: str) -> list[str]:
    return [
        "train", "--model_name_or_path", str(policy), "--output_dir", str(output), "--train_data", data,
        "--method", "fixed", "--guidance_length", "4", "--guidance_ratio", "0.5", "--num_generations", "4",
        "--per_device_train_batch_size", "4", "--max_completion_length", "8", "--max_steps", "1", "--use_cpu",
        "--bf16", "false", "--report_to", "none", "--save_strategy", "no", "--gradient_checkpointing", "false",
        "--lr_scheduler_type", "constant", "--quiet", *more,
    ]  # fmt: skip


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code = main(words)
    error = capsys.readouterr().err.strip()
    assert code == 2, error
    assert len(error.splitlines()) == 1, error
    assert "fix:" in error
    return error


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([GOOD, without(GOOD, "answer")], ["rows.jsonl:2", "answer"]),
        ([without(GOOD, "prompt")], ["rows.jsonl", "prompt"]),
        ([], ["rows.jsonl", "empty"]),
        ([GOOD, '{"prompt": "1+2=", '], ["rows.jsonl:2", "JSON"]),
        ([GOOD, GOOD, {**GOOD, "answer": "\\frac{1}{"}], ["rows.jsonl:3", "answer"]),
        ([GOOD, "[1, 2]"], ["rows.jsonl:2"]),
        ([without(GOOD, "guidance")], ["rows.jsonl", "guidance"]),
        ([{**GOOD, "guidance": None}], ["rows.jsonl", "trace"]),
        ([{**GOOD, "prompt": 7}], ["rows.jsonl:1", "prompt"]),
    ],
)
def test_data(
    rows: list[Any], expected: list[str], policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows)
    error = complaint(arguments(tmp_path / "run", policy_folder, str(data)), capsys)
    assert all(word in error for word in expected), error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--method", "g2rpo"], "'g2rpo' is not a method"),
        (["--guidance_ratio", "1.2"], "guidance_ratio"),
        (["--guidance_ratio", "-0.5"], "guidance_ratio"),
        (["--guidance_ratio", "0.1"], "guides no rollout"),
        (["--guidance_length", "500", "--max_completion_length", "250"], "outgrows the context of 256"),
        (["--rewards", "accurate"], "rewards"),
        (["--learning_rate", "fast"], "learning_rate"),
        (["--no_such_field", "1"], "no_such_field"),
        (["--curriculum", "hardest"], "curriculum"),
        (["--learning_rate"], "learning_rate"),
        (["--per_device_train_batch_size", "6"], "generation_batch_size"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--train_data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--train_data", "chains:steps=3-x"], "steps"),
        (["--eval_data", "chains:stairs=3"], "stairs"),
        (["--data_mapping", "{prompt}"], "data_mapping"),
        (["--model_name_or_path", "no/such/folder"], "model_name_or_path"),
    ],
)
def test_settings(
    more: list[str], expected: str, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = complaint(arguments(tmp_path / "run", policy_folder, "chains:steps=3-5,count=8", *more), capsys)
    assert expected in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rows", [[without(GOOD, "difficulty")] * 2, [GOOD, {**GOOD, "difficulty": None}]])
def test_order_by_a_difficulty_that_is_not_there(
    rows: list[Any], policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows)
    words = arguments(tmp_path / "run", policy_folder, str(data), "--curriculum", "difficulty")
    assert "difficulty" in complaint(words, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method: fixed\nguidence_ratio: 0.5\n", ["run.yaml:2", "guidence_ratio"]),
        ("method: [fixed\n", ["run.yaml", "YAML"]),
        ("- method\n", ["run.yaml", "mapping"]),
    ],
)
def test_config_files(
    text: str, expected: list[str], policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    words = arguments(
        tmp_path / "run", policy_folder, "chains:steps=3-5,count=8", "--config", str(tmp_path / "run.yaml")
    )
    error = complaint(words, capsys)
    assert all(word in error for word in expected), error


def test_tokenizer_without_eos(policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "policy"
    shutil.copytree(policy_folder, broken)
    path = broken / "tokenizer_config.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in ("eos_token", "pad_token")})
    )
    error = complaint(arguments(tmp_path / "run", broken, "chains:steps=3-5,count=8"), capsys)
    assert "eos" in error
    assert not (tmp_path / "run").exists()


def test_output_directory_of_another_run(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(tmp_path / "run", policy_folder, "chains:steps=3-5,count=8")
    assert main(words) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    error = complaint([*words, "--guidance_length", "6"], capsys)
    assert "config.yaml" in error and "guidance_length" in error and "6" in error
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert main(words) == 0  # the same run: finished, nothing to do
    assert "finished" in capsys.readouterr().err


def test_output_directory_with_other_files(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    error = complaint(arguments(tmp_path / "run", policy_folder, "chains:steps=3-5,count=8"), capsys)
    assert "output_dir" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "words", [[], ["trian"], ["report"], ["report", "nowhere"], ["eval"], ["compare", "--config", "x.yaml"]]
)
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert words == [] or len(output.err.strip().splitlines()) == 1


def test_help_of_train_shows_our_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "--guidance_ratio" in text and "--train_data" in text and "--help-all" in text
    assert "--adam_beta1" not in text
