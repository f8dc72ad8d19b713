"""Two machines, as two launchers on this one: started by the Slurm script, one of them lost, and going on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from guided_grpo.store import jsonl, rundir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"
ENVIRONMENT = {
    **os.environ,
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
STEPS = 16
RUN = 600  # seconds that a run has to end, on a busy machine too
TIMES = ("time/", "step_time", "train_", "_runtime", "_per_second")


def run_words(policy: Path, output: str) -> list[str]:
    return [
        "--model_name_or_path", str(policy), "--output_dir", output, "--train_data", "chains:steps=3-5,count=40,seed=1",
        "--method", "g2rpo-a", "--guidance_length", "8", "--guidance_ratio", "0.5", "--per_device_train_batch_size", "4",
        "--num_generations", "4", "--max_completion_length", "12", "--max_steps", str(STEPS), "--learning_rate", "1e-3",
        "--num_iterations", "2", "--save_strategy", "steps", "--save_steps", "3", "--report_to", "none", "--use_cpu",
        "--bf16", "false", "--gradient_checkpointing", "false", "--quiet",
    ]  # fmt: skip


def free_port() -> int:
    """One that the Slurm script can reach by the number of a job."""
    for port in range(20000 + os.getpid() % 10000, 40000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def start(folder: Path, words: list[str], *, apart: bool = False) -> list[subprocess.Popen[str]]:
    """Both nodes; `apart` = each in a folder of its own."""
    port, nodes = free_port(), []
    for rank in (0, 1):
        place = folder / f"node{rank}" if apart else folder
        place.mkdir(exist_ok=True, parents=True)
        launcher = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(CONFIGS / "ddp-2-nodes.yaml"),
        ]
        launcher += ["--num_processes=2", "--mixed_precision=no", f"--machine_rank={rank}"]
        launcher += ["--main_process_ip=127.0.0.1", f"--main_process_port={port}", "-m", "guided_grpo.cli", "train"]
        with (folder / f"node{rank}.log").open("w") as log:
            nodes.append(
                subprocess.Popen([*launcher, *words], cwd=place, env=ENVIRONMENT, stdout=log, stderr=log, text=True)
            )
    return nodes


def kill(node: subprocess.Popen[str]) -> None:
    """All processes of a node at once, as a power cut does."""
    tree = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
    for process in tree:
        process.kill()
    node.wait()


def steps(run: Path) -> list[dict[str, Any]]:
    rows = jsonl.whole_rows(run / rundir.METRICS) if (run / rundir.METRICS).exists() else []
    return [{k: v for k, v in row.items() if not any(word in k for word in TIMES)} for row in rows]


def said(folder: Path, rank: int) -> list[str]:
    lines = (folder / f"node{rank}.log").read_text().splitlines()
    return [line for line in lines if line.startswith("guided-grpo")]


@pytest.fixture(scope="module")
def whole(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs, started by the Slurm script on two nodes."""
    folder = tmp_path_factory.mktemp("slurm")
    # What a node list is, and how a step runs on all nodes: the two programs of Slurm that the script calls.
    (folder / "scontrol").write_text("#!/bin/bash\nprintf '127.0.0.1\\nelsewhere\\n'\n")
    (folder / "srun").write_text(
        '#!/bin/bash\n[ "$1" = --kill-on-bad-exit=1 ] && shift\nnodes=() code=0\n'
        'for node in 0 1; do SLURM_NODEID=$node "$@" & nodes+=($!); done\n'
        'for node in "${nodes[@]}"; do wait "$node" || code=$?; done\nexit $code\n'
    )
    for name in ("scontrol", "srun"):
        (folder / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": str(free_port() - 20000), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": "1", "LAUNCH_OPTIONS": "--mixed_precision no",
        "PATH": f"{folder}{os.pathsep}{ENVIRONMENT['PATH']}",
    }  # fmt: skip
    words = ["bash", str(CONFIGS / "slurm.sh"), *run_words(policy_folder, "run")]
    subprocess.run(words, cwd=folder, env={**ENVIRONMENT, **job}, check=True, timeout=RUN)
    return folder / "run"


def test_the_slurm_script_starts_one_run_on_both_nodes(whole: Path) -> None:
    assert [row["step"] for row in steps(whole)] == list(range(1, STEPS + 1))
    assert (whole / rundir.SUMMARY).is_file() and (whole / rundir.MODEL / "model.safetensors").is_file()
    checkpoint = rundir.last_checkpoint(whole)
    assert checkpoint and sorted(path.name for path in checkpoint.glob("rng_state_*")) == [
        "rng_state_0.pth", "rng_state_1.pth",
    ]  # fmt: skip


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_node_ends_the_other_and_the_same_command_goes_on(
    lost: int, whole: Path, policy_folder: Path, tmp_path: Path
) -> None:
    words, run = run_words(policy_folder, "run"), tmp_path / "run"
    nodes = start(tmp_path, words)
    until = time.monotonic() + RUN
    while len(steps(run)) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    kill(nodes[lost])
    left = nodes[1 - lost]
    assert left.wait(RUN) != 0
    [line] = said(tmp_path, 1 - lost)
    assert line.startswith(f"guided-grpo train: rank {1 - lost} lost another one (")
    assert line.endswith("; the same command goes on from the last checkpoint")
    reached = rundir.last_checkpoint(run)
    assert reached is not None and not (run / rundir.SUMMARY).exists()

    assert [node.wait(RUN) for node in start(tmp_path, words)] == [0, 0]
    assert "going on from step" in (tmp_path / "node0.log").read_text()
    assert steps(run) == steps(whole)


def test_machines_without_a_disk_in_common_are_refused(policy_folder: Path, tmp_path: Path) -> None:
    nodes = start(tmp_path, run_words(policy_folder, "run"), apart=True)
    assert all(node.wait(RUN) for node in nodes)
    lines = [*said(tmp_path, 0), *said(tmp_path, 1)]
    assert lines == [
        "guided-grpo train: field 'output_dir': 'run' is not seen by rank 1; "
        "fix: name a folder on a disk that all machines share"
    ]
