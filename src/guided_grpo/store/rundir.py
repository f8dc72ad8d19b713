"""The run directory: what a run leaves, written so that a partial file is never mistaken for a whole one.

config.yaml      the resolved settings; makes a directory this run's
metrics.jsonl    one row a step      } appended; cut back to the checkpoint on resume
rollouts.jsonl   sampled groups      }
evals.jsonl      unguided accuracy during training, where eval_every asks for it }
warnings.jsonl   hint-collapse, format-drift (signals.py)                        }
train.log        what the run said, where `compare --jobs` ran it
checkpoint-*/    TRL's, plus guidance state; whole once it holds `complete.json`
model/           the trained policy
eval.json        unguided accuracy before and after
summary.json     written last: the run is finished
report.html      `guided-grpo report`
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from guided_grpo.errors import InputError
from guided_grpo.store.journals import same_settings

CONFIG, METRICS, ROLLOUTS = "config.yaml", "metrics.jsonl", "rollouts.jsonl"
EVALS, WARNINGS = "evals.jsonl", "warnings.jsonl"
APPENDED = (METRICS, ROLLOUTS, EVALS, WARNINGS)
EVAL, SUMMARY, MODEL, COMPLETE = "eval.json", "summary.json", "model", "complete.json"
CHECKPOINT_PREFIX = "checkpoint-"
LOG = "train.log"  # opened by who starts the run, so it may be there first
# Fields that config.yaml once lacked, with the value that a training run without them had.
_LATER_FIELDS: dict[str, Any] = {"max_train_seconds": 0.0, "guidance_credit": "signed", "num_generations": 8}


def write_text(path: Path, text: str) -> None:
    """Write `path` by one rename, flushed to disk first."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def write_json(path: Path, data: object) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON of `path`, or None where the file is missing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append JSON lines in one write, so that a kill leaves at most one broken line, at the end."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of `path` up to the first broken one; nothing where the file is missing."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                return
            yield row


def model_of(source: str) -> str:
    """Where the policy of `source` is: its `model` folder where it is a run directory, else `source` itself."""
    folder = Path(source) / MODEL
    return str(folder) if folder.is_dir() else source


def cut_back(path: Path, step: int) -> None:
    """Keep only the rows of steps up to `step`."""
    if path.exists():
        rows = [row for row in whole_rows(path) if row["step"] <= step]
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def mark_complete(checkpoint: Path) -> None:
    """Call once every rank has written its part."""
    write_json(checkpoint / COMPLETE, {"step": int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))})


def checkpoints(run: Path) -> list[Path]:
    """Folders named like checkpoints, whole or not, by step."""
    found = [path for path in run.glob(f"{CHECKPOINT_PREFIX}*") if path.name.removeprefix(CHECKPOINT_PREFIX).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT_PREFIX)))


def last_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of `run`."""
    whole = [path for path in checkpoints(run) if (path / COMPLETE).exists()]
    return whole[-1] if whole else None


def drop_partial_checkpoints(run: Path) -> None:
    """Remove checkpoints that a kill left unfinished."""
    for path in checkpoints(run):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml says, with the fields that it lacks where an earlier version wrote it."""
    return config if config.get("command") == "sft" else {**_LATER_FIELDS, **config}  # which has none of them


def check(run: Path, config: dict[str, Any], volatile: frozenset[str]) -> None:
    """See that `run` is free, or the directory of this very config. Writes nothing.

    Fields in `volatile` may differ (they do not change the result). Raises `InputError` where the directory holds
    another run, or files that no run of ours wrote.
    """
    path = run / CONFIG
    if path.exists():
        plain = json.loads(json.dumps(config))
        found = complete(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        there, mine = ({name: values[name] for name in sorted({*values} - volatile)} for values in (found, plain))
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
