"""`data annotate` against a real server on loopback: kills, rates, bounds, troubles, and what ends up in the files."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from guided_grpo import cli
from guided_grpo.data.annotating.annotate import JOURNAL
from guided_grpo.data.annotating.answer_journal import AnswerJournal
from guided_grpo.data.annotating.teacher import TeacherAnswer, read_answer
from guided_grpo.data.annotating.teacher_settings import RequestSettings
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.grading.maths import check_maths
from guided_grpo.types import Status

pytestmark = pytest.mark.slow

KEY = "sk-loopback-0123456789"
COMMAND = [sys.executable, "-m", "guided_grpo.cli", "data", "annotate"]


class Server:
    def __init__(self, folder: Path, *options: str) -> None:
        self.log_file = folder / f"teacher-{time.monotonic_ns()}.log"
        self.log_file.touch()
        script = Path(__file__).parents[1] / "support" / "teacher_server.py"
        command = [sys.executable, "-S", str(script), str(self.log_file), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}/v1"

    def log(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in map(json.loads, self.log_file.read_text().splitlines()) if entry["event"] == event]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.communicate()


def sums(count: int, word: str = "", **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i} + {2 * i}? {word}", "answer": str(3 * i), **more} for i in range(10, 10 + count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def words(server: Server, data: Path, output: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--output", str(output), "--model", "teacher", "--base-url", server.url, *more]


class Asked:
    """One call of the command in this process: exit code, totals, message."""

    def __init__(self, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
        self.code = cli.main(["data", "annotate", "--json", *arguments])
        out, self.error = capsys.readouterr()
        self.totals = json.loads(out) if out else {}


def answered_ids(journal: Path) -> list[str]:
    """Which answers a journal holds, by the server's own ids in their texts; a half-written line is none."""
    whole = [line for line in journal.read_text().split("\n")[:-1] if '"text"' in line]
    return [json.loads(line)["text"].split("(id ")[1][:16] for line in whole]


