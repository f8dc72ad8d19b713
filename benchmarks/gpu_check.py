"""Everything that outgrows one process, one stage after the other, and one page of figures: `make test-gpu`.

    .venv/bin/python benchmarks/gpu_check.py                       what this machine can run; small where it has no GPU
    .venv/bin/python benchmarks/gpu_check.py --stages bf16 step --again
    .venv/bin/python benchmarks/gpu_check.py --busy 4              beside other work: four times the seconds for each

A stage that has passed is not run again by the same command, so a run that was cut off goes on. OUTPUT/README.md is the
page, written anew after every stage; OUTPUT/NAME.log is what a stage printed. The exit code is 1 where one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 840.0  # seconds of all stages: with what is around them a quarter of an hour
GRACE = 15  # seconds that a stage has for its own end
ENGINES = {"vllm": (".venv-vllm-gpu", ".venv-vllm"), "deepspeed": (".venv-deepspeed",)}  # environments of their own


@dataclass(frozen=True)
class Machine:
    """What a stage finds: GPUs by name, the Python that has each engine, and whether only few steps are asked for.

    `busy` is how many times its seconds a stage may take: beside other work it says nothing that it is late.
    """

    gpus: tuple[str, ...]
    pythons: dict[str, str]
    small: bool
    busy: float = 1.0

    def lacks(self, stage: Stage) -> str | None:
        """Why a stage is left out; None = it is not."""
        for need in stage.needs:
            if need == "cuda" and not self.gpus:
                return "no CUDA device"
            if need in ENGINES and need not in self.pythons:
                return f"no {need} in {' or '.join(ENGINES[need])}"
        return None


@dataclass(frozen=True)
class Stage:
    """One line of the page. `command` is for Python, with blanks for `words_of`; `small` is the one of few steps.

    `figure` says what was shown, from the stage's folder and what was printed, and raises OSError, LookupError or
    ValueError where it was not. `needs` are "cuda" and engines, whose Python runs it; `seconds` is what it may take.
    """

    shows: str
    command: str
    figure: Callable[[Path, str], str]
    seconds: int
    needs: tuple[str, ...] = ()
    small: str | None = None  # None = the same, whose blanks say less


def accuracies(folder: Path, printed: str) -> str:
    """Unguided accuracy before and after each method of a comparison."""
    arms = json.loads((folder / "runs" / "summary.json").read_text(encoding="utf-8"))["variants"]
    return "; ".join(
        f"{name} {100 * arm['before']['accuracy']:.1f} → {100 * arm['after']['accuracy']:.1f} %, "
        f"{arm['tokens_generated']['mean']:,.0f} tokens in {arm['train_seconds']['mean']:.0f} s"
        for name, arm in arms.items()
    )


def steps(folder: Path, printed: str) -> str:
    """Seconds and tokens of a step of a run, and what its last one says."""
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    seconds = median(row["step_time"] for row in rows[1:] or rows)
    last = ", ".join(f"{name} {rows[-1][name]:.4f}" for name in ("loss", "grad_norm", "reward/accuracy"))
    return f"{len(rows)} steps, {seconds:.2f} s each, {rows[-1]['tokens/generated_total']:,.0f} tokens; last {last}"


def passed(folder: Path, printed: str) -> str:
    """pytest's last line; tests that were all skipped have shown nothing."""
    found = re.findall(r"^=* ?((?:\d+ \w+, )*\d+ passed(?:, \d+ \w+)*)", printed, re.MULTILINE)
    if not found:
        raise ValueError("no test has passed")
    return str(found[-1])


def json_lines(folder: Path, printed: str) -> str:
    """The lines of JSON that a benchmark printed."""
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    if not rows:
        raise ValueError("no line of JSON")
    return "; ".join(", ".join(f"{name} {value}" for name, value in row.items() if name != "meaning") for row in rows)


