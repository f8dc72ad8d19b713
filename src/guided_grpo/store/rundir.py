"""The run directory: what a run leaves, written so that a partial file is never mistaken for a whole one.

config.yaml      the resolved settings; makes a directory this run's
metrics.jsonl    one row a step      } appended; cut back to the checkpoint on resume
rollouts.jsonl   sampled groups      }
evals.jsonl      unguided accuracy during training, where eval_every asks for it }
stopping.jsonl   the same on held-out training problems, where fine-tuning stops by it           }
warnings.jsonl   hint-collapse, format-drift (signals.py)                        }
train.log        what the run said, where `compare --jobs` ran it
checkpoint-*/    TRL's, plus guidance state; whole once it holds `complete.json`
model/           the trained policy
eval.json        unguided accuracy before and after, and between two stages
summary.json     written last: the run is finished
report.html      `guided-grpo report`
sft/             the run directory of the fine-tuning that came first (--method sft+METHOD)
traces-2.jsonl   its second round: the rows that the policy finished (traces-2.json: what that cost) }
sft-2/           and its run directory                                                               }
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from guided_grpo.errors import InputError
from guided_grpo.store.journals import same_settings
from guided_grpo.store.jsonl import encoded, whole_rows

CONFIG, METRICS, ROLLOUTS = "config.yaml", "metrics.jsonl", "rollouts.jsonl"
EVALS, STOPPING, WARNINGS = "evals.jsonl", "stopping.jsonl", "warnings.jsonl"
APPENDED = (METRICS, ROLLOUTS, EVALS, STOPPING, WARNINGS)
EVAL, SUMMARY, MODEL, COMPLETE = "eval.json", "summary.json", "model", "complete.json"
CHECKPOINT_PREFIX = "checkpoint-"
LOG = "train.log"  # opened by who starts the run, so it may be there first


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path` by one rename, flushed to disk first."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8; a lone surrogate, which a model may write, becomes its escape, as in JSON."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, data: object) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON of `path`, or None where the file is missing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def model_of(source: str) -> str:
    """Where the policy of `source` is: its `model` folder where it is a run directory, else `source` itself."""
    folder = Path(source) / MODEL
    return str(folder) if folder.is_dir() else source


def cut_back(path: Path, step: int) -> None:
    """Keep only the rows of steps up to `step`."""
    if path.exists():
        write_bytes(path, encoded(row for row in whole_rows(path) if row["step"] <= step))


def mark_complete(checkpoint: Path) -> None:
    """Call once every rank has written its part."""
    write_json(checkpoint / COMPLETE, {"step": int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))})


def checkpoints(run: Path) -> list[Path]:
    """Folders named like checkpoints, whole or not, by step."""
    steps = {path: path.name.removeprefix(CHECKPOINT_PREFIX) for path in run.glob(f"{CHECKPOINT_PREFIX}*")}
    return sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: int(steps[path]))


def last_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of `run`."""
    whole = [path for path in checkpoints(run) if (path / COMPLETE).exists()]
    return whole[-1] if whole else None


def drop_partial_checkpoints(run: Path) -> None:
    """Remove checkpoints that a kill left unfinished."""
    for path in checkpoints(run):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)


def check(run: Path, config: dict[str, Any], volatile: frozenset[str]) -> None:
    """See that `run` is free, or the directory of this very config. Writes nothing.

    Fields in `volatile` may differ (they do not change the result). Raises `InputError` where the directory holds
    another run, or files that no run of ours wrote.
    """
    path = run / CONFIG
    if path.exists():
        plain = json.loads(json.dumps(config))
        other = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        there, mine = ({name: values[name] for name in sorted({*values} - volatile)} for values in (other, plain))
        same_settings(there, mine, path, "run that is", output="output_dir")
        return
    if run.exists() and any(path.name != LOG for path in run.iterdir()):
        raise InputError(
            "is not empty and holds no config.yaml of a run",
            field="output_dir",
            value=str(run),
            fix="choose an empty one",
        )


def claim(run: Path, config: dict[str, Any]) -> None:
    """Make `run` the directory of this config; one that is claimed keeps the config it has."""
    if not (run / CONFIG).exists():
        run.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=True, allow_unicode=True)
        write_text(run / CONFIG, text)
