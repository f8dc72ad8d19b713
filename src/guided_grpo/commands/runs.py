"""What `train` and `sft` do alike around their trainers: rows, going on after a kill, the bar, the saved policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from guided_grpo.commands.options import wants_bars
from guided_grpo.commands.parsing import RunArguments, Settings, tell
from guided_grpo.commands.ranks import check_shared, from_main
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


def claim(settings: Settings, state: PartialState) -> None:
    """Make the run directory that of these settings. Raises `InputError` where a rank does not see it."""
    if state.is_main_process:
        rundir.claim(settings.output, settings.to_json())
    state.wait_for_everyone()
    check_shared(settings.output / rundir.CONFIG)


def prepare_resume(output: Path, state: PartialState) -> Path | None:
    """The checkpoint to go on from, with everything after it gone; None = from the start."""
    checkpoint: Path | None = from_main(rundir.last_checkpoint(output))
    step = 0 if checkpoint is None else int(checkpoint.name.removeprefix(rundir.CHECKPOINT_PREFIX))
    if state.is_main_process:
        rundir.drop_partial_checkpoints(output)
        for name in rundir.APPENDED:
            rundir.cut_back(output / name, step)
    state.wait_for_everyone()
    if checkpoint is not None:
        tell(f"{output}: going on from step {step}")
    return checkpoint


class _Loaded(Exception):
    """Everything is loaded, and nothing is left to train."""


class _OnlyLoad(TrainerCallback):
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        raise _Loaded


def go_on(trainer: Trainer, resume: Path | None) -> None:
    """Train, from the checkpoint `resume` where there is one.

    One that was written as training stopped is only loaded: Transformers would do a step more than the whole run.
    """
    if resume is not None and _stopped(resume) and not trainer.args.enable_jit_checkpoint:
        only_load(trainer, resume)
    else:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


def only_load(trainer: Trainer, resume: Path | None) -> None:
    """Bring the trainer, and the engine that has its policy, where training would go on, and train no step."""
    trainer.add_callback(_OnlyLoad)
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except _Loaded:
        trainer.is_in_train = False
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


def _stopped(checkpoint: Path) -> bool:
    """Whether training ended with this step: by its number, a budget, or early."""
    kept = (rundir.read_json(checkpoint / "trainer_state.json") or {}).get("stateful_callbacks", {})
    return bool(kept.get("TrainerControl", {}).get("args", {}).get("should_training_stop"))


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