def test_the_best_verified_answer_becomes_guidance(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--right", "50")
    rows = [*sums(12), {**sums(1)[0], "prompt": "What is 1 + 1? [wrong]"}, {**sums(1)[0], "guidance": "known"}]
    data, outputs = write(tmp_path / "data.jsonl", rows), {}
    for choose in ("shortest", "longest"):
        outputs[choose] = tmp_path / f"{choose}.jsonl"
        asked = Asked(capsys, words(server, data, outputs[choose], "--samples", "5", "--choose", choose))
        assert asked.code == 0
    totals = asked.totals
    assert (totals["rows"], totals["skipped"], totals["answers"], totals["requests"]) == (14, 1, 65, 65)
    assert totals["annotated"] + totals["not_solved"] == 13 and totals["not_solved"] >= 1
    said = [json.loads(line)["text"] for line in read_lines(tmp_path / f"longest.jsonl{JOURNAL}") if '"text"' in line]
    for row, short, long in zip(rows, read(outputs["shortest"]), read(outputs["longest"]), strict=True):
        if "guidance" in row:
            assert short["guidance"] == long["guidance"] == "known" and short["teacher"] is None
            continue
        question = row["prompt"].split("? ")[0].removeprefix("What is ").replace(" + ", " and ")
        mine = [text for text in said if text.startswith(f"We add {question};")]
        right = sorted((t for t in mine if check_maths(t, row["answer"]).status is Status.CORRECT), key=len)
        assert len(mine) == 5
        assert (short["teacher"]["samples"], short["teacher"]["correct"]) == (5, len(right))
        if not right:
            assert short["guidance"] is None and short["teacher"]["sample"] is None
            continue
        assert (len(short["guidance"]), len(long["guidance"])) == (len(right[0]), len(right[-1]))
        assert short["guidance"] in right and long["guidance"] in right
        assert "answer is" not in short["guidance"][: short["guidance_limit"]]
    assert load_rows(str(outputs["shortest"]))["guidance"][0] == read(outputs["shortest"])[0]["guidance"]


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_killed_at_random_moments_and_resumed(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes, and only what was in flight at a kill is asked again."""
    concurrency, behaviour = 6, ("--delay", "0.05", "--right", "55")
    data = write(tmp_path / "data.jsonl", [*sums(20), *sums(2, "[think]"), *sums(2, "[cut]")])
    options = ["--samples", "3", "--concurrency", str(concurrency)]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    server = serve(*behaviour)
    assert Asked(capsys, words(server, data, whole, *options)).code == 0
    assert len(server.log("asked")) == len(server.log("answered")) == 72

    server = serve(*behaviour)
    rng, journal, lost, kills = random.Random(20), killed.with_name(killed.name + JOURNAL), set(), 0
    for target in sorted(rng.sample(range(45), 4)):
        process = subprocess.Popen(
            [*COMMAND, *words(server, data, killed, *options)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and (not journal.exists() or len(answered_ids(journal)) < target):
            time.sleep(0.02)
        time.sleep(rng.random() * 0.1)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        time.sleep(0.2)  # what was in flight is answered into the void, and the server's log is complete
        in_flight = {entry["id"] for entry in server.log("asked")} - set(answered_ids(journal))
        assert len(in_flight) <= concurrency and not killed.exists()
        lost |= in_flight
        with journal.open("ab") as file:  # as a kill inside the write would leave it
            file.write(b'{"row": "0123456789", "sample"')
    assert kills == 4
    asked_before = len(server.log("asked"))
    assert 0 < len(answered_ids(journal)) < 72
    done = Asked(capsys, words(server, data, killed, *options))
    assert killed.read_bytes() == whole.read_bytes()
    assert done.totals["requests"] == len(server.log("asked")) - asked_before > 0
    assert sorted(answered_ids(journal)) == sorted({entry["id"] for entry in server.log("asked")})  # 72, once each
    repeats = {ident: count - 1 for ident, count in Counter(e["id"] for e in server.log("asked")).items() if count > 1}
    assert set(repeats) <= lost, "asked again though its answer was in the journal"
    assert sum(repeats.values()) <= kills * concurrency
    again = Asked(capsys, words(server, data, killed, *options))
    assert again.totals["requests"] == 0 and killed.read_bytes() == whole.read_bytes()
    unlike = ("requests", "seconds")
    assert {k: v for k, v in again.totals.items() if k not in unlike} == {
        k: v for k, v in done.totals.items() if k not in unlike
    }


def test_a_journal_cut_anywhere_gives_the_same_bytes(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    data, output = write(tmp_path / "data.jsonl", sums(4)), tmp_path / "out.jsonl"
    arguments = words(server, data, output, "--samples", "2", "--choose", "first")
    assert Asked(capsys, arguments).code == 0
    journal = output.with_name(output.name + JOURNAL)
    whole, content, rng = output.read_bytes(), journal.read_bytes(), random.Random(4)
    answers = content.count(b'"text"')
    for cut in [0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(3))]:
        journal.write_bytes(content[:cut])
        left = len(answered_ids(journal))
        asked = Asked(capsys, arguments)
        assert (asked.code, asked.totals["requests"], output.read_bytes()) == (0, answers - left, whole)
    journal.write_bytes(content.replace(b'"sample": 0', b'"sample": ', 1))
    damaged = Asked(capsys, arguments)
    assert damaged.code == 2 and "is no line of a journal" in damaged.error


def test_first_asks_no_further_than_a_correct_answer(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--right", "50")
    data, output = write(tmp_path / "data.jsonl", sums(20)), tmp_path / "out.jsonl"
    assert Asked(capsys, words(server, data, output, "--samples", "4", "--choose", "first")).code == 0
    for row in read(output):
        teacher = row["teacher"]
        assert teacher["correct"] == (row["guidance"] is not None)
        assert teacher["samples"] == (4 if teacher["sample"] is None else teacher["sample"] + 1)
    assert {row["teacher"]["samples"] for row in read(output)} >= {1, 2}
    assert len(server.log("asked")) == sum(row["teacher"]["samples"] for row in read(output))


def test_seeds_differ_by_sample_and_stay_with_their_row(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    rows = sums(6)
    forward, backward = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", [*rows[::-1], rows[0]])
    for data, name in ((forward, "a.out"), (backward, "b.out")):
        assert Asked(capsys, words(server, data, tmp_path / name, "--samples", "3")).code == 0
    first, second = (read(tmp_path / name) for name in ("a.out", "b.out"))
    assert second[:6] == first[::-1] and second[6] == first[0]  # the same prompt twice is asked once
    asked = [(e["body"]["messages"][-1]["content"], e["seed"]) for e in server.log("asked")]
    assert len(asked) == 36 and set(Counter(asked).values()) == {2} and all(0 <= seed < 2**31 for _, seed in asked)
    other = Asked(capsys, words(server, forward, tmp_path / "c.out", "--seed", "7"))
    assert other.code == 0 and not {e["seed"] for e in server.log("asked")[36:]} & {seed for _, seed in asked}
    bare = Asked(capsys, words(server, forward, tmp_path / "d.out", "--no-seed", "--limit", "1"))
    assert bare.totals["rows"] == 1 and "seed" not in server.log("asked")[-1]["body"]


def test_chats_systems_and_settings_are_sent_as_given(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--right", "100")
    turn = {"role": "user", "content": "What is 2 + 3?"}
    chat = [
        {"role": "system", "content": "Be short.", "name": "s"},
        turn,
    ]  # the user's turn gets a null name in a table
    data = write(tmp_path / "chat.jsonl", [{"question": chat, "gold": 5}])
    mapped = ["--map", "prompt=question", "--map", "answer=gold"]
    settings = ["--temperature", "0.7", "--top-p", "0.9", "--max-tokens", "64", "--extra", '{"top_k": 20}']
    asked = Asked(capsys, words(server, data, tmp_path / "a.out", *mapped, *settings))
    assert asked.totals["annotated"] == 1
    body = server.log("asked")[-1]["body"]
    assert body.pop("seed") >= 0
    assert body == {
        "model": "teacher", "messages": chat, "temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "top_k": 20
    }  # fmt: skip
    twice = Asked(capsys, words(server, data, tmp_path / "b.out", *mapped, "--system", "Be long."))
    assert twice.code == 2 and "chat.jsonl:1: field 'prompt': has a system message of its own" in twice.error
    plain = write(tmp_path / "plain.jsonl", sums(1))
    assert Asked(capsys, words(server, plain, tmp_path / "c.out", "--system", "Be long.")).code == 0
    roles = [message["role"] for message in server.log("asked")[-1]["body"]["messages"]]
    assert roles == ["system", "user"] and len(server.log("asked")) == 2


def test_thinking_and_answers_that_were_cut_off(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--right", "100")
    data = write(tmp_path / "data.jsonl", [*sums(1, "[think]"), *sums(1, "[reason]"), *sums(1, "[cut]")])
    output = tmp_path / "out.jsonl"
    asked = Asked(capsys, words(server, data, output))
    think, reason, cut = read(output)
    for row in (think, reason):
        # Placement opens the block (guidance/placement.py), so the trace does not; guidance ends where it closes.
        assert row["guidance"].startswith("Let me think of ") and "\n</think>\n\nWe add" in row["guidance"]
        assert row["guidance"][: row["guidance_limit"]].startswith("Let me think of ")
        assert "</think>" not in row["guidance"][: row["guidance_limit"]]
    assert cut["guidance"] is None and asked.totals["statuses"] == {"correct": 2, "length": 1}
    texts = [
        json.loads(line)["text"] for line in read_lines(output.with_name(output.name + JOURNAL)) if '"text"' in line
    ]
    assert len(texts) == 3 and sum(text.startswith("<think>\nLet me think") for text in texts) == 2


def test_code_rows(serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve("--right", "60")
    tests = ["assert f(2) == 6", "assert f(5) == 15"]
    rows = [{"prompt": f"Write f(x) = x * 3. Number {i}.", "tests": tests} for i in range(6)]
    rows += [{"prompt": "Write f(x) = x * 3. [wrong]", "tests": tests}, {"prompt": "Write f(x) = x * 3. [hang]", "tests": tests[:1]}]  # fmt: skip
    output = tmp_path / "out.jsonl"
    options = ["--samples", "2", "--code-seconds", "0.5"]
    asked = Asked(capsys, words(server, write(tmp_path / "d.jsonl", rows), output, *options))
    if "the code sandbox cannot start" in asked.error:
        pytest.skip(asked.error)
    *normal, wrong, hang = read(output)
    assert asked.totals["statuses"]["timeout"] == 2  # a verdict of its own: the program used up its time
    assert wrong["guidance"] is None and hang["guidance"] is None and hang["teacher"]["correct"] == 0
    assert any(row["guidance"] for row in normal)
    for row in normal:
        assert row["guidance"] is None or ("return x * 3 \n" in row["guidance"] and "+ 1" not in row["guidance"])
    assert output.with_name(output.name + JOURNAL).read_text().count('"timeout"') == 2


def test_grading_does_not_hold_up_the_asking(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One program runs for its 2 s while the other questions are asked, one every 0.05 s."""
    server = serve("--delay", "0.05", "--right", "100")
    hang = {"prompt": "Write f(x) = x * 3. [hang]", "tests": ["assert f(2) == 6"]}
    data = write(tmp_path / "data.jsonl", [hang, *sums(20)])
    asked = Asked(capsys, words(server, data, tmp_path / "out.jsonl", "--concurrency", "1", "--code-seconds", "2"))
    if "the code sandbox cannot start" in asked.error:
        pytest.skip(asked.error)
    assert asked.totals["statuses"] == {"timeout": 1, "correct": 20} and asked.totals["seconds"] > 2
    assert max(later["at"] - earlier["at"] for earlier, later in pairwise(server.log("asked"))) < 1


def test_unverified_ones_are_kept_only_when_asked_for(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    data, output = write(tmp_path / "data.jsonl", sums(3, "[wrong]")), tmp_path / "out.jsonl"
    first = Asked(capsys, words(server, data, output, "--samples", "2"))
    assert (first.totals["annotated"], first.totals["not_solved"]) == (0, 3)
    assert [row["guidance"] for row in read(output)] == [None] * 3
    kept = Asked(capsys, words(server, data, output, "--samples", "2", "--keep-unverified"))
    assert (kept.totals["annotated"], kept.totals["unverified"], kept.totals["requests"]) == (3, 3, 0)
    assert all(row["guidance"] and row["teacher"]["status"] == "wrong" for row in read(output))


def test_again_replaces_only_by_a_verified_trace(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--right", "100")
    old = {"guidance": "old", "guidance_limit": 1}
    data = write(tmp_path / "data.jsonl", [*sums(1, **old), *sums(1, "[wrong]", **old)])
    assert Asked(capsys, words(server, data, tmp_path / "a.out")).totals["skipped"] == 2
    assert server.log("asked") == []
    Asked(capsys, words(server, data, tmp_path / "b.out", "--again"))
    new, kept = read(tmp_path / "b.out")
    assert new["guidance"].startswith("We add") and new["guidance_limit"] > 1
    assert (kept["guidance"], kept["guidance_limit"]) == ("old", 1)


def test_rate_of_requests_holds_with_retries(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "data.jsonl", sums(6))
    server = serve("--troubles", "429", "--after", "0.05")
    limited = words(server, data, tmp_path / "a.out", "--requests-per-minute", "600")
    totals = Asked(capsys, limited).totals
    assert (totals["requests"], totals["retries"], totals["failed"]) == (12, 6, 0)
    times = [entry["at"] for entry in server.log("asked")]
    assert times[-1] - times[0] > 1.05  # 11 gaps of 0.1 s, but for the way to the server
    assert max(sum(start <= at < start + 0.5 for at in times) for start in times) <= 7
    free = serve("--troubles", "429", "--after", "0.05")
    Asked(capsys, words(free, data, tmp_path / "b.out"))
    times = [entry["at"] for entry in free.log("asked")]
    assert times[-1] - times[0] < 1.0  # the same without a limit


def test_rate_of_tokens_counts_what_was_used(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """120 tokens an answer, 600 a second: 0.2 s each, although each might have taken 1,000."""
    server = serve()
    data = write(tmp_path / "data.jsonl", sums(7))
    limits = ["--tokens-per-minute", "36000", "--max-tokens", "1000", "--concurrency", "1"]
    assert Asked(capsys, words(server, data, tmp_path / "out.jsonl", *limits)).code == 0
    times = [entry["at"] for entry in server.log("asked")]
    assert 1.15 < times[-1] - times[0] < 4.0


def test_concurrency_is_reached_and_not_passed(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--delay", "0.1")
    data = write(tmp_path / "data.jsonl", sums(20))
    assert Asked(capsys, words(server, data, tmp_path / "out.jsonl", "--concurrency", "5")).code == 0
    assert max(entry["flying"] for entry in server.log("asked")) == 5


@pytest.mark.parametrize("trouble", ["429", "500", "503", "drop", "garbage", "empty"])
def test_troubles_are_retried(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    server = serve("--troubles", trouble, "--right", "100")
    data = write(tmp_path / "data.jsonl", sums(3))
    totals = Asked(capsys, words(server, data, tmp_path / "out.jsonl")).totals
    assert (totals["annotated"], totals["requests"], totals["retries"], totals["failed"]) == (3, 6, 3, 0)


def test_giving_up_leaves_rows_for_the_next_run(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = write(tmp_path / "data.jsonl", [*sums(2), *sums(1, "[refuse]")]), tmp_path / "out.jsonl"
    bad = serve("--troubles", "garbage,garbage,500,500", "--right", "100")
    first = Asked(capsys, words(bad, data, output, "--retries", "1"))
    assert first.code == 1 and "3 questions got no answer" in first.error and first.error.count("\n") == 1
    assert (first.totals["failed"], first.totals["refused"], first.totals["incomplete"]) == (2, 1, 3)
    assert first.totals["requests"] == 5 and [row["guidance"] for row in read(output)] == [None] * 3
    good = serve("--right", "100")
    second = Asked(capsys, words(good, data, output, "--retries", "1"))
    assert (second.code, second.totals["annotated"], second.totals["incomplete"]) == (1, 2, 1)
    assert "the prompt is too long" in second.error


def test_a_dead_endpoint_ends_the_run(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--troubles", "500", "--forever")
    data = write(tmp_path / "data.jsonl", sums(40))
    asked = Asked(capsys, words(server, data, tmp_path / "out.jsonl", "--retries", "0", "--concurrency", "2"))
    assert asked.code == 1 and asked.totals["stopped"] == "no_answers"
    assert 10 <= len(server.log("asked")) <= 12 and asked.totals["incomplete"] == 40
    refusing = write(tmp_path / "refused.jsonl", sums(40, "[refuse]"))
    asked = Asked(capsys, words(serve(), refusing, tmp_path / "b.jsonl", "--concurrency", "2"))
    assert asked.code == 2 and "refuses every question" in asked.error and "the prompt is too long" in asked.error


def test_wrong_key_and_unknown_model_end_at_once_and_the_key_is_shown_nowhere(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    data, output = write(tmp_path / "data.jsonl", sums(30)), tmp_path / "out.jsonl"
    strict = serve("--key", "another")
    wrong = Asked(capsys, words(strict, data, output, "--api-key-env", "MY_KEY", "--concurrency", "2"))
    assert (wrong.code, wrong.totals, wrong.error.count("\n")) == (2, {}, 1)
    assert (
        "401" in wrong.error and "Incorrect API key provided: [key]" in wrong.error and "--api-key-env" in wrong.error
    )
    assert len(strict.log("asked")) <= 4 and not output.exists()
    open_to_us = serve("--key", KEY)
    unknown = words(open_to_us, data, tmp_path / "b.out", "--api-key-env", "MY_KEY")
    unknown[unknown.index("teacher")] = "nobody"
    missing = Asked(capsys, unknown)
    assert missing.code == 2 and "404" in missing.error and "nobody does not exist" in missing.error
    right = Asked(capsys, words(open_to_us, data, tmp_path / "b.out", "--api-key-env", "MY_KEY"))
    assert right.code == 0  # a journal without answers does not insist on the model that does not exist
    monkeypatch.setenv("MY_KEY", f"{KEY}\u20ac")
    torn = Asked(capsys, words(open_to_us, data, tmp_path / "c.out", "--api-key-env", "MY_KEY"))
    assert torn.code == 2 and "'MY_KEY' holds no key" in torn.error
    assert {entry["key"] for entry in open_to_us.log("asked")} == {f"Bearer {KEY}"}
    assert KEY not in wrong.error + missing.error + right.error + torn.error + json.dumps(right.totals)
    ours = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("teacher-")]
    assert tmp_path / "b.out" in ours and not any(KEY in path.read_text() for path in ours)


def test_cost_is_counted_and_bounded_over_runs(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 tokens in at 5 and 300 out at 20 a million: 0.007 an answer."""
    server = serve("--tokens-in", "200", "--tokens-out", "300")
    data, output = write(tmp_path / "data.jsonl", sums(12)), tmp_path / "out.jsonl"
    arguments = words(server, data, output, "--price-in", "5", "--price-out", "20", "--concurrency", "1")
    first = Asked(capsys, [*arguments, "--max-cost", "0.02"])
    assert (first.code, first.totals["stopped"], first.totals["answers"]) == (0, "max_cost", 3)
    assert (first.totals["tokens_in"], first.totals["tokens_out"]) == (600, 900)
    assert first.totals["cost"] == pytest.approx(0.021) and first.totals["incomplete"] >= 9
    still = Asked(capsys, [*arguments, "--max-cost", "0.02"])
    assert (still.totals["requests"], still.totals["answers"]) == (0, 3)
    rest = Asked(capsys, arguments)
    assert (rest.totals["requests"], rest.totals["stopped"]) == (9, None)
    assert rest.totals["cost"] == pytest.approx(0.084)


def test_settings_that_change_the_answers_need_another_output(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    data, output = write(tmp_path / "data.jsonl", sums(2)), tmp_path / "out.jsonl"
    assert Asked(capsys, words(server, data, output, "--temperature", "1.0")).code == 0
    other = Asked(capsys, words(server, data, output, "--temperature", "0.5"))
    assert other.code == 2 and "field 'temperature': 0.5 is not 1.0 of the answers that are there" in other.error
    more = Asked(capsys, words(serve(), data, output, "--temperature", "1.0", "--samples", "3", "--concurrency", "2"))
    assert (more.code, more.totals["requests"]) == (0, 4)  # another port, more samples: only these are asked
    foreign = write(tmp_path / "foreign.jsonl", sums(1))
    assert "has no journal" in Asked(capsys, words(server, data, foreign)).error
    assert read(foreign) == sums(1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-cost", "1"], "field 'max_cost': needs prices"),
        (["--tokens-per-minute", "9"], "field 'tokens_per_minute': needs the largest answer"),
        (["--samples", "0"], "field 'samples': 0 is out of range; fix: "),
        (["--requests-per-minute", "0"], "field 'requests_per_minute': 0.0 is out of range; fix: "),
        (["--base-url", "localhost:8000"], "field 'base_url': 'localhost:8000' is no address"),
        (["--extra", "[1]"], "field 'extra': '[1]' is no object"),
        (["--map", "prompt"], "field 'map': 'prompt' is not OURS=YOURS"),
        (["--choose", "best"], "invalid choice: 'best'"),
        (["--output", "nowhere/out.jsonl"], "folder that does not exist"),
    ],
)
def test_bad_usage_is_one_line(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    server = serve()
    asked = Asked(capsys, words(server, write(tmp_path / "data.jsonl", sums(1)), tmp_path / "out.jsonl", *more))
    assert (asked.code, asked.error.count("\n")) == (2, 1) and message in asked.error and "; fix: " in asked.error
    assert server.log("asked") == [] and not list(tmp_path.glob("out*"))


def test_a_bad_row_is_found_before_anything_is_asked(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, output = serve(), tmp_path / "out.jsonl"
    for row, message in (
        ({"prompt": "p", "tests": ["assert True"]}, "data.jsonl:2: field 'tests': "),
        ({"prompt": "p", "answer": "1", "teacher": "me"}, "data.jsonl:2: field 'teacher': "),
    ):
        first = {"prompt": "q", "tests": ["assert f(1) == 2"]} if "tests" in row else {"prompt": "q", "answer": "2"}
        asked = Asked(capsys, words(server, write(tmp_path / "data.jsonl", [first, row]), output))
        assert asked.code == 2 and message in asked.error
    monkey = Asked(capsys, words(server, tmp_path / "data.jsonl", output)[:-2])
    assert monkey.code == 2 and "'OPENAI_API_KEY' is not set" in monkey.error
    assert server.log("asked") == []


def test_interrupt_exits_with_130_and_goes_on(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve("--delay", "0.1")
    data, output = write(tmp_path / "data.jsonl", sums(40)), tmp_path / "out.jsonl"
    arguments = words(server, data, output, "--concurrency", "4")
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(server.log("answered")) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 130 and "interrupted; the same command goes on from here" in error
    assert "Traceback" not in error and not output.exists()
    kept = len(answered_ids(output.with_name(output.name + JOURNAL)))
    assert kept >= 4
    assert Asked(capsys, arguments).totals["requests"] == 40 - kept and len(read(output)) == 40


def test_one_process_at_a_time(tmp_path: Path) -> None:
    settings = {"model": "m"}
    with AnswerJournal(tmp_path / "j", settings) as journal:
        journal.add(("row", 0), TeacherAnswer("text", "stop", 1, None))
        with pytest.raises(InputError, match="is in use by another process"):
            AnswerJournal(tmp_path / "j", settings)
    with AnswerJournal(tmp_path / "j", settings) as journal:
        assert journal.text(("row", 0)) == "text" and journal.entries["row", 0].tokens_out is None


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "{}", '{"choices": []}', '{"choices": [{}]}', '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": 3}}]}', '{"choices": [{"message": {}}]}', '{"choices": 1}',
    ],
)  # fmt: skip
def test_what_is_no_answer(body: str) -> None:
    with pytest.raises(ValueError, match=r"^(it|its) "):
        read_answer(body.encode())


def test_what_is_an_answer() -> None:
    silent = {"choices": [{"message": {"content": None, "reasoning": "r"}, "finish_reason": None}]}
    assert read_answer(json.dumps(silent).encode()) == TeacherAnswer("<think>\nr\n</think>\n\n", "stop", None, None)
    torn = b'{"choices": [{"message": {"content": "a\\ud83d"}}], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}'
    assert read_answer(torn) == TeacherAnswer("a?", "stop", 2, 1)
    assert RequestSettings("m").body("p", "row", 0) != RequestSettings("m").body("p", "row", 1)


def test_a_problem_in_two_columns(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = write(tmp_path / "data.jsonl", [{"a": "What is 17", "b": 25, "sum": 42}]), tmp_path / "out.jsonl"
    mapping = ["--map", "prompt={a} + {b}?", "--map", "answer=sum"]
    assert Asked(capsys, words(serve("--right", "100"), data, output, *mapping)).totals["annotated"] == 1
    [row] = read(output)
    assert (row["prompt"], row["answer"]) == ("What is 17 + 25?", "42") and row["guidance"]
