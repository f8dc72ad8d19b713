"""`guided-grpo data …` as a user runs it: real processes, real files, GSM8K whole, a kill in the middle."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from guided_grpo.cli import main
from guided_grpo.commands.data_prepare import parse
from guided_grpo.data.preparing.curate import REASONS
from guided_grpo.data.reading.readers import READERS
from guided_grpo.data.sources import load_rows

ROOT = Path(__file__).resolve().parents[2]
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k"
CONFIGS = sorted((ROOT / "configs" / "data").glob("*.yaml"))
GOOD = {"problem": "What is 2+2?", "answer": "4", "solution": "Two and two make 2+2 = 4. The answer is \\boxed{4}."}


def sums(path: Path, count: int, low: int = 0) -> Path:
    lines = [
        {
            "problem": f"{low + n}+1?",
            "answer": str(low + n + 1),
            "solution": f"Add one to {low + n}: it is \\boxed{{{low + n + 1}}} = x.",
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def data(*arguments: str, code: int = 0, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["data", *arguments]) == code
    return capsys.readouterr()


def test_prepare_writes_rows_rejects_and_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.jsonl"
    wrong = {**GOOD, "problem": "What is 2+3?"}
    lines = [
        json.dumps(GOOD),
        '{"broken"',
        json.dumps(GOOD),
        json.dumps(wrong),
        json.dumps({**GOOD, "problem": "4+0=?"}),
    ]
    lines[3] = lines[3].replace('"4"', '"5"')
    source.write_text("\n".join(lines) + "\n")
    out = tmp_path / "set"
    said, _ = data("prepare", "--source", str(source), "--output", str(out), "--explain", capsys=capsys)
    assert "2 rows of 5 records" in said
    assert "wrong-trace" in said and "solution: wrong, not equal ('4')" in said
    assert sorted(path.name for path in out.iterdir()) == ["card.json", "rejects.jsonl", "rows.jsonl"]
    rejects = jsonl(out / "rejects.jsonl")
    assert [(each["line"], each["reason"]) for each in rejects] == [
        (2, "not-json"),
        (3, "duplicate"),
        (4, "wrong-trace"),
    ]
    assert [each["original"] for each in rejects] == [lines[1], lines[2], lines[3]]
    card = json.loads((out / "card.json").read_text())
    assert (card["read"], card["rows"], card["rejected"]) == (5, 2, {"not-json": 1, "duplicate": 1, "wrong-trace": 1})
    assert card["recipe"]["verify"] == "strict"
    assert card["sources"][0]["sha256"] == subprocess.check_output(["sha256sum", str(source)], text=True).split()[0]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert load_rows(str(out / "rows.jsonl"))[:] == load_rows(str(out))[:]
    assert load_rows(str(out))["answer"] == ["4", "4"]


def test_an_output_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = sums(tmp_path / "a.jsonl", 3), tmp_path / "set"
    data("prepare", "--source", str(source), "--output", str(out), capsys=capsys)
    before = (out / "card.json").read_bytes()
    _, said = data("prepare", "--source", str(source), "--output", str(out), code=2, capsys=capsys)
    assert "is there already; fix: choose another folder, or say --overwrite" in said
    # A recipe that fails leaves the old set as it is.
    data(
        "prepare",
        "--source",
        str(source),
        "--output",
        str(out),
        "--max_prompt",
        "1",
        "--overwrite",
        code=2,
        capsys=capsys,
    )
    assert (out / "card.json").read_bytes() == before
    data("prepare", "--source", str(source), "--output", str(out), "--limit", "2", "--overwrite", capsys=capsys)
    assert len(jsonl(out / "rows.jsonl")) == 2
    # Killed between the two renames of an overwrite: the old set comes back.
    out.rename(tmp_path / ".set.old")
    _, said = data("prepare", "--source", str(source), "--output", str(out), code=2, capsys=capsys)
    assert "is there already" in said and len(jsonl(out / "rows.jsonl")) == 2
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    _, said = data("prepare", "--source", str(source), "--output", str(foreign), "--overwrite", code=2, capsys=capsys)
    assert "is there, and is no prepared set" in said and (foreign / "thesis.tex").exists()


def test_selection_loses_no_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.jsonl"
    rng = random.Random(2)
    records = [
        {"prompt": f"{n}+1=", "answer": str(n + 1), "guidance": f"Add one: {n}+1 = x", "difficulty": rng.randrange(10)}
        for n in range(40)
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "set"
    common = ["prepare", "--source", str(source), "--verify", "off", "--output", str(out), "--overwrite"]
    data(
        *common,
        "--limit",
        "30",
        "--order",
        "difficulty",
        "--sample_filter",
        '{"mode": "remove", "hard": 8}',
        "--seed",
        "5",
        capsys=capsys,
    )
    rows, rejects = jsonl(out / "rows.jsonl"), jsonl(out / "rejects.jsonl")
    assert [row["difficulty"] for row in rows] == sorted(row["difficulty"] for row in rows)
    assert max(row["difficulty"] for row in rows) < 8
    assert {each["reason"] for each in rejects} == {"limit", "hard"}
    originals = [json.loads(each["original"])["prompt"] for each in rejects]
    assert sorted([row["prompt"] for row in rows] + originals) == sorted(record["prompt"] for record in records)
    data(*common, "--sample_filter", '{"mode": "replace", "hard": 8, "moderate": 3}', capsys=capsys)
    card, rows = json.loads((out / "card.json").read_text()), jsonl(out / "rows.jsonl")
    assert len(rows) == 40 == card["rows"]
    assert card["repeated"] == card["rejected"]["replaced"] == sum(record["difficulty"] >= 8 for record in records)


def test_code_rows_load_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = {
        "language": "python",
        "test_cases": [{"type": "stdin_stdout", "input": "2", "output": "4\n", "fn_name": None}],
    }
    record = {
        "problem_statement": "Square.",
        "gold_standard_solution": "print(int(input())**2)",
        "verification_info": info,
    }
    source = tmp_path / "a.jsonl"
    source.write_text(
        json.dumps(record)
        + "\n"
        + json.dumps({**record, "problem_statement": "Cube.", "gold_standard_solution": "print(8)"})
        + "\n"
    )
    data("prepare", "--source", str(source), "--output", str(tmp_path / "set"), capsys=capsys)
    rows = load_rows(str(tmp_path / "set"))
    assert rows["tests"] == [[{"input": "2", "output": "4\n"}]]
    assert rows["task"] == ["code"] and rows["answer"] == [None]
    assert jsonl(tmp_path / "set" / "rejects.jsonl")[0]["detail"].startswith("gold_standard_solution: wrong")


def test_preparing_what_was_prepared_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.jsonl"
    think = {
        **GOOD,
        "problem": "What is 4-0?",
        "solution": "<think>\nNothing to take.\n</think>\n\nSo 4-0 = \\boxed{4} in all.",
    }
    source.write_text("".join(json.dumps({**record, "source": "olympiads"}) + "\n" for record in (GOOD, think)))
    data("prepare", "--source", str(source), "--output", str(tmp_path / "one"), capsys=capsys)
    data("prepare", "--source", str(tmp_path / "one"), "--output", str(tmp_path / "two"), capsys=capsys)
    assert jsonl(tmp_path / "one" / "rows.jsonl") == jsonl(tmp_path / "two" / "rows.jsonl")
    assert [row["trace"] for row in jsonl(tmp_path / "two" / "rows.jsonl")] == ["solution", "solution"]


@pytest.mark.slow
def test_a_killed_run_leaves_no_set_and_the_next_one_starts_anew(tmp_path: Path) -> None:
    source, out = sums(tmp_path / "a.jsonl", 60_000), tmp_path / "set"
    command = [sys.executable, "-m", "guided_grpo.cli", "data", "prepare", "--output", str(out), "--source"]
    process = subprocess.Popen([*command, str(source)])
    partial = tmp_path / ".set.partial" / "kept.jsonl"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert partial.exists() and not out.exists()
    small = sums(tmp_path / "b.jsonl", 50)
    subprocess.run([*command, str(small)], check=True, stdout=subprocess.DEVNULL)
    assert len(jsonl(out / "rows.jsonl")) == 50
    assert not partial.parent.exists()


@pytest.mark.slow
def test_an_interrupt_cleans_up(tmp_path: Path) -> None:
    source, out = sums(tmp_path / "a.jsonl", 60_000), tmp_path / "set"
    command = [
        sys.executable,
        "-m",
        "guided_grpo.cli",
        "data",
        "prepare",
        "--output",
        str(out),
        "--source",
        str(source),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / ".set.partial" / "kept.jsonl"
    while not (partial.exists() and partial.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted; nothing is left" in said and "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_a_terminal_sees_progress_in_bytes_and_rows(tmp_path: Path) -> None:
    source = sums(tmp_path / "a.jsonl", 3000)
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 120))
    process = subprocess.Popen(
        [sys.executable, "-m", "guided_grpo.cli", "data", "check", str(source), "--samples", "0"],
        stdout=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    assert process.wait() == 0
    assert b"100%" in seen and b"3,000 rows, " in seen and b"rows/s" in seen, seen


def test_check_is_one_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, tests = tmp_path / "a.jsonl", tmp_path / "bench.jsonl"
    records = [
        {
            "q": "Tom has 3 apples and buys 4 more.\nHow many?",
            "a": 7,
            "s": "He had 3.\nHe buys 4.\nIn all 3+4 = 7.\nThat is it.",
        },
        {"q": "Tom has 3 apples and buys 4 more. How many?", "a": 7, "s": "same"},
        {"q": "What is a half?", "a": "it depends on many different things", "s": "x"},
        {"q": "The sum of one and two and three and four is what?", "a": 10, "s": "1+2+3+4 = 10 by adding"},
        {"q": "1+1?", "a": 2, "s": None},
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    tests.write_text('{"question": "Say: the sum of one and two and three and four"}\n')
    arguments = [
        str(source),
        "--map",
        "prompt=q",
        "--map",
        "answer=a",
        "--map",
        "guidance=s",
        "--benchmark",
        str(tests),
        "--samples",
        "5",
    ]
    page, _ = data("check", *arguments, "--explain", capsys=capsys)
    assert "5 (reader plain); 2 make rows" in page
    for words in (
        "duplicates        1",
        "unparseable golds 1",
        "guidance    1 of 2 rows (50.0%)",
        "runs of 8 words shared with",
        "line 2: the problem of line 1",
    ):
        assert words in page
    quarter, half, most = (
        page.partition(f"── guidance {share}%\n")[2].partition("──")[0].rstrip() for share in (25, 50, 75)
    )
    assert (quarter, half) == ("He had 3.", "He had 3.\nHe buys 4.")
    assert most == half  # the third step states the answer, and no step is cut in two
    capsys.readouterr()
    assert main(["data", "check", *arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rejected"] == {"duplicate": 1, "unparseable-gold": 1, "contaminated": 1}
    assert figures["without_trace"] == {"no-trace": 1}
    assert [row["answer"] for row in figures["samples"]] == ["7", "2"]


def test_check_counts_tokens_with_the_policys_tokenizer(
    tmp_path: Path, policy_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"prompt": "4+3=", "answer": "7", "guidance": "+3=7;"}\n')
    data("check", str(source), "--tokenizer", str(policy_folder), capsys=capsys)
    assert main(["data", "check", str(source), "--tokenizer", str(policy_folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["prompt_tokens"]["max"], figures["trace_tokens"]["max"], figures["usable_tokens"]["max"]) == (
        4,
        5,
        3,
    )
    out = tmp_path / "set"
    common = [
        "prepare",
        "--source",
        str(source),
        "--verify",
        "off",
        "--tokenizer",
        str(policy_folder),
        "--output",
        str(out),
    ]
    data(*common, "--max_prompt", "3", code=2, capsys=capsys)
    data(*common, "--max_prompt", "4", capsys=capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["polish"], "'polish' is not a command of data; fix: use one of check, prepare"),
        (["check", "nowhere.jsonl"], "nowhere.jsonl: is not there"),
        (["check", "chains:steps=3,count=2", "--map", "prompt"], "'prompt' is not OURS=YOURS"),
        (["prepare", "--source", "chains:steps=3,count=2"], "field 'output': is missing"),
        (["prepare", "--config", "nowhere.yaml"], "field 'config': 'nowhere.yaml' is no file"),
        (["prepare", "--source", "x", "--limit", "ten"], "field 'limit': 'ten' is no whole number"),
        (["prepare", "--source", "x", "--require_trace", "no"], "is neither true nor false"),
        (["prepare", "--polish"], "unrecognized arguments: --polish; fix: see guided-grpo data prepare --help"),
        (["check", "chains:steps=3,count=2", "--benchmark", "nowhere.jsonl"], "offline_benchmarks: skip"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = data(*arguments, code=2, capsys=capsys)
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read(path: Path) -> None:
    recipe, _ = parse(["--config", str(path)])
    assert recipe.output == f"data/{path.stem}"
    assert (
        asdict(recipe).items() >= {k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "source"}.items()
    )


def test_there_is_a_recipe_for_each_set_of_the_papers() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {"g2rpo-a-math", "g2rpo-a-code", "s1k", "ghpo-math3to5", "ghpo-numinamath-s"}
    recipe, _ = parse(["--config", str(ROOT / "configs/data/g2rpo-a-math.yaml"), "--limit", "5", "--verify", "off"])
    assert (recipe.limit, recipe.verify, recipe.order) == (5, "off", "difficulty")


def test_the_recipe_of_the_paper_on_records_of_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiers = ["olympiads_ref", "cn_contest", "aops_forum", "olympiads", "amc_aime", "cn_k12"]
    records = [
        {
            "problem": f"Problem number {n}: what is {n}+{n}?", "solution": "", "answer": str(2 * n), "source": tiers[n % 6],
            "is_reasoning_complete": [True, n % 5 > 0], "correctness_math_verify": [False, True],
            "generations": ["<think>\nNo.\n</think>\nIt is clearly \\boxed{-1}, as x = -1.", f"<think>\nDouble {n}.\n</think>\nSo we have \\boxed{{{2 * n}}} = x."],
        }
        for n in range(60)
    ]  # fmt: skip
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = yaml.safe_load((ROOT / "configs/data/g2rpo-a-math.yaml").read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                **config,
                "source": str(source),
                "benchmarks": [],
                "tokenizer": None,
                "limit": 20,
                "output": str(tmp_path / "set"),
            }
        )
    )
    data("prepare", "--config", str(path), capsys=capsys)
    rows, card = jsonl(tmp_path / "set" / "rows.jsonl"), json.loads((tmp_path / "set" / "card.json").read_text())
    order = ["cn_contest", "aops_forum", "amc_aime", "olympiads", "olympiads_ref"]
    assert [row["difficulty"] for row in rows] == [tier for tier in order for _ in range(4)]
    assert {row["trace"] for row in rows} == {"generations[1]"}
    assert card["rejected"] == {"limit": 20, "tier": 10, "wrong-trace": 10}
    assert card["labels_against_verifier"]["data says not correct, verifier says not correct"] == 50
    assert all(row["guidance"][: row["guidance_limit"]].startswith("Double") for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(not GSM8K.is_dir(), reason=f"the GSM8K fixtures are not at {GSM8K}")
def test_gsm8k_through_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train against test as the benchmark: every record is a row or a reject, and the rejects are the originals."""
    train, test = GSM8K / "train.jsonl", GSM8K / "test.jsonl"
    out = tmp_path / "set"
    benchmarks = json.dumps([{"source": str(test), "name": "gsm8k-test"}])
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"benchmarks": json.loads(benchmarks), "order": "difficulty", "ngram": 8}))
    data("prepare", "--config", str(path), "--source", str(train), "--output", str(out), capsys=capsys)
    rows, rejects, card = (
        jsonl(out / "rows.jsonl"),
        jsonl(out / "rejects.jsonl"),
        json.loads((out / "card.json").read_text()),
    )
    assert card["read"] == 7473 == len(rows) + len(rejects)
    assert {each["reason"] for each in rejects} <= set(REASONS)
    lines = train.read_text().split("\n")
    assert all(lines[each["line"] - 1].strip() == each["original"] for each in rejects)
    contaminated = [each for each in rejects if each["reason"] == "contaminated"]
    whole = " ".join(json.loads(line)["question"].lower() for line in test.read_text().split("\n") if line)
    plain = " ".join("".join(c if c.isalnum() or c == "_" else " " for c in whole).split())
    assert all(each["detail"].removeprefix("gsm8k-test: ") in plain for each in contaminated)
    assert 0 < len(contaminated) < 400
    assert load_rows(str(out)).num_rows == len(rows)