COMPARE = "-m guided_grpo.cli compare --quiet --output_dir {folder}/runs {jobs} --config {plan}"
RUN = "--config configs/quickstart.yaml --output_dir {folder}/run {steps} --eval_limit 8 --eval_samples 1"
TRAIN = f"-m guided_grpo.cli train --quiet {RUN}"
LAUNCH = "-m accelerate.commands.launch --main_process_port 0 {ranks} --config_file configs/accelerate"
VLLM = "--use_vllm true --vllm_mode colocate --vllm_gpu_memory_utilization 0.2"
TREE, STEP = "benchmarks/tree_attention.py", "benchmarks/step_time.py plain"
SMALL_TREE, SMALL_STEP = f"{TREE} --groups 2 --tokens 32 --repeats 2", f"{STEP} --pairs 1 --steps 1"
ZERO = "-m pytest -rs tests/train/test_deepspeed.py -k 'agree_with_one and guided-3'"
COLOCATED = "-m pytest -rs tests/train/test_vllm.py -k 'log_probs or (samples_what and g2rpo)'"
SERVED = "-m pytest -rs tests/train/test_vllm_server.py -k 'nccl or (draws and g2rpo)'"
STAGES = {
    "quickstart": Stage("GRPO and G²RPO-A on one budget", COMPARE, accuracies, 240),
    "bf16": Stage("guided training in bfloat16", f"{TRAIN} --bf16 true", steps, 150),
    "attention": Stage("shared prefixes: kernels, largest errors", TREE, json_lines, 150, small=SMALL_TREE),
    "step": Stage("seconds over TRL's", f"{STEP} auto --pairs 3 --steps 3", json_lines, 180, small=SMALL_STEP),
    "fsdp2": Stage("FSDP2: sharded weights", f"{LAUNCH}/fsdp2.yaml {TRAIN}", steps, 180),
    "zero3": Stage("DeepSpeed ZeRO-3", f"{LAUNCH}/zero3.yaml {TRAIN}", steps, 180, ("cuda", "deepspeed")),
    "zero3-equal": Stage("ZeRO-3: gradients of one process", ZERO, passed, 240, ("deepspeed",)),
    "vllm": Stage("vLLM in the trainer's process", f"{TRAIN} {VLLM}", steps, 180, ("cuda", "vllm")),
    "vllm-equal": Stage("vLLM: the tokens of Transformers", COLOCATED, passed, 240, ("vllm",)),
    "vllm-served": Stage("vLLM as a server", SERVED, passed, 240, ("vllm",)),
    "tenfold": Stage("ten times the budget of the quickstart", COMPARE, accuracies, 300),
}


def look(*, small: bool, busy: float) -> Machine:
    """What is there."""
    names = "import json, torch as t; print(json.dumps([*map(t.cuda.get_device_name, range(t.cuda.device_count()))]))"
    gpus = json.loads(subprocess.run([sys.executable, "-c", names], check=True, stdout=subprocess.PIPE).stdout)
    pythons = {}
    for engine, folders in ENGINES.items():
        has = f"import importlib.util as u, sys; sys.exit(u.find_spec('{engine}') is None)"
        for python in [sys.executable, *(str(ROOT / folder / "bin" / "python") for folder in folders)]:
            if Path(python).exists() and subprocess.run([python, "-c", has], check=False).returncode == 0:
                pythons.setdefault(engine, python)
    return Machine(tuple(gpus), pythons, small or not gpus, busy)


def words_of(name: str, machine: Machine, folder: Path) -> list[str]:
    """The command of a stage, by the Python of its engine."""
    stage = STAGES[name]
    blanks = {
        "folder": shlex.quote(str(folder)),
        "jobs": "--jobs 2" if machine.gpus else "",
        "ranks": f"--num_processes {len(machine.gpus) or 2}" + ("" if machine.gpus else " --mixed_precision no"),
        "steps": ("--max_steps 2 --per_device_train_batch_size 24" if machine.small else "--max_steps 20")
        + ("" if machine.gpus else " --use_cpu true"),  # else bfloat16 is refused
    }
    if stage.figure is accuracies:
        blanks["plan"] = shlex.quote(plan_of(name, folder, small=machine.small))
    python = next((machine.pythons[need] for need in stage.needs if need in ENGINES), sys.executable)
    command = stage.command if stage.small is None or not machine.small else stage.small
    return [python, *shlex.split(command.format(**blanks))]


def plan_of(name: str, folder: Path, *, small: bool) -> str:
    """Of a comparison; small: two steps and eight held-out problems."""
    path = ROOT / "configs" / "compare" / f"{name}.yaml"
    if not small:
        return str(path)
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    few = {"max_steps": 2, "eval_data": "chains:steps=10-14,count=8,seed=999", "eval_samples": 1}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.yaml").write_text(
        yaml.safe_dump({**plan, "config": "quickstart.yaml", "common": {**plan.get("common", {}), **few}})
    )
    return str(folder / "plan.yaml")


