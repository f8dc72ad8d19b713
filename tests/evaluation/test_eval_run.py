"""`guided-grpo eval`: a real kill and resume, settings that differ, prompts as chats and as text, two runs compared."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from guided_grpo.cli import main
from guided_grpo.evaluation.completions import COMPLETIONS, CompletionRun, read_evaluation
from guided_grpo.evaluation.decoding import SYSTEMS, Decoding
from guided_grpo.evaluation.engines import TransformersEngine, seed_of, weights_of
from guided_grpo.evaluation.scoring import figures
from guided_grpo.store import rundir
from parts import SHARED

CHAINS = "chains:steps=3-4,count=24,seed=9"
SMALL = ["--samples", "4", "--max-tokens", "24", "--batch-size", "8", "--temperature", "1", "--top-p", "1", "--quiet"]
CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking %}<think>{% endif %}{% endif %}"
)


def evaluate(*words: str | Path, code: int = 0) -> None:
    assert main(["eval", *map(str, words)]) == code


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    evaluate(*words, code=2)
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


def plain(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.fixture(scope="module")
def whole(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation in one piece."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    evaluate("--model", policy_folder, "--data", CHAINS, *SMALL, "--output", folder)
    return folder


@pytest.fixture(scope="module")
def chat_folder(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The policy with a chat template, and a tokenizer that puts a special token in front of a plain text."""
    folder = tmp_path_factory.mktemp("chat")
    for path in policy_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    own, end = copy.deepcopy(tokenizer), str(tokenizer.eos_token)
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    own.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests of every evaluation, how they are answered, and the texts that end a response."""
    seen: list[Any] = []
    run, sample = CompletionRun.run, TransformersEngine.sample

    def spied(self: Any, requests: Any, engine: Any, grader: Any, *, stop: Any, **more: Any) -> None:
        seen.append((requests, self.decoding, tuple(stop)))
        run(self, requests, engine, grader, stop=stop, **more)

    def short(self: Any, prompts: Any, decoding: Decoding, **more: Any) -> Any:
        return sample(self, prompts, replace(decoding, max_tokens=4), **more)

    monkeypatch.setattr(CompletionRun, "run", spied)
    monkeypatch.setattr(TransformersEngine, "sample", short)
    return seen


def test_every_completion_is_kept_and_the_figures_are_theirs(whole: Path) -> None:
    settings, records = read_evaluation(whole)
    assert len(records) == 24 * 4 and {(r["problem"], r["sample"]) for r in records} == {
        (p, s) for p in range(24) for s in range(4)
    }
    assert settings["temperature"] == 1.0 and settings["data"] == CHAINS
    found = rundir.read_json(whole / "eval.json")
    assert found["accuracy"] == figures(records, 4)["accuracy"]
    assert found["problems"] == 24 and found["samples"] == 4 and set(found["pass"]) == {"1", "2", "4"}
    assert sum(found["verdicts"].values()) == 96 and found["tokens"] == sum(record["tokens"] for record in records)
    assert len({record["response"] for record in records}) > 40  # samples and batches have random streams of their own
    assert not any("guidance" in json.dumps(record) for record in records)


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_as_if_nothing_had_been(policy_folder: Path, tmp_path: Path, whole: Path) -> None:
    words = ["eval", "--model", str(policy_folder), "--data", CHAINS, *SMALL, "--output", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "guided_grpo.cli", *words], env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    path = tmp_path / "run" / COMPLETIONS
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_bytes().count(b"\n") > 8) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = path.read_bytes()
    if process.returncode == -signal.SIGKILL:  # else it was done before the signal came
        assert not (tmp_path / "run" / "eval.json").exists()
        assert left.count(b"\n") < 97
    evaluate(*words[1:])
    assert path.read_bytes().startswith(left[: left.rfind(b"\n") // 2])  # what was kept is kept
    assert plain(read_evaluation(tmp_path / "run")[1]) == plain(read_evaluation(whole)[1])


@pytest.mark.parametrize("lines", [1, 12.5, 96])
def test_a_run_in_pieces_has_the_responses_of_one_piece(
    lines: float, policy_folder: Path, tmp_path: Path, whole: Path
) -> None:
    """Cut off after so many completions, in the middle of a line too: whole batches stay, others are drawn again."""
    text = (whole / COMPLETIONS).read_bytes().splitlines(keepends=True)
    (tmp_path / COMPLETIONS).write_bytes(
        b"".join(text[: 1 + int(lines)]) + (text[1 + int(lines)][:30] if lines % 1 else b"")
    )
    stamp = b"".join(text[: 1 + int(lines) // 8 * 8])
    evaluate("--model", policy_folder, "--data", CHAINS, *SMALL, "--output", tmp_path)
    assert (tmp_path / COMPLETIONS).read_bytes().startswith(stamp)
    assert plain(read_evaluation(tmp_path)[1]) == plain(read_evaluation(whole)[1])
    first, second = (rundir.read_json(folder / "eval.json") for folder in (tmp_path, whole))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_a_finished_evaluation_loads_no_model(
    policy_folder: Path, whole: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "__init__", lambda *_: pytest.fail("a model was loaded"))
    evaluate("--model", policy_folder, "--data", CHAINS, *SMALL, "--output", whole)
    assert asked == []


def test_other_settings_are_refused_in_one_line(
    policy_folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", policy_folder, "--data", CHAINS, *SMALL, "--output", whole]
    before = (whole / COMPLETIONS).read_bytes()
    assert (
        "field 'temperature': 0.5 is not 1.0 of the completions that are there (what differs: temperature)"
        in refusal(capsys, *words, "--temperature", "0.5")
    )
    assert "field 'data'" in refusal(capsys, *words, "--data", CHAINS.replace("seed=9", "seed=8"))
    assert "field 'asked'" in refusal(capsys, *words, "--limit", "3")
    assert (whole / COMPLETIONS).read_bytes() == before
    (tmp_path / COMPLETIONS).write_text('{"settings": {}}\nnonsense\n')
    assert f"{COMPLETIONS}:2: is no line of an evaluation" in refusal(capsys, *words, "--output", tmp_path)


def test_a_folder_in_use_is_refused(policy_folder: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    with (whole / COMPLETIONS).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = refusal(capsys, "--model", policy_folder, "--data", CHAINS, *SMALL, "--output", whole)
    assert "is in use by another process" in line


def test_bad_usage(policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", policy_folder]
    source = tmp_path / "a.jsonl"
    source.write_text('{"problem": "1+1=", "answer": "2"}\n')
    cases = {
        "needs --model, and either --data or --benchmark": [*model],
        "'math50' is no benchmark": [*model, "--benchmark", "math50"],
        "names a benchmark twice": [*model, "--benchmark", f"amc23={source}", f"amc23={source}"],
        "is no JSON object": [*model, "--data", CHAINS, "--template-kwargs", "enable_thinking"],
        "field 'samples': 0 is out of range; fix: use a number 1 or more": [*model, "--data", CHAINS, "--samples", "0"],
        "field 'top_p': 0.0 is out of range; fix: use a number in (0, 1]": [
            *model,
            "--data",
            CHAINS,
            "--top-p",
            "0",
        ],
        "the prompts are plain text": [*model, "--data", CHAINS, "--system", "Be brief."],
        "has no chat template": [*model, "--benchmark", f"amc23={source}", "--system", "Be brief."],
        "the prompts are chats": [*model, "--data", CHAINS, "--prompt-style", "chat"],
        "'Answer:' has no place for the problem": [*model, "--data", CHAINS, "--template", "Answer:"],
    }
    for message, words in cases.items():
        assert message in refusal(capsys, *words)
    (tmp_path / "config.yaml").write_text("")
    assert "is a run directory" in refusal(capsys, *model, "--data", CHAINS, "--output", tmp_path)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_installed_is_one_line(policy_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "--model", policy_folder, "--data", CHAINS, *SMALL, "--engine", "vllm")
    assert "field 'engine': 'vllm' is not installed; fix: pip install 'guided-grpo[vllm]'" in line


def test_figures_alone_in_a_file(policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model",
        policy_folder,
        "--data",
        "chains:steps=3,count=4,seed=1",
        *SMALL,
        "--output",
        tmp_path / "e.json",
    ]
    evaluate(*words, "--json")
    printed, found = json.loads(capsys.readouterr().out), rundir.read_json(tmp_path / "e.json")
    assert printed == found and [path.name for path in tmp_path.iterdir()] == ["e.json"]
    names = {
        "accuracy",
        "interval",
        "problems",
        "tokens",
        "seconds",
        "truncated",
        "tiers",
        "verdicts",
        "scores",
        "temperature",
    }
    assert names <= set(found) and found["tiers"]["3"]["problems"] == 4


def test_chats_go_through_the_template(chat_folder: Path, asked: list[Any], tokenizer: Any) -> None:
    if not SHARED.is_dir():
        pytest.skip("the published file is not here")
    source = f"gsm8k={SHARED / 'gsm8k' / 'test.jsonl'}"
    words = [
        "--model",
        chat_folder,
        "--benchmark",
        source,
        "--limit",
        "2",
        "--max-tokens",
        "9",
        "--samples",
        "1",
        "--quiet",
    ]
    evaluate(*words, "--system", "Be brief.", "--template-kwargs", '{"enable_thinking": true}')
    evaluate(*words, "--system", "ghpo", "--decoding", "ghpo")
    evaluate(*words, "--prompt-style", "plain", "--decoding", "g2rpo-a", "--temperature", "0.7")
    ((a, *_), _, no_stop), ((b, *_), ghpo, _), ((c, *_), g2rpo, stop) = asked
    assert a.prompt.startswith("[system]Be brief.[user]") and a.prompt.endswith("[assistant]<think>")
    assert b.prompt.startswith(f"[system]{SYSTEMS['ghpo']}[user]") and b.prompt.endswith("[assistant]")
    assert c.prompt.startswith("Question: ") and c.prompt.endswith("\nAnswer:")
    end = tokenizer.eos_token_id  # a rendered chat has its special tokens already, a plain text gets them
    assert a.prompt_ids == tokenizer(a.prompt)["input_ids"] and c.prompt_ids == [end, *tokenizer(c.prompt)["input_ids"]]
    assert (no_stop, stop) == ((), ("\nQuestion:",))
    assert (ghpo.temperature, ghpo.top_p, ghpo.top_k, ghpo.max_tokens) == (0.01, 0.95, 0, 9)
    assert (g2rpo.temperature, g2rpo.top_p, g2rpo.top_k) == (0.7, 0.95, 20)


def test_a_benchmark_keeps_within_the_models_context(
    policy_folder: Path, tmp_path: Path, asked: list[Any], tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"problem": "1+1=", "answer": "2"}\n')
    evaluate("--model", policy_folder, "--benchmark", f"amc23={source}", "--samples", "1", "--quiet")
    [(requests, decoding, _)] = asked
    context = json.loads((policy_folder / "config.json").read_text())["max_position_embeddings"]
    assert decoding.max_tokens == context - len(requests[0].prompt_ids)
    source.write_text(json.dumps({"problem": "1+" * context + "1=", "answer": "2"}) + "\n")
    line = refusal(capsys, "--model", policy_folder, "--benchmark", f"amc23={source}", "--quiet")
    assert f"holds {context} tokens, and the longest prompt has" in line


def test_several_benchmarks_have_folders_of_their_own_and_are_compared_by_name(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amc, minerva = tmp_path / "amc.jsonl", tmp_path / "minerva.jsonl"
    amc.write_text("".join(f'{{"question": "{n}+1=", "answer": {n + 1}.0}}\n' for n in range(3)))
    minerva.write_text("".join(f'{{"question": "{n}+2=", "answer": "{n + 2}"}}\n' for n in range(2)))
    words = ["--model", policy_folder, "--benchmark", f"amc23={amc}", f"minerva={minerva}", *SMALL]
    evaluate(*words, "--output", tmp_path / "a")
    evaluate(*words, "--output", tmp_path / "b", "--seed", "1")
    assert "amc23\n" in capsys.readouterr().out
    assert rundir.read_json(tmp_path / "a" / "minerva" / "eval.json")["problems"] == 2
    evaluate("--compare", tmp_path / "a", tmp_path / "b", "--json", "--output", tmp_path / "difference.json")
    found = json.loads(capsys.readouterr().out)
    assert found == rundir.read_json(tmp_path / "difference.json")
    assert {name: each["accuracy"]["problems"] for name, each in found["sets"].items()} == {"amc23": 3, "minerva": 2}


def test_compared_runs(whole: Path, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(
        "--model", policy_folder, "--data", CHAINS, *SMALL, "--seed", "5", "--samples", "2", "--output", tmp_path / "b"
    )
    capsys.readouterr()
    evaluate("--compare", whole, tmp_path / "b")
    printed = capsys.readouterr().out
    assert "24 problems, 2 samples each" in printed and "pass@2" in printed and "p (paired t)" in printed
    evaluate("--compare", whole, whole, "--json")
    same = json.loads(capsys.readouterr().out)["sets"][whole.name]["accuracy"]
    assert (same["mean"], same["p_value"]) == (0.0, 1.0)
    evaluate("--model", policy_folder, "--data", CHAINS, *SMALL, "--limit", "5", "--output", tmp_path / "c")
    assert "lacks 19 of its" in refusal(capsys, "--compare", whole, tmp_path / "c")
    (tmp_path / "b" / "eval.json").unlink()
    assert "is not finished" in refusal(capsys, "--compare", whole, tmp_path / "b")
    assert "holds no completions.jsonl" in refusal(capsys, "--compare", whole, tmp_path / "nowhere")


def test_a_stop_ends_a_response_and_is_cut_off(policy: Any, tokenizer: Any) -> None:
    decoding = Decoding(temperature=1.0, top_p=1.0, top_k=0, max_tokens=30)
    prompts = tokenizer(["4+3*7=", "5+1="] * 8)["input_ids"]
    engine = TransformersEngine(policy, tokenizer)
    free = engine.sample(prompts, decoding, seed=0)
    character = max("0123456789", key=lambda c: sum(c in response.text for response in free))
    assert sum(character in response.text for response in free) > 3
    stopped = engine.sample(prompts, decoding, seed=0, stop=[character])
    assert [response.text.partition(character)[0] for response in free] == [response.text for response in stopped]
    for long, response in zip(free, stopped, strict=True):
        if character in long.text:  # the stop was generated too, and not much more
            assert response.ended and len(response.text) < len(response.ids) < len(long.ids)
            assert character not in response.text
        else:
            assert len(response.ids) == len(long.ids)


def test_seeds_and_weights_tell_things_apart(policy_folder: Path, tmp_path: Path) -> None:
    assert len({seed_of(0, number) for number in range(1000)} | {seed_of(1, number) for number in range(1000)}) == 2000
    assert all(0 <= seed_of("x", number) < 2**31 for number in range(100))
    name = weights_of(str(policy_folder))
    assert name and weights_of("Qwen/Qwen3-0.6B") == ""
    copy = tmp_path / "model.safetensors"
    data = bytearray((policy_folder / "model.safetensors").read_bytes())
    copy.write_bytes(data)
    assert weights_of(str(tmp_path)) == name
    data[-1] ^= 1
    copy.write_bytes(data)
    assert weights_of(str(tmp_path)) != name
