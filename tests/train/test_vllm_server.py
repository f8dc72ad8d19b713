"""vLLM's server, where vLLM is installed: guided rows over HTTP, two clients, a server that dies and comes back.

Sampling is greedy, so that the server must answer what Transformers draws. With fewer than two GPUs weights reach the
server by a file (support/server_worker.py), and on the CPU it reads them as they are (support/unpacked.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.scripts.vllm_serve import ScriptArguments, build_command

from guided_grpo.embedded.recipes import EMBEDDED, SHIPPED
from vllm_runs import (
    GREEDY,
    HERE,
    METHODS,
    WORKER,
    assert_alike,
    assert_weights_were_sent,
    lines,
    needs_vllm,
    wide_policy,
    worker_words,
)

pytestmark = needs_vllm(2400)

START, RUN = 900, 900  # seconds that a server has to come up, and a run to end, on a busy machine too
GPUS = torch.cuda.device_count()
# TRL's client sends weights from one GPU to another; with fewer than two the trainer stays on the CPU.
TRAINER = {**WORKER, "CUDA_VISIBLE_DEVICES": "0" if GPUS > 1 else ""}
CPU_BUILD = not any(one.name == "vllm" for one in distributions())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class Server:
    """What `trl vllm-serve` runs, for a policy in a folder of its own."""

    def __init__(self, policy: Path, folder: Path) -> None:
        self.folder, self.port, self.policy = folder, free_port(), folder / "policy"
        shutil.copytree(policy, self.policy)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = build_command(
            ScriptArguments(
                str(self.policy),
                host="127.0.0.1",
                port=self.port,
                dtype="float32",
                max_model_len=256,
                enforce_eager=True,
                gpu_memory_utilization=0.1,
                log_level="error",
            )
        )
        if CPU_BUILD:  # its command line looks for a package of the name vllm
            command, model = words.index("vllm.entrypoints.cli.main"), words.index("serve") + 1
            words[command : model + 1] = ["vllm.entrypoints.openai.api_server", "--model", words[model]]
            words += ["--worker-extension-cls", "unpacked.Unpacked"]
        environment = {**WORKER, "VLLM_SERVER_DEV_MODE": "1"} | ({"CUDA_VISIBLE_DEVICES": "1"} if GPUS > 1 else {})
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + START
        while time.monotonic() < until:
            if answers(self.url):
                return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            time.sleep(0.5)
        raise AssertionError("the server does not come up")

    def served(self) -> int:
        """Requests that it has answered since it was started."""
        with urllib.request.urlopen(f"{self.url}/metrics") as response:
            lines = response.read().decode().splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:request_success_total")))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(policy: Path, folder: Path) -> Iterator[Server]:
    server = Server(policy, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return wide_policy(tmp_path_factory.mktemp("wide"), tokenizer)


@pytest.fixture(scope="module")
def server(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(wide, tmp_path_factory.mktemp("server")) as one:
        yield one


def launch(folder: Path, policy: Path, engine: str, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(worker_words("server_worker.py", folder, policy, engine, options), env=TRAINER)


def assert_read(folder: Path, tokenizer: Any) -> None:
    """The server read each row's own prompt, guidance behind it, and its answer is what was trained on."""
    rows = [one for group in lines(folder, "rollouts.jsonl") for one in group["rollouts"]]
    first = [call for call in lines(folder, "calls.jsonl") if len(call["read"]) == 8]
    read = [tokenizer.decode(ids) for call in first for ids in call["read"]]
    assert len(read) == len(rows) == 40
    assert all(text.endswith(row["guidance"]) for text, row in zip(read, rows, strict=True))
    assert len({len(row["guidance"]) for row in rows}) > 1
    said = [tokenizer.decode(ids) for call in first for ids in call["answered"]]
    assert all(text.startswith(row["generated"]) for text, row in zip(said, rows, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_server_answers_what_transformers_draws(
    method: str, server: Server, wide: Path, tokenizer: Any, tmp_path: Path
) -> None:
    options = {**METHODS[method], **GREEDY}
    before = server.served()
    for name, engine in (("served", server.url), ("transformers", "transformers")):
        assert launch(tmp_path / name, wide, engine, options).wait(RUN) == 0
    assert_alike(tmp_path / "served", tmp_path / "transformers")
    calls = lines(tmp_path / "served", "calls.jsonl")
    # The server counts answers: of a prompt without guidance TRL asks for those of the whole group at once.
    assert server.served() - before == sum(len(call["answered"]) for call in calls)
    if method != "ghpo":  # greedy rollouts of a group are alike there, and teach nothing
        assert_read(tmp_path / "served", tokenizer)
        assert_weights_were_sent(tmp_path / "served")
    else:
        assert len(calls) > 5


def test_two_clients_at_once(server: Server, wide: Path, tmp_path: Path) -> None:
    """Weights stay as they are, since one server has one policy."""
    runs = {name: {**METHODS[name], **GREEDY, "learning_rate": 0.0} for name in ("g2rpo-a", "auto")}
    before = server.served()
    both = [launch(tmp_path / name / "served", wide, server.url, options) for name, options in runs.items()]
    assert [process.wait(RUN) for process in both] == [0, 0]
    asked = sum(len(call["read"]) for name in runs for call in lines(tmp_path / name / "served", "calls.jsonl"))
    assert server.served() - before == asked == 80
    for name, options in runs.items():
        assert launch(tmp_path / name / "transformers", wide, "transformers", options).wait(RUN) == 0
        assert_alike(tmp_path / name / "served", tmp_path / name / "transformers")


def command(folder: Path, policy: Path, *words: str) -> list[str]:
    device = [] if GPUS > 1 else ["--use_cpu"]
    return [
        "train", "--model_name_or_path", str(policy), "--output_dir", str(folder), *device,
        "--train_data", "chains:steps=10-14,count=96,seed=1", "--method", "g2rpo-a", "--guidance_length", "40",
        "--guidance_ratio", "0.5", "--per_device_train_batch_size", "16", "--num_generations", "4",
        "--max_completion_length", "96", "--max_steps", "24", "--learning_rate", "1e-2", "--optim", "sgd", "--top_k", "1",
        "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "1", "--report_to", "none",
        "--bf16", "false", "--gradient_checkpointing", "false", "--rollouts_every", "1", "--quiet", *words,
    ]  # fmt: skip


def served_by(url: str) -> list[str]:
    words = ["--use_vllm", "--vllm_mode", "server", "--vllm_server_base_url", url]
    return [*words, "--vllm_importance_sampling_correction", "false"]


def run_command(words: list[str], worker: bool = True) -> subprocess.CompletedProcess[str]:
    program = [str(HERE / "server_worker.py")] if worker else ["-m", "guided_grpo.cli"]
    return subprocess.run(
        [sys.executable, *program, *words], env=TRAINER, capture_output=True, text=True, timeout=RUN
    )  # fmt: skip


def one_line(errors: str, url: str) -> str:
    """The last line of what the command said, which names the server."""
    last = errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert last.startswith(f"guided-grpo train: field 'vllm_server_base_url': '{url}' "), errors
    return last


def test_a_server_that_dies_ends_the_run_with_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    """What it then does is what the same run does that Transformers samples for."""
    base, run, whole = SHIPPED / EMBEDDED, tmp_path / "run", tmp_path / "whole"
    with serving(base, tmp_path) as server:
        words = [*command(run, base), *served_by(server.url)]
        program = [sys.executable, str(HERE / "server_worker.py"), *words]
        process = subprocess.Popen(program, env=TRAINER, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (
            (run / "metrics.jsonl").exists() and len(lines(run, "metrics.jsonl")) >= 4
        ):
            time.sleep(0.05)
        server.kill()
        _, errors = process.communicate(timeout=RUN)  # TRL's client asks again for a minute
        assert process.returncode == 2, errors
        last = one_line(errors, server.url)
        assert "does not answer" in last and "goes on from its last checkpoint" in last
        reached = len(lines(run, "metrics.jsonl"))
        assert 4 <= reached < 24 and not (run / "summary.json").exists()

        server.port = free_port()  # what runs where is no part of the settings
        server.start()
        done = run_command([*command(run, base), *served_by(server.url)])
        assert done.returncode == 0, done.stderr
        assert server.served() >= 16 * (24 - reached)
    assert [row["step"] for row in lines(run, "metrics.jsonl")] == list(range(1, 25))
    assert run_command(command(whole, base)).returncode == 0
    assert_alike(run, whole)
    assert sum(row["grad_norm"] > 0 for row in lines(run, "metrics.jsonl")) > 6


@pytest.mark.skipif(GPUS > 1, reason="the trainer has CUDA")
def test_without_cuda_it_is_one_line(server: Server, wide: Path, tmp_path: Path) -> None:
    done = run_command([*command(tmp_path / "run", wide), *served_by(server.url)], worker=False)
    assert done.returncode == 2, done.stderr
    last = one_line(done.stderr, server.url)
    assert "takes weights from a CUDA device alone" in last and "vllm_mode: colocate" in last


def test_without_a_server_it_is_one_line(wide: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    words = [*command(tmp_path / "run", wide), *served_by(url), "--vllm_server_timeout", "1"]
    done = run_command(words, worker=False)
    assert done.returncode == 2, done.stderr
    assert "does not answer" in one_line(done.stderr, url)


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs: one trains, one serves, weights go over NCCL")
def test_weights_over_nccl(server: Server, wide: Path, tmp_path: Path) -> None:
    options = {**METHODS["g2rpo-a"], **GREEDY}
    for name, engine in (("served", server.url), ("transformers", "transformers")):
        assert launch(tmp_path / name, wide, engine, options).wait(RUN) == 0
    assert_alike(tmp_path / "served", tmp_path / "transformers")
    assert_weights_were_sent(tmp_path / "served")