def run(name: str, machine: Machine, output: Path, limit: float) -> dict[str, Any]:
    """One stage, in a process group of its own; its row of results.jsonl."""
    log, started, most = output / f"{name}.log", time.monotonic(), min(STAGES[name].seconds * machine.busy, limit)
    words, environment = words_of(name, machine, output / name), {**os.environ, "HF_HUB_OFFLINE": "1"}
    if not machine.gpus:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_OMP_THREADS_BIND": "0"}
    elif STAGES[name].figure in (steps, json_lines) and "{ranks}" not in STAGES[name].command:
        # One process takes one GPU: with more in sight Transformers would copy the policy to each.
        environment["CUDA_VISIBLE_DEVICES"] = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with log.open("wb") as file:
        child = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            state = "passed" if child.wait(most) == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = f"ended after {most:.0f} s"
        finally:  # also of what it started
            for kind in (signal.SIGTERM, signal.SIGKILL):
                with suppress(subprocess.TimeoutExpired, ProcessLookupError):
                    os.killpg(child.pid, kind)
                    child.wait(GRACE)
    figure = f"see {log.name}"
    if state == "passed":
        try:
            figure = STAGES[name].figure(output / name, log.read_text(errors="replace"))
        except (OSError, LookupError, ValueError) as error:  # what a run leaves that did not do its work
            state, figure = "failed", f"{type(error).__name__}: {error}; see {log.name}"
    seconds = round(time.monotonic() - started, 1)
    return {"stage": name, "state": state, "seconds": seconds, "figure": figure, "words": words}


def page(machine: Machine, results: dict[str, dict[str, Any]]) -> str:
    """A row for every stage, whether it ran or not, and the commands of those that did."""
    sizes = "small sizes" if machine.small else "full sizes"
    lines = [
        "# What ran on this machine",
        "",
        f"{', '.join(machine.gpus) or 'No GPU'}; {os.cpu_count()} cores; {sizes}.",
    ]
    lines += ["", "| stage | shows | result | seconds | figures |", "|---|---|---|---|---|"]
    for name, stage in STAGES.items():
        row, lacks = results.get(name, {}), machine.lacks(stage)
        if lacks:
            row = {"state": f"skipped: {lacks}"}
        cells = [name, stage.shows, row.get("state", "not run yet"), row.get("seconds", ""), row.get("figure", "")]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    return "\n".join([*lines, "", "```bash", *(shlex.join(row["words"]) for row in results.values()), "```", ""])


def check(names: list[str], machine: Machine, output: Path, limit: float, *, again: bool) -> bool:
    """Run the stages that have not passed by the same command, and write the page after each; whether all is done.

    A line is said for each. What a stage left is kept only where the same command can go on from it.
    """
    output.mkdir(parents=True, exist_ok=True)
    path, last, done = output / "results.jsonl", time.monotonic() + limit, True
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = {row["stage"]: row for row in map(json.loads, lines)}
    for name in names:
        row, lacks = results.get(name, {}), machine.lacks(STAGES[name])
        same = not lacks and not again and row.get("words") == words_of(name, machine, output / name)
        if lacks:
            says = f"skipped: {lacks}"
        elif same and row["state"] == "passed":
            says = f"passed before: {row['figure']}"
        elif last - time.monotonic() < GRACE:
            says, done = f"not run: {limit:.0f} s are over, the same command goes on", False
        else:
            if not same:
                shutil.rmtree(output / name, ignore_errors=True)
            row = results[name] = run(name, machine, output, last - time.monotonic())
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            says, done = f"{row['state']}, {row['seconds']} s: {row['figure']}", done and row["state"] == "passed"
        print(f"{name}: {says}", flush=True)
        (output / "README.md").write_text(page(machine, results), encoding="utf-8")
    return done


def main() -> None:
    """Run, say a line for each stage, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE", help=", ".join(STAGES)
    )
    parser.add_argument("--small", action="store_true", default=os.environ.get("GPU_CHECK") == "small")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of all stages")
    parser.add_argument("--again", action="store_true", help="also what has passed")
    parser.add_argument(
        "--busy", type=float, default=1.0, metavar="TIMES", help="a stage and all may take that many times as long"
    )
    options = parser.parse_args()
    output = options.output.resolve()
    machine, limit = look(small=options.small, busy=options.busy), options.limit * options.busy
    done = check(options.stages, machine, output, limit, again=options.again)
    print(f"wrote {output / 'README.md'}")
    sys.exit(not done)


if __name__ == "__main__":
    main()
