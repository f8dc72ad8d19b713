"""Half a character, through every command: in data it is refused, what a policy writes and a program says is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from guided_grpo.cli import main
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.evaluation.completions import read_evaluation
from guided_grpo.evaluation.engines import Response, TransformersEngine
from guided_grpo.sandbox import SandboxPool
from guided_grpo.store import rundir
from guided_grpo.store.jsonl import whole_rows

HALF = "\ud800"
ROW = {"prompt": "1+2+3+4=", "answer": "360", "guidance": "+2=3;+3=6;+4=0;", "difficulty": 3}
SAMPLING = ["--samples", "2", "--max-tokens", "4", "--quiet"]
TRAINING = [
    "--method", "fixed", "--guidance_length", "4", "--guidance_ratio", "0.5", "--num_generations", "4",
    "--per_device_train_batch_size", "4", "--max_completion_length", "8", "--max_steps", "1", "--use_cpu", "--bf16", "false",
    "--report_to", "none", "--save_strategy", "no", "--gradient_checkpointing", "false", "--rollouts_every", "1", "--quiet",
]  # fmt: skip


@pytest.fixture
def sandbox() -> None:
    try:
        SandboxPool(1).close()
    except InputError as error:
        pytest.skip(f"no sandbox here: {error}")


def data_file(folder: Path, **changes: Any) -> str:
    path = folder / "data.jsonl"
    path.write_text(json.dumps({**ROW, **changes}) + "\n")
    return str(path)


def answering(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Every response is `text`."""

    def sample(self: Any, prompts: Any, *_: Any, **__: Any) -> list[Response]:
        return [Response([1, 2], text, True) for _ in prompts]

    monkeypatch.setattr(TransformersEngine, "sample", sample)


