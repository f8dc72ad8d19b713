"""What a run says of itself while it trains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from guided_grpo.train.callbacks import BarCallback

LOGS = {"loss": 0.1, "step_time": 1.25, "reward/guided": 0.5, "reward/unguided": 0.019, "guidance/length": 44.6}


def lines(
    capsys: pytest.CaptureFixture[str], steps: range, budget: int = 0, main: bool = True, flops: float = 0, **bar: Any
) -> list[str]:
    callback = BarCallback("auto seed 3", bar=False, **bar)
    args, state = (
        SimpleNamespace(max_generated_tokens=budget, max_flops=flops),
        SimpleNamespace(max_steps=100, is_world_process_zero=main),
    )
    callback.on_train_begin(args, state, None)
    for step in steps:
        state.global_step = step
        spent = {"tokens/generated_total": 4000.0 * step, "flops/total": 10**9 * step}
        callback.on_log(args, state, None, logs={**LOGS, **spent})
    callback.on_log(args, state, None, logs={"train_runtime": 3.0})  # the trainer's last row has no loss
    callback.on_train_end(args, state, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_without_a_bar_there_is_a_line_every_twenty_steps(capsys: pytest.CaptureFixture[str]) -> None:
    figures = "s/step 1.2, guided 0.50, unguided 0.02, length 45"
    assert lines(capsys, range(1, 60), lines=True) == [
        f"auto seed 3: step {step} of 100, {figures}" for step in (1, 21, 41)
    ]
    assert lines(capsys, range(5, 30, 5), budget=360_000, lines=True) == [
        f"auto seed 3: step 5, 20,000 of 360,000 tokens, {figures}",
        f"auto seed 3: step 25, 100,000 of 360,000 tokens, {figures}",
    ]
    assert lines(capsys, range(5, 30, 5), flops=2.5e12, lines=True) == [
        f"auto seed 3: step 5, 5e+09 of 2.5e+12 FLOPs, {figures}",
        f"auto seed 3: step 25, 2.5e+10 of 2.5e+12 FLOPs, {figures}",
    ]


def test_nothing_is_said_where_the_user_wants_quiet_or_by_other_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, range(1, 60), lines=False) == []
    assert lines(capsys, range(1, 60), main=False, lines=True) == []
