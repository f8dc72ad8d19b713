"""What a training run is told besides `GuidedGRPOConfig`, and how configs and command lines are read."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from trl import ModelConfig, TrlParser

from guided_grpo.grading import GradingSettings
from guided_grpo.commands.options import read_yaml
from guided_grpo.embedded.recipes import POLICIES
from guided_grpo.errors import InputError
from guided_grpo.evaluation.evaluate import Decoding
from guided_grpo.train.config import GuidedGRPOConfig
from guided_grpo.train.methods import DEFAULTS, foreign

# These may change between a kill and the resume: they leave the numbers of the run as they are.
VOLATILE = frozenset(
    {
        "output_dir", "quiet", "disable_tqdm", "save_steps", "save_total_limit", "report_to", "embedded_base",
        "maths_workers", "code_workers", "infra_limit",
    }
)  # fmt: skip


@dataclass
class RunArguments:
    """Data, rewards and evaluation of a run."""

    train_data: str = field(
        default="", metadata={"help": "Hub id, .jsonl, .parquet, or a generator such as chains:steps=10-14,count=640."}
    )
    eval_data: str | None = field(default=None, metadata={"help": "Held-out problems; unset = no evaluation."})
    data_mapping: dict | str | None = field(  # type: ignore[type-arg]  # the argument parser wants a bare dict
        default=None, metadata={"help": 'Our column names to yours, as JSON: {"prompt": "problem"}.'}
    )
    data_reader: str | None = field(default=None, metadata={"help": "plain or gsm8k; unset = detect."})
    data_split: str = field(default="train", metadata={"help": "Split of a hub data set."})
    data_limit: int | None = field(default=None, metadata={"help": "Use the first so many training rows."})
    eval_limit: int | None = field(default=None, metadata={"help": "Use the first so many held-out rows."})
    sample_filter: str = field(
        default="keep", metadata={"help": "keep, remove or replace hard training problems (Table 7 of G²RPO-A)."}
    )
    sample_hard: str | None = field(
        default=None, metadata={"help": "Lowest difficulty of a hard one: a number, a tier, or 'quantile 0.8'."}
    )
    sample_moderate: str | None = field(
        default=None, metadata={"help": "Lowest difficulty of a moderate one, that replace draws from."}
    )
    rewards: list[str] = field(
        default_factory=lambda: ["accuracy"],
        metadata={"help": "Reward functions: accuracy, format, tags, repetition, overlong."},
    )
    eval_every: int = field(
        default=0, metadata={"help": "Steps between unguided evaluations during training; 0 = before and after only."}
    )
    eval_samples: int = field(default=4, metadata={"help": "Responses a held-out problem."})
    eval_temperature: float = field(default=0.6, metadata={"help": "0 = greedy."})
    eval_top_p: float = field(default=0.95, metadata={"help": "1 = off."})
    eval_top_k: int = field(default=20, metadata={"help": "0 = off."})
    eval_max_tokens: int | None = field(default=None, metadata={"help": "Unset = max_completion_length."})
    eval_batch_size: int = field(default=128, metadata={"help": "Responses at a time."})
    embedded_base: str | None = field(
        default=None, metadata={"help": "Folder that an embedded model is pre-trained into; unset = runs/NAME-base."}
    )
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        if isinstance(self.data_mapping, str):
            try:
                self.data_mapping = json.loads(self.data_mapping)
            except json.JSONDecodeError as error:
                raise InputError(
                    "is not JSON", field="data_mapping", value=self.data_mapping, fix='write {"prompt": "COLUMN"}'
                ) from error
        if not self.train_data:
            raise InputError("is missing", field="train_data", fix="name a hub id, a file, or chains:steps=10-14")
        for name in ("sample_hard", "sample_moderate") if self.sample_filter != "keep" else ():
            if getattr(self, name) is None:
                raise InputError(
                    f"is missing for {self.sample_filter}",
                    field=name,
                    fix="give a difficulty or quantile",
                )
        if self.eval_every < 0:
            raise InputError("is below 0", field="eval_every", value=self.eval_every, fix="use 0 (off) or more")
        if self.eval_samples < 1:
            raise InputError("is below 1", field="eval_samples", value=self.eval_samples, fix="use 1 or more")

    def decoding(self, max_completion_length: int, seed: int = 0) -> Decoding:
        """How held-out problems are answered."""
        return Decoding(
            samples=self.eval_samples,
            temperature=self.eval_temperature,
            top_p=self.eval_top_p,
            top_k=self.eval_top_k,
            max_tokens=self.eval_max_tokens or max_completion_length,
            batch_size=self.eval_batch_size,
            seed=seed,
        )


@dataclass(frozen=True)
class Settings:
    """A whole training run."""

    run: RunArguments
    grading: GradingSettings
    training: GuidedGRPOConfig
    model: ModelConfig

    @property
    def output(self) -> Path:
        """The run directory."""
        return Path(str(self.training.output_dir))

    def to_json(self) -> dict[str, Any]:
        """What config.yaml holds: everything of ours, G, and each field of TRL and Transformers not at its default."""
        shown = dataclasses.asdict(self.run) | dataclasses.asdict(self.grading)
        return shown | plain_fields(self.training) | plain_fields(self.model)


def plain_fields(part: Any) -> dict[str, Any]:
    """The fields of a config that are ours, read again later, or not at their default, and that can be written."""
    always = {*DEFAULTS, *GuidedGRPOConfig.__annotations__, "num_generations"}
    shown = {}
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        if item.init and (item.name in always or value != _default(item)) and _is_plain(value):
            shown[item.name] = value
    return shown


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default_factory() if callable(item.default_factory) else item.default


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def help_text(prog: str) -> str:
    """What a run is told by our own fields; TRL's are hundreds."""
    lines = [f"usage: {prog} [--config FILE.yaml] [--field value …]", ""]
    ours = [item for item in dataclasses.fields(GuidedGRPOConfig) if item.name in GuidedGRPOConfig.__annotations__]
    for title, items in (
        ("data, rewards, evaluation", dataclasses.fields(RunArguments)),
        ("grading", dataclasses.fields(GradingSettings)),
        ("training and guidance", ours),
    ):
        lines.append(f"{title}:")
        for item in items:
            text = str(item.metadata.get("help", ""))
            preset = DEFAULTS.get(item.name, _default(item))
            preset = " ".join(preset) if isinstance(preset, list) else preset
            shown = "" if preset in (None, "", False) else f" [{preset}]"
            lines.append(f"  --{item.name:<21} {text}{shown}")
        lines.append("")
    lines.append(f"--model_name_or_path M    hub id, checkpoint folder, or one of {', '.join(POLICIES)}")
    lines.append("--output_dir DIR          the run directory; the same command resumes a killed run")
    lines.append("")
    lines.append("Every field of trl.GRPOConfig and trl.ModelConfig works too: --help-all lists them.")
    return "\n".join(lines)


