"""`guided-grpo compare --jobs 2`: real processes; one fails, a real interrupt, a second start that ends what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from guided_grpo.cli import main
from guided_grpo.commands import queue
from guided_grpo.store import rundir
from parts import SHARED, small_run  # noqa: F401  # sets HF_HUB_OFFLINE for the children

pytestmark = pytest.mark.slow


def write_plan(folder: Path, policy: Path, variants: dict[str, Any], **changes: Any) -> Path:
    settings = {**small_run(policy), "save_strategy": "steps", "save_steps": 1, "rollouts_every": 0, **changes}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    plan = {"config": "run.yaml", "output_dir": str(folder / "out"), "seeds": [0], "variants": variants}
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


def alive_with(text: str) -> list[int]:
    """Processes whose command line has `text`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def untimed(summary: dict[str, Any]) -> str:
    """Everything but the clock."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: kept(v) for k, v in value.items() if "seconds" not in k and k not in ("report", "warnings")}
        return [kept(item) for item in value] if isinstance(value, list) else value

    return json.dumps(kept(summary), sort_keys=True)


def test_jobs_run_side_by_side_and_one_bad_run_does_not_end_the_rest(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"grpo": {"method": "grpo"}, "bad": {"eval_data": "missing.jsonl"}, "short": {"max_steps": 1}}
    path = write_plan(tmp_path, policy_folder, variants, max_steps=2)
    words = ["compare", "--config", str(path), "--quiet", "--json"]
    assert main([*words, "--jobs", "2"]) == 1
    told = capsys.readouterr()
    summary = json.loads(told.out)
    assert "warning: the budgets differ: grpo (max_steps 2), bad (max_steps 2), short (max_steps 1)" in told.err
    [bad] = [run for run in summary["runs"] if "error" in run]
    log = tmp_path / "out" / "bad-seed0" / "train.log"
    assert bad["variant"] == "bad"
    assert "missing.jsonl" in bad["error"] and bad["error"].endswith(f"(exit code 2; see {log})")
    assert [run["steps"] for run in summary["runs"] if "error" not in run] == [2, 1]
    assert told.err.index("started") < told.err.index("[1/3]")
    assert main([*words, "--plan"]) == 0
    states = json.loads(capsys.readouterr().out)
    assert [(state["state"], state["step"]) for state in states] == [("finished", 2), ("to do", None), ("finished", 1)]
    # In this process: the same figures, and the bad run does not end the queue here either.
    alone = [*words, "--output_dir", str(tmp_path / "alone")]
    assert main(alone) == 1
    one = json.loads(capsys.readouterr().out)
    named = untimed(one["variants"])
    assert named == untimed(summary["variants"])


def test_an_interrupt_leaves_no_child_and_the_queue_goes_on(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"grpo": {"method": "grpo"}, "fixed": {"method": "fixed"}}
    path = write_plan(tmp_path, policy_folder, variants, max_steps=60)
    one = ["compare", "--config", str(path), "--quiet"]
    words = [*one, "--jobs", "2"]
    command = [sys.executable, "-m", "guided_grpo.cli", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    marks = [tmp_path / "out" / f"{name}-seed0" / "checkpoint-2" / "complete.json" for name in variants]
    end = time.monotonic() + 200
    while not all(any(mark.parent.parent.glob("checkpoint-*/complete.json")) for mark in marks):
        assert time.monotonic() < end and child.poll() is None, child.communicate()
        time.sleep(0.1)
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, "goes on from here" in err) == (130, True), err
    assert time.monotonic() - started < queue.GRACE + 10
    assert alive_with(str(tmp_path / "out")) == []
    assert not (tmp_path / "out" / "summary.json").exists()
    assert main([*words, "--plan"]) == 0
    states = capsys.readouterr().out
    assert states.count("partly done at step") == 2 and "0 of 2 runs are finished" in states
    assert main(words) == 0
    assert "going on from step" in (tmp_path / "out" / "fixed-seed0" / "train.log").read_text()
    # A queue in one piece has the same figures; in this process, which is the cheapest.
    whole = tmp_path / "whole"
    assert main([*one, "--output_dir", str(whole)]) == 0
    first, second = (rundir.read_json(folder / "summary.json") for folder in (tmp_path / "out", whole))
    assert untimed(first["variants"]) == untimed(second["variants"])


def test_a_run_that_another_process_trains_is_left_alone(policy_folder: Path, tmp_path: Path) -> None:
    from guided_grpo.commands.compare import _queue

    path = write_plan(tmp_path, policy_folder, {"a": {}})
    [job] = _queue(path.parent / "run.yaml", tmp_path / "out", [0], {"a": {}}, quiet=True)
    job.folder.mkdir(parents=True)
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(99)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(job.folder / rundir.LOG)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()
    try:
        [result] = queue.run_queue([job], 2)
    finally:
        holder.kill()
        holder.communicate()
    assert "another process trains it" in result["error"]


def test_devices_and_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, policy_folder: Path, tmp_path: Path) -> None:
    from guided_grpo.commands.compare import _queue

    path = write_plan(tmp_path, policy_folder, {"a": {}})
    [job] = _queue(path.parent / "run.yaml", tmp_path / "out", [0], {"a": {}}, quiet=True)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert [place["OMP_NUM_THREADS"] for place in queue._environments([job], 2)] == [str(max(1, cores // 2))] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert queue._environments([job], 2)[0]["OMP_NUM_THREADS"] == "3"
    job.settings.training.use_cpu = False
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # the arithmetic of slots; no device is touched
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    places = queue._environments([job], 3)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["2", "5", "2"]
