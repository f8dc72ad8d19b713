"""What `train` and `sft` do alike around their trainers: rows, going on after a kill, the bar, the saved policy."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from transformers import Trainer

from guided_grpo.commands.options import wants_bars
from guided_grpo.commands.parsing import RunArguments, tell
from guided_grpo.data.sources import load_rows
from guided_grpo.store import rundir
from guided_grpo.train.callbacks import BarCallback


def load_rows_of(run: RunArguments, source: str, limit: int | None, *, require_guidance: bool = False) -> Dataset:
    """Rows of `source` as this run reads its data."""
    return load_rows(
        source,
        mapping=run.data_mapping,  # type: ignore[arg-type]  # parsed in RunArguments
        split=run.data_split,
        limit=limit,
        reader=run.data_reader,
        require_guidance=require_guidance,
    )


def prepare_resume(output: Path, state: PartialState) -> Path | None:
    """The checkpoint to go on from, with everything after it gone; None = from the start."""
    checkpoint = rundir.last_checkpoint(output)
    step = 0 if checkpoint is None else int(checkpoint.name.removeprefix(rundir.CHECKPOINT_PREFIX))
    if state.is_main_process:
        rundir.drop_partial_checkpoints(output)
        for name in rundir.APPENDED:
            rundir.cut_back(output / name, step)
    state.wait_for_everyone()
    if checkpoint is not None:
        tell(f"{output}: going on from step {step}")
    return checkpoint


def progress(name: str, *, quiet: bool) -> BarCallback:
    """A bar on a terminal, lines elsewhere, nothing where the user wants quiet."""
    return BarCallback(name, bar=wants_bars(quiet), lines=not quiet)


def save_model(trainer: Trainer, output: Path, state: PartialState) -> None:
    """The policy into the run directory, whole or not at all."""
    scratch = output / f"{rundir.MODEL}.partial"
    trainer.save_model(str(scratch))
    if state.is_main_process and not (output / rundir.MODEL).exists():
        scratch.rename(output / rundir.MODEL)
    state.wait_for_everyone()
