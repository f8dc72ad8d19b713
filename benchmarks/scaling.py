"""How the trainer's own work grows: with rows of data, with ranks and groups, and what ranks send one another.

    .venv/bin/python benchmarks/scaling.py orders          rows/s and memory of the sampler, 10⁴ to 10⁷ rows
    .venv/bin/python benchmarks/scaling.py step            ms of a step by ranks and size of the groups, no policy
    .venv/bin/python benchmarks/scaling.py exchange        messages and bytes of a step, 1, 2 and 4 gloo processes
    .venv/bin/python benchmarks/scaling.py objects state   rollouts sent for rescue; states that remember problems

Messages are collective calls that a rank makes, bytes what it puts in and what it gets from the others; both are
counted around torch.distributed and told apart by who calls: this package or TRL. Counts are exact, milliseconds are
not: compare rows of one table. DDP's sum of gradients is made below Python and not counted: 4 bytes a parameter.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from guided_grpo import GuidedGRPOConfig, GuidedGRPOTrainer
from guided_grpo.data.adaptive import AdaptiveOrder
from guided_grpo.data.curriculum import OrderedRepeatSampler, hardness, row_order
from guided_grpo.data.sources import load_rows
from guided_grpo.embedded.recipes import SHIPPED
from guided_grpo.grading import reward_functions
from guided_grpo.guidance.allocation import NO_SLICE, Assignment, plan_batch, shares
from guided_grpo.guidance.placement import GuidanceTokenizer
from guided_grpo.guidance.strength import make_controller
from guided_grpo.train import feedback
from guided_grpo.train.advantage import arm_advantages, credited
from guided_grpo.train.forward import arrange
from guided_grpo.train.records import group_records, rollout_records
from guided_grpo.train.rescue import ProblemHistory
from guided_grpo.train.rollout import FACTS, Rollout, rollout_facts
from guided_grpo.train.signals import Watch
from guided_grpo.train.state import Batch, RunState
from guided_grpo.types import ProblemFeedback, StepFeedback

POLICY = SHIPPED / "embedded-small"
LOCAL = 64  # rollouts of a rank
ADAPTIVE_ROWS = 1_000_000  # so many rows at most are asked of an order that follows rewards
ORDERS = ("as it stands", "shuffled", "easy first", "adaptive")
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"method": "grpo"},
    "g2rpo-a": {"method": "g2rpo-a", "guidance_length": 20},
    "g2rpo-a+records": {"method": "g2rpo-a", "guidance_length": 20, "rollouts_every": 1},
    "adaprefix": {"method": "adaprefix"},
    "ghpo": {"method": "ghpo", "hint_template": "{problem}{hint}", "rescue_cold_start": 0},
}


def child(*words: str, launcher: tuple[str, ...] = ()) -> str:
    """What this script prints in a process of its own."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = [sys.executable, *launcher, __file__, "--child", *words]
    return subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def table(title: str, columns: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    """A Markdown table, a row as soon as it is there."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for row in rows:
        cells = (cell if isinstance(cell, str) else f"{cell:,.{0 if cell % 1 == 0 else 2}f}" for cell in row)
        print(f"| {' | '.join(cells)} |", flush=True)


def memory(key: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


# ---- orders ----------------------------------------------------------------------------------------------------------


def orders(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    for name in ORDERS:
        for rows in options.rows:
            found = json.loads(child("order", name, str(rows)))
            yield name, rows, found["set up"], round(found["rate"]), found["bytes"], found["grown"]


def one_order(name: str, rows: int) -> dict[str, float]:
    """An epoch of the sampler in groups of 8, eight problems a batch; memory over what the data set takes."""
    values = np.random.default_rng(0).random(rows)
    data = Dataset(pa.table({"difficulty": values}))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    started = time.perf_counter()
    curriculum = {"easy first": "difficulty", "adaptive": "adaptive"}.get(name, "none")
    keys = hardness(curriculum, {"difficulty": data["difficulty"]})
    order: Any = row_order(rows, keys, 0 if name == "shuffled" else None)
    if name == "adaptive":
        assert keys is not None
        order = AdaptiveOrder(keys)
    read = min(rows, ADAPTIVE_ROWS if name == "adaptive" else rows) // 8 * 8
    indices = iter(OrderedRepeatSampler(order, rows=rows, mini_repeat_count=8, batch_size=8))
    next(indices)
    set_up, middle = time.perf_counter() - started, 0.0
    started = time.perf_counter()
    for batch in range(read // 8):
        for _ in islice(indices, 64):
            pass
        if name == "adaptive":
            order.observe(batch % 7 / 6)
        if batch == read // 80:
            middle = memory("VmRSS")
    seconds = time.perf_counter() - started
    peak, end = memory("VmHWM"), memory("VmRSS")
    return {"set up": set_up, "rate": read / seconds, "bytes": (peak - before) * 2**20 / rows, "grown": end - middle}


# ---- step ------------------------------------------------------------------------------------------------------------


def config_of(folder: str, **changes: Any) -> GuidedGRPOConfig:
    usual: dict[str, Any] = {
        "output_dir": folder, "per_device_train_batch_size": LOCAL, "num_generations": 8, "max_completion_length": 64,
        "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "logging_steps": 1, "seed": 3,
        "gradient_checkpointing": False, "disable_tqdm": True, "rollouts_every": 0,
    }  # fmt: skip
    return GuidedGRPOConfig(**{**usual, **changes})


def steps(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    for ranks in options.ranks:
        for group in options.groups:
            parts = one_step(ranks, group)
            yield ranks, group, *parts.values(), sum(parts.values())


class Clock:
    """Milliseconds by name."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.spent.setdefault(name, []).append(1000 * (time.perf_counter() - started))


def one_step(ranks: int, group: int, repeats: int = 15) -> dict[str, float]:
    """ms of each stage of a step of one rank, medians; the other ranks' part of what is gathered is simulated."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(folder, method="g2rpo-a", guidance_length=45, num_generations=group)
    tokenizer, controller, draw, clock = (
        AutoTokenizer.from_pretrained(POLICY),
        make_controller(config),
        Random(0),
        Clock(),
    )
    guide, shares_G = GuidanceTokenizer(tokenizer, {}, "auto"), shares(group, 0.5)
    problems = load_rows(f"chains:steps=10-14,count={LOCAL * repeats // group},seed=1")
    run = RunState(controller.init(), ProblemHistory(config), Watch(None), None)
    strength = partial(controller.strength, run.controller)
    for first in range(0, len(problems) * group, LOCAL):
        rows: Any = [dict(problems[place // group]) for place in range(first, first + LOCAL)]
        with clock.time("plan"):
            plan = plan_batch(rows, 0, shares_G, strength, guide)
        prompts = [guide.prompt_ids(row["prompt"]) for row in rows]
        completions = [[*one.slice.ids, *draw.choices(range(3, 20), k=64), 1] for one in plan]
        columns = zip(plan, prompts, completions, strict=True)
        rollouts = [Rollout(one, prompt, ids, "", None, spent=65) for one, prompt, ids in columns]
        with clock.time("facts"):
            facts_bK = torch.tensor(rollout_facts(rows, rollouts, {1}))
        facts_BK = facts_bK.repeat(ranks, 1)
        facts_BK[:, FACTS.index("problem")] += torch.arange(ranks).repeat_interleave(LOCAL)
        accuracy_B = torch.tensor([float(draw.random() < 0.3) for _ in range(ranks * LOCAL)])
        with clock.time("advantage"):
            guided_B = facts_BK[:, FACTS.index("guidance_tokens")] > 0
            advantages_B = arm_advantages(accuracy_B, guided_B, group, "group")
            given = [len(one.slice.ids) for one in plan]
            credited(torch.ones(LOCAL, 128), advantages_B[:LOCAL], given, [count > 0 for count in given], "positive")
        graded = feedback.GradedBatch(
            Batch(rows, plan, rollouts=rollouts), facts_BK, accuracy_B, advantages_B, shares_G
        )
        with clock.time("feedback"):
            feedback.count(run, graded, length=45, guidance_trained=True)
            feedback.update_controller(run, controller, graded, optimizer_step=1, progress=0.1)
        with clock.time("records"):
            records = rollout_records(
                rows, rollouts, decode=tokenizer.decode, rewards_bF=[[0.0]] * LOCAL, reward_names=["accuracy"],
                advantages_b=[0.0] * LOCAL, ends={1},
            )  # fmt: skip
        with clock.time("grouping"):
            group_records(records * ranks, group, 1)
        ones = torch.ones(LOCAL // 4, 96, dtype=torch.long)
        micro = dict.fromkeys(("prompt_ids", "completion_ids", "completion_mask"), ones)
        with clock.time("arrange"):
            arrange([{**micro, "advantages": torch.ones(len(ones))} for _ in range(4)], every_row=False)
    return {name: statistics.median(values[2:]) for name, values in clock.spent.items()}


# ---- exchange --------------------------------------------------------------------------------------------------------


def exchange(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    for ranks in options.processes:
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
        printed = child("ranks", str(options.steps), *options.methods, launcher=launcher)
        for method, rows in (json.loads(line) for line in printed.splitlines() if line.startswith('["')):
            for row in rows:
                yield method, ranks, *row


def count_messages(ranks: int) -> dict[str, Counter[str]]:
    """Wrap the collectives of tensors, which objects are sent by too; who calls → calls, bytes in, bytes got, ms."""
    from torch.distributed import distributed_c10d

    counts: dict[str, Counter[str]] = {name: Counter() for name in ("messages", "put in", "got", "ms")}

    def wrap(name: str, place: int) -> None:
        real = getattr(distributed_c10d, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            tensor = arguments[place] if place < len(arguments) else named.get("tensor")
            size = 0 if tensor is None else tensor.numel() * tensor.element_size()
            counts["messages"][who := caller()] += 1
            counts["put in"][who] += size
            counts["got"][who] += size * (ranks - 1)
            started = time.perf_counter()
            result = real(*arguments, **named)
            counts["ms"][who] += 1000 * (time.perf_counter() - started)
            return result

        for module in (distributed_c10d, torch.distributed):
            setattr(module, name, counted)

    for name, place in {
        "all_gather": 1,
        "all_gather_into_tensor": 1,
        "all_reduce": 0,
        "broadcast": 0,
        "barrier": 9,
    }.items():
        wrap(name, place)
    return counts


def caller() -> str:
    """The nearest function of this package or of TRL on the stack, and whether the rescue ladder called it."""
    frame, nearest, rescue = sys._getframe(2), "", ""
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        library = next((part for part in ("guided_grpo", "trl", "transformers") if f"/{part}/" in path), "")
        if library and not nearest:
            nearest = f"{library.replace('guided_grpo', 'ours')}: {name.strip('_')}"
        rescue = " (rescue)" if name == "rescue_batch" else rescue
        frame = frame.f_back  # type: ignore[assignment]
    return (nearest or "accelerate: set-up") + rescue


def one_rank(count: int, methods: list[str]) -> None:
    """Some steps of `embedded-small` on hard chains; the first rank prints what a rank sent a step, by who sent it."""
    torch.set_num_threads(1)
    counts = count_messages(int(os.environ["WORLD_SIZE"]))
    for method in methods:
        with tempfile.TemporaryDirectory() as folder:
            trainer = GuidedGRPOTrainer(
                model=AutoModelForCausalLM.from_pretrained(POLICY, dtype="float32"),
                reward_funcs=reward_functions(["accuracy"]),
                args=config_of(folder, max_steps=count, per_device_train_batch_size=16, **METHODS[method]),
                train_dataset=load_rows("chains:steps=10-14,count=64,seed=1"),
                processing_class=AutoTokenizer.from_pretrained(POLICY),
            )
            trainer.remove_callback(PrinterCallback)
            for part in counts.values():
                part.clear()
            trainer.train()
            if trainer.accelerator.is_main_process:
                each = [[who, *(round(part[who] / count, 1) for part in counts.values())] for who in counts["messages"]]
                print(json.dumps([method, sorted(each)]), flush=True)
            trainer.accelerator.wait_for_everyone()
    os._exit(0)  # gloo's threads would abort the exit


# ---- objects, state --------------------------------------------------------------------------------------------------


def objects(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Rollouts of all ranks as rescue gathers them: each rank reads all of them."""
    for tokens in (64, 512, 4096):
        for ranks in options.ranks:
            draw = Random(0)
            sampled = []
            for _ in range(16):
                ids = [draw.randrange(150_000) for _ in range(tokens)]
                values = [-draw.random() for _ in range(tokens)]
                sampled.append(Rollout(Assignment(NO_SLICE), ids[:100], ids, "word " * tokens, values, tokens))
            sent = pickle.dumps(sampled)
            started = time.perf_counter()
            for _ in range(ranks):
                pickle.loads(sent)
            yield tokens, ranks, len(sent) / 16, len(sent) * ranks / 2**20, 1000 * (time.perf_counter() - started)


def state(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """A controller with a state for each problem, after so many problems: a step's update, and its checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(folder, method="adaprefix")
    controller, history, draw = make_controller(config), ProblemHistory(config), Random(0)
    for seen in options.seen:
        keys = [draw.getrandbits(63) for _ in range(seen)]
        for key in keys:
            history.observe(key, 0.5, None)
        run = RunState(controller.init(), history, Watch(None), None)
        fed = [tuple(ProblemFeedback(key, 0, 3, 8) for key in part) for part in (keys, keys[:64])]
        moments = [StepFeedback(1, 0.1, 1.0, 8, problems=part) for part in fed]
        run.controller = controller.update(run.controller, moments[0])
        started = time.perf_counter()
        for _ in range(5):
            run.controller = controller.update(run.controller, moments[1])
        update = 1000 * (time.perf_counter() - started) / 5
        started = time.perf_counter()
        text = json.dumps(run.state_dict())
        yield seen, update, len(text) / 2**20, time.perf_counter() - started


SECTIONS: dict[str, tuple[str, tuple[str, ...], Callable[[argparse.Namespace], Iterator[tuple[Any, ...]]]]] = {
    "orders": (
        "An epoch of the sampler, G = 8; memory over the data set's own.",
        ("order", "rows", "set up, s", "rows/s", "bytes a row at the peak", "MiB grown from 10 % to the end"),
        orders,
    ),
    "step": (
        f"ms a step of a rank with {LOCAL} rollouts.",
        ("ranks", "G", "plan", "facts", "advantage", "feedback", "records", "grouping", "arrange", "sum"),
        steps,
    ),
    "exchange": (
        "A step of 16 rollouts a rank, at most 64 tokens each.",
        ("method", "ranks", "who", "messages", "bytes put in", "bytes got", "ms, waiting for others included"),
        exchange,
    ),
    "objects": (
        "One gathering of rescue, 16 rollouts a rank with log-probs.",
        ("tokens a rollout", "ranks", "bytes a rollout", "MiB that each rank gets", "ms to read them"),
        objects,
    ),
    "state": (
        "Per-problem states (`adaprefix`, problem history), 64 problems a step.",
        ("problems seen", "update, ms", "checkpoint, MiB", "to write it, s"),
        state,
    ),
}


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", choices=[*SECTIONS, []], metavar="SECTION", help=f"{', '.join(SECTIONS)}; none = all"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7], help="of orders")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 64], help="simulated: of step and objects")
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 16, 32, 64], help=f"G, divides {LOCAL}: of step")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="gloo processes of exchange")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="of exchange")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of exchange")
    parser.add_argument("--seen", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="problems of state")
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        title, columns, rows = SECTIONS[name]
        table(title, columns, rows(options))


if __name__ == "__main__":
    if sys.argv[1:3] == ["--child", "order"]:
        print(json.dumps(one_order(sys.argv[3], int(sys.argv[4]))))
    elif sys.argv[1:3] == ["--child", "ranks"]:
        one_rank(int(sys.argv[3]), sys.argv[4:])
    else:
        main()
