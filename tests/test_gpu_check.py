"""`make test-gpu`: its table, what is skipped and why, its page, and one stage that really runs."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
NOTHING = ["-c", "pass"]


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_what_each_machine_leaves_out(gpu_check: ModuleType) -> None:
    def left_out(**engines: str) -> dict[str, str]:
        reasons = {}
        for gpus in ((), ("H200",)):
            machine = gpu_check.Machine(gpus, engines, small=not gpus)
            found = {name: machine.lacks(stage) for name, stage in gpu_check.STAGES.items()}
            reasons[len(gpus)] = {name: reason for name, reason in found.items() if reason}
        return reasons

    bare, full = left_out(), left_out(vllm="python", deepspeed="python")
    engines = {"zero3", "zero3-equal", "vllm", "vllm-equal", "vllm-served"}
    assert set(bare[0]) == set(bare[1]) == engines
    assert bare[0]["vllm"] == "no CUDA device" and bare[1]["vllm"] == "no vllm in .venv-vllm-gpu or .venv-vllm"
    assert full == {0: {"zero3": "no CUDA device", "vllm": "no CUDA device"}, 1: {}}


@pytest.mark.parametrize("gpus", [(), ("H200", "H200")], ids=["CPU", "two GPUs"])
def test_every_command_names_what_is_there(gpus: tuple[str, ...], gpu_check: ModuleType, tmp_path: Path) -> None:
    """Files, tests by name, and settings; blanks are filled, also in a folder whose name has a blank of its own."""
    machine = gpu_check.Machine(gpus, {"vllm": "V", "deepspeed": "D"}, small=not gpus)
    folder = tmp_path / "a folder"
    for name, stage in gpu_check.STAGES.items():
        python, *words = gpu_check.words_of(name, machine, folder)
        assert python == {"vllm": "V", "zero3": "D"}.get(name.split("-")[0], sys.executable)
        assert not any("{" in word for word in words)
        files = [word for word in words if word.endswith((".py", ".yaml"))]
        assert files and all((ROOT / file).is_file() for file in files if "server" not in file), name
        if stage.figure is not gpu_check.passed and stage.figure is not gpu_check.json_lines:
            assert words[words.index("--output_dir") + 1].startswith(str(folder))
        if "--num_processes" in words:
            assert words[words.index("--num_processes") + 1] == "2"
            assert ("--mixed_precision" in words) == (not gpus)


def stage_of(gpu_check: ModuleType, program: str, seconds: int = 60) -> object:
    """A stage that runs a line of Python, and whose figure is its first line of JSON."""
    return gpu_check.Stage("a trial", f"-c '{program}'", gpu_check.json_lines, seconds)


def test_goes_on_and_says_what_failed(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One passes, one shows nothing although it ends well, one fails, one needs a GPU; then the failures are mended."""
    prints = 'print("{\\"ms\\": 2.5}")'.replace("{", "{{").replace("}", "}}")
    stages = {
        "good": stage_of(gpu_check, prints),
        "silent": stage_of(gpu_check, "pass"),
        "broken": stage_of(gpu_check, "import sys; sys.exit(3)"),
        "far": gpu_check.Stage("a trial", "-c pass", gpu_check.json_lines, 60, ("cuda",)),
    }
    monkeypatch.setattr(gpu_check, "STAGES", stages)
    machine = gpu_check.Machine((), {}, small=True)
    assert not gpu_check.check(list(stages), machine, tmp_path, 100.0, again=False)
    said = capsys.readouterr().out
    assert "good: passed" in said and "far: skipped: no CUDA device" in said
    assert "silent: failed" in said and "no line of JSON" in said and "broken: failed" in said
    rows = (tmp_path / "README.md").read_text().splitlines()
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ")[2:] for row in rows if row.startswith("| ")}
    assert cells["good"][0] == "passed" and cells["good"][2] == "ms 2.5 |"
    assert cells["silent"][0] == cells["broken"][0] == "failed"
    assert cells["far"] == ["skipped: no CUDA device", "", " |"]

    stages["silent"] = stages["broken"] = stages["good"]
    assert gpu_check.check(list(stages), machine, tmp_path, 100.0, again=False)
    said = capsys.readouterr().out
    assert "good: passed before: ms 2.5" in said and "silent: passed, " in said and "broken: passed, " in said
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 5
    assert not gpu_check.check(["good"], machine, tmp_path, 1.0, again=True)
    assert "good: not run: 1 s are over" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stage_that_hangs_is_ended_with_what_it_started(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        'import subprocess, sys, time; child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"]);'
        " print(child.pid, flush=True); time.sleep(99)"
    )
    monkeypatch.setattr(gpu_check, "STAGES", {"hangs": stage_of(gpu_check, program, seconds=3)})
    started = time.monotonic()
    row = gpu_check.run("hangs", gpu_check.Machine((), {}, small=True, busy=2.0), tmp_path, 50.0)
    assert row["state"] == "ended after 6 s" and time.monotonic() - started < 15
    child = Path("/proc") / (tmp_path / "hangs.log").read_text().strip() / "stat"
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().rsplit(")", 1)[1].split()[0] != "Z":  # ended, if nobody has asked yet
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_pytest_that_skips_everything_has_shown_nothing(gpu_check: ModuleType, tmp_path: Path) -> None:
    assert gpu_check.passed(tmp_path, "..s\n2 passed, 1 skipped in 3.10s\n") == "2 passed, 1 skipped"
    assert gpu_check.passed(tmp_path, "=== 3 deselected, 4 passed in 1s ===") == "3 deselected, 4 passed"
    with pytest.raises(ValueError, match="no test has passed"):
        gpu_check.passed(tmp_path, "ss\n2 skipped in 0.10s\n")


@pytest.mark.slow
def test_a_stage_really_runs(gpu_check: ModuleType, tmp_path: Path) -> None:
    """Two guided steps in bfloat16 on the CPU, read off the run's own metrics."""
    row = gpu_check.run("bf16", gpu_check.Machine((), {}, small=True), tmp_path, 200.0)
    assert row["state"] == "passed", (tmp_path / "bf16.log").read_text()[-2000:]
    assert row["figure"].startswith("2 steps, ")
    logged = [json.loads(line) for line in (tmp_path / "bf16" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert f"{logged[-1]['tokens/generated_total']:,.0f} tokens" in row["figure"]
    assert "bf16: true" in (tmp_path / "bf16" / "run" / "config.yaml").read_text()