class _Parser(TrlParser):
    """TRL's, in which a file's fields for one method give way when `--method` names another."""

    method: str | None = None  # of the command line

    def set_defaults_with_config(self, **config: Any) -> list[str]:
        """The file's fields, without those."""
        gone = foreign(config, self.method) if self.method else ()
        if gone and self.prog == "guided-grpo train":
            say(f"{', '.join(gone)} of the config: chosen for {config['method']}, so {self.method} takes its own")
        kept: list[str] = super().set_defaults_with_config(**{k: v for k, v in config.items() if k not in gone})
        return kept


def parse(arguments: list[str], prog: str = "guided-grpo train") -> Settings:
    """Settings from a command line with an optional `--config FILE`. Raises `InputError` with one line."""
    if {"-h", "--help"} & set(arguments):
        print(help_text(prog))
        raise SystemExit(0)
    arguments = ["--help" if word == "--help-all" else word for word in arguments]
    parser = _Parser((RunArguments, GradingSettings, GuidedGRPOConfig, ModelConfig), prog=prog)
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--method")
    parser.method = words.parse_known_args(arguments)[0].method

    def fail(message: str) -> NoReturn:
        raise InputError(message, fix=f"see {prog} --help")

    parser.error = fail  # argparse would print the whole usage
    path = config_path(arguments)
    if path is not None:
        check_config_file(path, parser)
    try:
        run, grading, training, model = parser.parse_args_and_config(arguments)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(str(error), file=path, fix="correct that field") from error
    if not training.output_dir:
        raise InputError("is missing", field="output_dir", fix="say where the run directory goes")
    if not model.model_name_or_path:
        raise InputError(
            "is missing",
            field="model_name_or_path",
            fix=f"name a hub id, a checkpoint folder, or one of {', '.join(POLICIES)}",
        )
    return Settings(run, grading, training, model)


def config_path(arguments: list[str]) -> Path | None:
    """The file behind `--config`, or None."""
    if "--config" not in arguments:
        return None
    place = arguments.index("--config") + 1
    if place >= len(arguments):
        raise InputError("needs a file", field="config", fix="write --config FILE.yaml")
    return Path(arguments[place])


def check_config_file(path: Path, parser: TrlParser) -> None:
    """Raise InputError, with its line, for a field of the file that `parser` does not know."""
    known = {action.dest for action in parser._actions} | {"env"}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for key in read_yaml(path):
        if key not in known:
            line = next((n for n, text in enumerate(lines, 1) if text.startswith(f"{key}:")), None)
            raise InputError("is not a field of a run", file=path, line=line, field=str(key), fix="remove or rename it")


def say(text: str) -> None:
    """A line for the user, beside the bars."""
    print(text, file=sys.stderr, flush=True)
