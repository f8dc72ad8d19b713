"""Every command reads what any command reads: GSM8K as published, and columns by a template."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guided_grpo.cli import main
from guided_grpo.commands.options import mapping_of, take_map
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.store import jsonl
from parts import SHARED

# Two columns make the problem, as in SVAMP; numbers as its files have them.
SVAMP = [
    {"ID": "chal-1", "Body": "A dvd costs 76 dollars, and there are 25 dollars off.", "Question": "What do you pay?",
     "Equation": "( 76.0 - 25.0 )", "Answer": 51.0, "Type": "Subtraction"},
    {"ID": "chal-2", "Body": "Dan had 4 dollars and has 3.", "Question": "What did he spend?",
     "Equation": "( 4.0 - 3.0 )", "Answer": 1.0, "Type": "Subtraction"},
]  # fmt: skip
MAP = ["--map", "prompt={Body} {Question}", "--map", "answer=Answer", "--map", "guidance=It is {Equation}, so x."]
PROMPT = "A dvd costs 76 dollars, and there are 25 dollars off. What do you pay?"
SAMPLING = ["--samples", "1", "--max-tokens", "4"]
TRAINING = [
    "--use_cpu", "--report_to", "none", "--max_steps", "1", "--per_device_train_batch_size", "4", "--save_strategy", "no",
    "--gradient_checkpointing", "false", "--quiet",
]  # fmt: skip


@pytest.fixture
def svamp(tmp_path: Path) -> Path:
    path = tmp_path / "svamp.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in SVAMP))
    return path


def commands(data: str, policy: Path, out: Path, mapping: list[str]) -> dict[str, list[str]]:
    """Every command that reads problems, small."""
    model = ["--model", str(policy), "--data", data, "--limit", "2", *mapping, "--quiet"]
    run = ["--model_name_or_path", str(policy), "--train_data", data, "--data_limit", "2", *mapping, *TRAINING]
    grpo = ["--method", "fixed", "--guidance_length", "4", "--guidance_ratio", "0.5", "--num_generations", "4"]
    return {
        "check": ["data", "check", data, "--limit", "2", *mapping],
        "prepare": ["data", "prepare", "--source", data, "--read_limit", "2", *mapping, "--verify", "off", "--output",
                    str(out / "set")],
        "difficulty": ["data", "difficulty", *model, *SAMPLING, "--output", str(out / "rates.jsonl")],
        "eval": ["eval", *model, *SAMPLING, "--output", str(out / "eval.json")],
        "audit": ["audit", *model, "--output", str(out / "audit"), "--problems", "2", "--unguided", "1", "--strengths",
                  "0.5", "--max-tokens", "4", "--groups", "2"],
        "train": ["train", *run, *grpo, "--max_completion_length", "8", "--output_dir", str(out / "train")],
        "sft": ["sft", *run, "--output_dir", str(out / "sft")],
    }  # fmt: skip


NAMES = list(commands("", Path(), Path(), []))


@pytest.mark.parametrize("name", NAMES)
def test_gsm8k_as_it_is(name: str, gsm8k_policy: Path, tmp_path: Path) -> None:
    assert main(commands(str(SHARED / "gsm8k" / "test.jsonl"), gsm8k_policy, tmp_path, [])[name]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_in_two_columns(
    name: str, svamp: Path, gsm8k_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(commands(str(svamp), gsm8k_policy, tmp_path, MAP)[name]) == 0
    text = capsys.readouterr().out
    if name == "check":
        assert PROMPT in text and "answer 51.0" in text and "It is ( 76.0 - 25.0 ), so x." in text
    files = {"prepare": "set/rows.jsonl", "difficulty": "rates.jsonl"}
    if name in files:
        row = next(iter(jsonl.whole_rows(tmp_path / files[name])))
        assert (row["prompt"], row["answer"], row["guidance"]) == (PROMPT, "51.0", "It is ( 76.0 - 25.0 ), so x.")


@pytest.mark.parametrize("name", NAMES)
def test_a_column_that_is_not_there(
    name: str, svamp: Path, gsm8k_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(commands(str(svamp), gsm8k_policy, tmp_path, ["--map", "prompt={Bodi} {Question}"])[name])
    output = capsys.readouterr()
    assert "'Bodi' is not a column of the data, which has ID, Body, Question" in output.out + output.err
    assert code == (0 if name == "check" else 2)  # which counts the faults of every record
    assert code == 0 or output.err.strip().count("\n") == 0


@pytest.mark.parametrize("name", ["difficulty", "eval", "audit", "train", "sft"])
def test_chats_for_a_policy_without_a_template(
    name: str, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "chats.jsonl"
    data.write_text('{"prompt": [{"role": "user", "content": "1+2"}], "answer": "3", "guidance": "1+2=3"}\n')
    assert main(commands(str(data), policy_folder, tmp_path, [])[name]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    field = "model_name_or_path" if name in ("train", "sft") else "model"
    assert f"field '{field}': '{policy_folder}' has no chat template, and the prompts are chats; fix: use " in line


@pytest.mark.parametrize("name", ["difficulty", "eval"])
def test_text_that_a_policy_does_not_know(
    name: str, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text('{"prompt": "Äß1+", "answer": "3"}\n{"prompt": "1+2=", "answer": "3"}\n', encoding="utf-8")
    assert main(commands(str(data), policy_folder, tmp_path, [])[name]) == 0
    assert f"warning: {policy_folder} does not know 25% of the characters" in capsys.readouterr().err


def test_templates(svamp: Path, tmp_path: Path) -> None:
    """Numbers keep their digits, a null makes the whole null, columns stay, doubled braces are braces."""
    source = tmp_path / "a.jsonl"
    source.write_text(
        '{"a": 12345678901234567890.125, "b": 7, "answer": "5", "why": null}\n'
        '{"a": -0.10, "b": 1.50, "answer": "6", "why": "since 2+4 = 6"}\n'
    )
    mapping = {"prompt": "{a}: \\frac{{{b}}}{{2}}", "guidance": "We know: {why}"}
    rows = load_rows(str(source), mapping=mapping)
    assert rows["prompt"][:] == ["12345678901234567890.125: \\frac{7}{2}", "-0.10: \\frac{1.50}{2}"]
    assert rows["guidance"][:] == [None, "We know: since 2+4 = 6"]
    assert rows["b"][:] == [7.0, 1.5] and rows["answer"][:] == ["5", "6"]
    whole = load_rows(str(svamp), mapping={"prompt": "{Body} {Question}", "answer": "Answer", "hint": "{Type}!"})
    assert whole[0]["hint"] == "Subtraction!" and whole[0]["Body"] == SVAMP[0]["Body"] and "Answer" not in whole[0]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"prompt": "{Body {Question}"}, "'{Body {Question}' has a brace that holds no column; fix: write {COLUMN}"),
        ({"prompt": "{} {Body}"}, "has a brace that holds no column"),
        ({"prompt": {"Body": None}}, "is no column and no template; fix: write prompt: COLUMN"),
        (["prompt"], "field 'data_mapping': ['prompt'] is no mapping"),
        ({"prompt": "{Body} {Question}", "answer": "Yes"}, "svamp.jsonl:1: field 'answer': 'Yes' is not a column"),
        (
            {"prompt": "{Tags}"},
            "tags.jsonl:1: field 'prompt': 'Tags' holds a list; fix: use columns of text or numbers",
        ),
    ],
)
def test_mistakes(mapping: Any, message: str, svamp: Path, tmp_path: Path) -> None:
    if "Tags" in str(mapping):
        svamp = tmp_path / "tags.jsonl"
        svamp.write_text('{"Tags": ["a"], "answer": 1}\n')
    with pytest.raises(InputError) as caught:
        load_rows(str(svamp), mapping=mapping)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_map_of_train_goes_over_the_config(
    svamp: Path, gsm8k_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text('data_mapping: {prompt: "{ID}", answer: Answer, guidance: "It is {Equation}, so x."}\n')
    words = commands(str(svamp), gsm8k_policy, tmp_path, ["--map", MAP[1]])["train"]
    assert main([*words, "--config", str(config), "--rollouts_every", "1"]) == 0
    assert PROMPT in (tmp_path / "train" / "rollouts.jsonl").read_text()
    assert "{Body} {Question}" in (tmp_path / "train" / "config.yaml").read_text()
    capsys.readouterr()
    assert main([*words, "--data_mapping", '{"prompt": "Body"}']) == 2
    assert "field 'data_mapping': is given beside --map" in capsys.readouterr().err


def test_words_of_a_mapping() -> None:
    assert mapping_of(["prompt={a}={b}", "answer=c"]) == {"prompt": "{a}={b}", "answer": "c"}
    words = ["--max_steps", "-1", "--map", "prompt={a} {b}", "--beta", "-0.5", "--map=answer=c", "x"]
    assert take_map(words) == ({"prompt": "{a} {b}", "answer": "c"}, ["--max_steps", "-1", "--beta", "-0.5", "x"])


# A hub that is nowhere, whatever the machine: what these say must not depend on a network.
_NOWHERE = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://localhost:9", "PATH": ""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Those that import torch, which takes seconds, are slow ones.
        pytest.param(["eval", "--model", "runs/none", "--data", "chains:steps=3,count=1"], "field 'model': 'runs/none' has no tokenizer that loads (there is no such file or folder; no hub id either", marks=pytest.mark.slow),
        pytest.param(["audit", "--model", "runs/none", "--data", "chains:steps=3,count=2"], "field 'model': 'runs/none' has no tokenizer that loads (there is no", marks=pytest.mark.slow),
        pytest.param(["sft", "--model_name_or_path", "runs/none", "--train_data", "chains:steps=3,count=2", "--output_dir", "o"], "field 'model_name_or_path': 'runs/none' has no", marks=pytest.mark.slow),
        (["data", "check", "./none"], "./none: cannot be loaded (there is no such file or folder)"),
        (["data", "check", "runs/none"], "runs/none: cannot be loaded (there is no such file or folder; no hub"),
        (["data", "check", "no/such/folder"], "no/such/folder: cannot be loaded (there is no such file or folder)"),
        (["data", "check", "owner/name"], "owner/name: cannot be loaded (Couldn't reach 'owner/name' on the Hub"),
        pytest.param(["eval", "--model", "owner/name", "--data", "x"], "'owner/name' has no tokenizer that loads (We couldn't connect", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_asked_for_again_and_again(words: list[str], message: str, tmp_path: Path) -> None:
    """One line, and not a word of the libraries: they would warn of each new attempt."""
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "guided_grpo.cli", *words]
    result = subprocess.run(command, cwd=tmp_path, env=_NOWHERE, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and "fix: " in result.stderr


@pytest.mark.parametrize("name", ["train", "sft"])
def test_a_tracker_that_is_not_installed(
    name: str, gsm8k_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "guided_grpo.commands.parsing"
    monkeypatch.setattr(f"{module}.get_available_reporting_integrations", lambda: ["wandb"])
    words = commands("chains:steps=3,count=4", gsm8k_policy, tmp_path, [])[name]
    for tracker, message in (("tensorboard", "is not installed"), ("tensorbord", "is no tracker; fix: use none, or")):
        words[words.index("--report_to") + 1] = tracker
        assert main(words) == 2
        assert f"field 'report_to': '{tracker}' {message}" in capsys.readouterr().err
        assert not (tmp_path / name).exists()