@pytest.mark.slow
@pytest.mark.skipif(not GSM8K.is_dir(), reason=f"the code fixtures are not at {GSM8K.parent}")
@pytest.mark.parametrize(
    ("name", "rows", "rejected"),
    [("humaneval/HumanEval.jsonl.gz", 164, []), ("mbpp/MbppPlus.jsonl", 397, ["Mbpp/164", "Mbpp/295"])],
)
def test_references_of_code_sets_pass_their_own_tests(
    name: str, rows: int, rejected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two references of MBPP+ that fail are known to fail (docs/verifiers.md)."""
    out = tmp_path / "set"
    data("prepare", "--source", str(GSM8K.parent / name), "--output", str(out), capsys=capsys)
    assert [json.loads(each["original"])["task_id"] for each in jsonl(out / "rejects.jsonl")] == rejected
    loaded = load_rows(str(out))
    assert loaded.num_rows == rows
    assert all(
        0 < limit < len(trace) for limit, trace in zip(loaded["guidance_limit"], loaded["guidance"], strict=True)
    )


def test_the_page_lists_every_reader_reason_and_recipe() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    for name in READERS:
        assert f"| `{name}` |" in page
    for reason, meaning in REASONS.items():
        assert f"| `{reason}` | {meaning} |" in page
    for path in CONFIGS:
        assert f"| `{path.stem}` |" in page


def test_data_work_needs_no_training_libraries() -> None:
    code = (
        "import sys; from guided_grpo.commands import data_check, data_prepare; "
        "print({'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
