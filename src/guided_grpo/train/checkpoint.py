"""What a checkpoint holds beside TRL's own, so that a run goes on from it to the bit.

guidance_state.json    RunState: controller, problem history, sums between two rows of the log, budgets
rollouts.rank{r}.pt    the batch that this rank is in the middle of
complete.json          written last: everything is there
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from guided_grpo.errors import InputError
from guided_grpo.store import rundir
from guided_grpo.train.state import RunState

_STATE, _BUFFER = "guidance_state.json", "rollouts.rank{rank}.pt"


def save_state(
    folder: Path, run: RunState, buffer: Any, *, main: bool, micro_step: int, trl_metrics: dict[str, list[float]]
) -> None:
    """Write what belongs to TRL's checkpoint in `folder`; all ranks call it, and then it is whole.

    Args:
        folder: the checkpoint.
        run: equal on all ranks.
        buffer: micro-batches of this rank; None = it is not in the middle of a batch.
        main: whether this rank writes what is equal on all of them.
        micro_step: TRL's.
        trl_metrics: since the last row of the log.
    """
    process = PartialState()
    torch.save(buffer, folder / _BUFFER.format(rank=process.process_index))
    if main:
        rundir.write_json(folder / _STATE, {**run.state_dict(), "micro_step": micro_step, "trl_metrics": trl_metrics})
    process.wait_for_everyone()
    if main:
        rundir.mark_complete(folder)


def load_state(folder: Path, run: RunState) -> tuple[int, dict[str, list[float]]]:
    """Fill `run`; returns TRL's micro step and metrics. Raises `InputError` for a checkpoint of another trainer."""
    if not (folder / _STATE).exists():
        raise InputError(
            "has no guidance_state.json: it is not a checkpoint of this trainer",
            field="resume_from_checkpoint",
            value=str(folder),
            fix="load its weights as the model of a new run",
        )
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    run.load_state_dict(state)
    return state["micro_step"], state["trl_metrics"]


def load_buffer(folder: Path, device: torch.device) -> Any:
    """This rank's part; None after a change of the number of ranks: then TRL samples anew, on all of them."""
    process = PartialState()
    if len(list(folder.glob(_BUFFER.format(rank="*")))) != process.num_processes:
        return None
    place = "cpu" if device.type == "cpu" else device  # among several processes it is cpu:0, which torch cannot load to
    return torch.load(folder / _BUFFER.format(rank=process.process_index), map_location=place, weights_only=True)
