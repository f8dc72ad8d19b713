"""What works with TRL's trainer works with ours: no args, streamed data, trackers, model cards."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import IterableDataset

from guided_grpo import GuidedGRPOConfig, GuidedGRPOTrainer, InputError
from parts import chain_rows, digit_reward, make_config, make_trainer

GUIDED = {"method": "fixed", "guidance_length": 6, "guidance_ratio": 0.5}


def streamed(rows: Any = None) -> IterableDataset:
    return (chain_rows() if rows is None else rows).to_iterable_dataset()


def test_without_args_it_is_a_default_config(policy: Any, tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    policy.config._name_or_path = "somebody/tiny"
    trainer = GuidedGRPOTrainer(policy, digit_reward, train_dataset=chain_rows(), processing_class=tokenizer)
    assert isinstance(trainer.args, GuidedGRPOConfig) and trainer.args.method == "grpo"
    assert Path(trainer.args.output_dir).name == "tiny-GRPO"


def test_precision_follows_the_machine(tmp_path: Path) -> None:
    assert GuidedGRPOConfig(str(tmp_path)).bf16 is torch.cuda.is_available()
    assert GuidedGRPOConfig(str(tmp_path), bf16=False).bf16 is False


@pytest.mark.slow
def test_streamed_rows_are_guided_like_those_of_a_whole_data_set(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    ids: dict[str, Any] = {}
    for name, rows in (("whole", chain_rows()), ("streamed", streamed())):
        config = make_config(tmp_path / name, **GUIDED, shuffle_dataset=False, max_steps=3, rollouts_every=1)
        make_trainer(policy, tokenizer, config, rows=rows).train()
        lines = (tmp_path / name / "rollouts.jsonl").read_text().splitlines()
        ids[name] = [
            (group["prompt"], [rollout["guidance"] for rollout in group["rollouts"]])
            for group in map(json.loads, lines)
        ]
    assert ids["streamed"] == ids["whole"]
    assert any(guidance for _, texts in ids["whole"] for guidance in texts)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (streamed(), {"curriculum": "difficulty"}, "field 'curriculum': 'difficulty' orders problems.*streamed"),
        (streamed(chain_rows().remove_columns("guidance")), {}, r"no column 'guidance' \(it has prompt, answer"),
        (streamed(chain_rows().map(lambda row: {"guidance": None})), {}, "none of the first 100 rows has a trace"),
    ],
)
def test_streamed_data_that_cannot_guide_is_refused(
    rows: Any, changes: dict[str, Any], message: str, policy: Any, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(policy, tokenizer, make_config(tmp_path, **GUIDED, **changes), rows=rows)


def test_the_trainer_evaluates_without_having_been_set_up(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Subclasses and tests of TRL's make trainers without `__init__`."""
    assert object.__new__(GuidedGRPOTrainer)._batch is None
    trainer = make_trainer(policy, tokenizer, make_config(tmp_path, **GUIDED), eval_dataset=chain_rows(4))
    assert trainer.evaluate()["eval_loss"] is not None


def tracked(policy: Any, tokenizer: Any, folder: Path, tracker: str) -> list[dict[str, Any]]:
    config = make_config(folder / "run", **GUIDED, report_to=tracker, max_steps=2, run_name="tracked")
    trainer = make_trainer(policy, tokenizer, config)
    trainer.train()
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_gets_our_metrics(policy: Any, tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    rows = tracked(policy, tokenizer, tmp_path, "tensorboard")
    events = reader.EventAccumulator(str(next((tmp_path / "board").rglob("events*")).parent)).Reload()
    values = [event.value for event in events.Scalars("train/guidance/given")]
    assert values == pytest.approx([row["guidance/given"] for row in rows])


@pytest.mark.slow
def test_wandb_gets_our_metrics(tmp_path: Path) -> None:
    """In a process of its own: its service has written everything once the process has ended."""
    pytest.importorskip("wandb")
    code = """
import sys
from pathlib import Path
from guided_grpo.embedded.pretraining import character_tokenizer, new_policy
from parts import TINY, make_config, make_trainer
tokenizer = character_tokenizer()
config = make_config(Path(sys.argv[1]) / "run", method="fixed", guidance_length=6, guidance_ratio=0.5,
                     report_to="wandb", max_steps=2, run_name="tracked")
make_trainer(new_policy(TINY, tokenizer), tokenizer, config).train()
import wandb
wandb.finish()
"""
    settings = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, **settings}, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    from wandb.proto import wandb_internal_pb2

    [log] = tmp_path.rglob("*.wandb")
    values = []
    for data in leveldb_records(log.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            if (item.key or "/".join(item.nested_key)) == "train/guidance/given":
                values.append(json.loads(item.value_json))
    assert values == pytest.approx([row["guidance/given"] for row in rows])


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format, which W&B writes: blocks of 32 KiB, of chunks with checksum, length and kind."""
    place, record = 7, b""  # behind W&B's own mark
    while place + 7 <= len(log):
        if 2**15 - place % 2**15 < 7:  # no chunk begins so near to the end of a block
            place += 2**15 - place % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", log[place : place + 7])
        record = (b"" if kind in (1, 2) else record) + log[place + 7 : place + 7 + length]
        if kind in (1, 4):  # whole, or the last chunk of one
            yield record
        place += 7 + length


@pytest.mark.slow
def test_trackio_gets_our_metrics(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """In a process of its own: it keeps a local data base, and where is read at import."""
    pytest.importorskip("trackio")
    code = """
import sys
from pathlib import Path
from guided_grpo.embedded.pretraining import character_tokenizer, new_policy
from parts import TINY, chain_rows, make_config, make_trainer
folder = Path(sys.argv[1])
tokenizer = character_tokenizer()
config = make_config(folder / "run", method="fixed", guidance_length=6, guidance_ratio=0.5, report_to="trackio",
                     max_steps=2, run_name="tracked", project="tests")
make_trainer(new_policy(TINY, tokenizer), tokenizer, config).train()
from trackio.sqlite_storage import SQLiteStorage
[name] = SQLiteStorage.get_runs("tests")
logs = SQLiteStorage.get_logs("tests", name)
print([row["train/guidance/given"] for row in logs if "train/guidance/given" in row])
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr[-2000:]
    values = json.loads(result.stdout.strip().splitlines()[-1])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert values == pytest.approx([row["guidance/given"] for row in rows])


def test_the_model_card_says_how_it_was_guided(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    config = make_config(tmp_path, method="g2rpo-a", guidance_length=6, guidance_ratio=0.5, max_steps=2)
    trainer = make_trainer(policy, tokenizer, config)
    trainer.train()
    trainer.card_facts = {"unguided accuracy after": "12.0% [8.0%, 16.0%]"}
    trainer.create_model_card(model_name="mine")
    text = (tmp_path / "README.md").read_text()
    for part in (
        "`g2rpo-a`: shorter when rewards rise", "| share guided (α) | 0.5 |", "| length ℓ0 | 6 tokens |", "| budget | 2 steps |",
        f"| tokens generated | {trainer.run_state.tokens_generated:,} |", "`curriculum: difficulty`", "| unguided accuracy after | 12.0% [8.0%, 16.0%] |",
    ):  # fmt: skip
        assert part in text
    assert "guided-grpo" in text.split("---")[1]  # TRL's own card, with our tag