@pytest.mark.slow
def test_eval_keeps_it_in_answers_and_goes_on_from_them(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, f"\\boxed{{5{HALF}}}")
    words = ["eval", "--model", str(policy_folder), "--data", data_file(tmp_path), *SAMPLING]
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "b"):  # the third finds its work done
        assert main([*words, "--output", str(folder)]) == 0
    _, records = read_evaluation(tmp_path / "b")
    assert [record["response"] for record in records] == [f"\\boxed{{5{HALF}}}"] * 2
    assert {record["verdict"] for record in records} <= {"wrong", "unparseable"}
    assert rundir.read_json(tmp_path / "b" / "eval.json")["accuracy"] == 0
    output = tmp_path / "difference.json"
    assert main(["eval", "--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]) == 0
    assert rundir.read_json(output)["sets"]


def test_eval_keeps_it_in_the_error_of_a_program(
    sandbox: None, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "```python\ndef f(x):\n    raise ValueError(chr(0xD800))\n```")
    suite = {"prompt": "1+2=", "tests": ["assert f(1) == 1"], "difficulty": 3}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(suite) + "\n")
    words = ["eval", "--model", str(policy_folder), "--data", str(path), *SAMPLING, "--output", str(tmp_path / "run")]
    assert main(words) == 0
    assert main(words) == 0
    _, records = read_evaluation(tmp_path / "run")
    assert [record["verdict"] for record in records] == ["wrong"] * 2
    assert all(HALF in record["reason"] for record in records)


@pytest.mark.slow
def test_train_keeps_it_in_rollouts_and_the_report_shows_the_rest(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer written in Python may decode to it; those in Rust cannot."""
    decode = PreTrainedTokenizerFast._decode
    monkeypatch.setattr(PreTrainedTokenizerFast, "_decode", lambda *a, **k: decode(*a, **k) + f"x{HALF}y")
    run = tmp_path / "run"
    words = ["--model_name_or_path", str(policy_folder), "--train_data", data_file(tmp_path), *TRAINING]
    assert main(["train", *words, "--output_dir", str(run)]) == 0
    [row] = whole_rows(run / rundir.ROLLOUTS)
    assert all(rollout["generated"].endswith(f"x{HALF}y") for rollout in row["rollouts"])
    rundir.cut_back(run / rundir.ROLLOUTS, 1)  # as a resumed run does
    assert [row] == list(whole_rows(run / rundir.ROLLOUTS))
    page = tmp_path / "report.html"
    assert main(["report", str(run), "--output", str(page)]) == 0
    assert "x?y" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("field", "value"), [
    ("prompt", f"1+2{HALF}="), ("prompt", [{"role": "user", "content": f"{HALF}1+2="}]), ("answer", f"3{HALF}"),
    ("guidance", "+2=\udfff3;"), ("source", {"name": ["a", "\udc00"]}), (f"n{HALF}", 1),
])  # fmt: skip
@pytest.mark.parametrize("command", ["train", "sft", "eval", "audit", "data difficulty", "data annotate"])
def test_data_that_holds_it_is_refused_with_its_place(
    command: str, field: str, value: Any, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = str(policy_folder), str(tmp_path / "out")
    data = tmp_path / "data.jsonl"
    data.write_text(f"{json.dumps(ROW)}\n{json.dumps({**ROW, field: value})}\n")
    words = {
        "train": ["--model_name_or_path", model, "--train_data", str(data), *TRAINING, "--output_dir", output],
        "sft": ["--model_name_or_path", model, "--train_data", str(data), "--output_dir", output, "--use_cpu"],
        "eval": ["--model", model, "--data", str(data), *SAMPLING, "--output", output],
        "audit": ["--model", model, "--data", str(data), "--output", output, "--quiet"],
        "data difficulty": ["--model", model, "--data", str(data), *SAMPLING, "--output", output],
        "data annotate": ["--model", "m", "--base-url", "http://[::1]:9/v1", "--data", str(data), "--output", output],
    }[command]
    assert main([*command.split(), *words]) == 2
    said = capsys.readouterr().err
    escaped = field.encode(errors="backslashreplace").decode()
    assert said.count("\n") == 1
    assert f"{data}:2: field '{escaped}': holds half a character (\\ud" in said
    assert "without its pair); fix: write the whole character" in said


def test_whole_characters_and_their_escapes_are_no_halves(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({**ROW, "prompt": "\U0001f600=", "guidance": r"print('\ud800')"}) + "\n")
    assert r"\ud83d\ude00" in path.read_text()
    [row] = load_rows(str(path))
    assert (row["prompt"], row["guidance"]) == ("\U0001f600=", r"print('\ud800')")


def test_preparing_counts_the_lines_that_hold_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "data.jsonl", tmp_path / "set"
    good = {"prompt": "How much is 1 + 2?", "answer": "3", "guidance": "1 + 2 is 3.\n#### 3"}
    rows = [good, {**good, "prompt": f"2+2{HALF}="}, {**good, f"n{HALF}": 0}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "prepare", "--source", str(data), "--output", str(output), "--quiet"]) == 0
    assert json.loads((output / "card.json").read_text())["rejected"] == {"not-json": 2}
    details = [row["detail"] for row in whole_rows(output / "rejects.jsonl")]
    assert [detail.partition(" holds half a character")[0] for detail in details] == ["prompt", r"n\ud800"]
    assert main(["data", "check", str(data), "--quiet"]) == 0
    assert len(load_rows(str(output))) == 1


def test_responses_that_hold_it_are_graded(tmp_path: Path) -> None:
    data, output = tmp_path / "answers.jsonl", tmp_path / "verdicts.jsonl"
    rows = [{"completion": f"{HALF}\\boxed{{7}}", "answer": "7"}, {"completion": f"\\boxed{{7{HALF}}}", "answer": "7"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["grade", "--data", str(data), "--output", str(output), "--quiet"]) == 0
    assert [row["verdict"] == "correct" for row in whole_rows(output)] == [True, False]
