"""What a training run is told besides `GuidedGRPOConfig`, and how configs and command lines are read."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from annotated_types import Ge, Gt, Interval
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from trl import ModelConfig, TrlParser

from guided_grpo.commands.options import find_config, read_yaml, take_map
from guided_grpo.embedded.recipes import POLICIES
from guided_grpo.errors import InputError
from guided_grpo.evaluation.decoding import Decoding
from guided_grpo.grading import GradingSettings
from guided_grpo.settings import OneOf, again, check, describe, setting
from guided_grpo.train.config import SETTINGS, GuidedGRPOConfig, has_bf16
from guided_grpo.train.presets import METHODS, foreign

# These may change between a kill and the resume: they leave the numbers of the run as they are.
VOLATILE = frozenset(
    {
        "output_dir", "quiet", "disable_tqdm", "save_steps", "save_total_limit", "report_to",
        "maths_workers", "code_workers", "infra_limit",
        "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
    }
)  # fmt: skip
UNGUIDED = "grpo"
STAGE = "sft+"  # in front of a method: fine-tuning first
ROUNDS = 3  # behind the fine-tuning of `auto`, at most
ALONE = "sft"  # in place of a method: fine-tuning, and nothing after it


@dataclass
class RunArguments:
    """Data, rewards and evaluation of a run."""

    train_data: str = setting("", "Hub id, .jsonl, .parquet, or a generator such as chains:steps=10-14,count=640.")
    eval_data: str | None = setting(None, "Held-out problems; unset = no evaluation.")
    data_mapping: dict | str | None = field(  # type: ignore[type-arg]  # the argument parser wants a bare dict
        default=None,
        metadata={"help": 'our columns → yours, or templates: {"prompt": "{Body} {Question}"}; or --map OURS=YOURS'},
    )
    data_reader: str | None = setting(None, "schema of the data, a name in docs/data.md; unset = by its columns")
    data_split: str = setting("train", "Split of a hub data set.")
    data_limit: int | None = setting(None, "Use the first so many training rows.")
    eval_limit: int | None = setting(None, "Use the first so many held-out rows.")
    sample_filter: str = setting("keep", "keep, remove or replace hard training problems (Table 7 of G²RPO-A).")
    sample_hard: str | None = setting(None, "Lowest difficulty of a hard one: a number, a tier, or 'quantile 0.8'.")
    sample_moderate: str | None = setting(None, "Lowest difficulty of a moderate one, that replace draws from.")
    rewards: list[str] = setting(["accuracy"], "Reward functions: accuracy, format, tags, repetition, overlong.")
    eval_every: Annotated[int, Ge(0)] = setting(
        0, "Steps between unguided evaluations during training; 0 = before and after only."
    )
    eval_samples: Annotated[int, Ge(1)] = again(Decoding, "samples")
    eval_temperature: Annotated[float, Ge(0)] = again(Decoding, "temperature")
    eval_top_p: Annotated[float, Interval(gt=0, le=1)] = again(Decoding, "top_p")
    eval_top_k: Annotated[int, Ge(0)] = again(Decoding, "top_k")
    eval_max_tokens: Annotated[int | None, Ge(1)] = setting(None, "Unset = max_completion_length.")
    eval_batch_size: Annotated[int, Ge(1)] = again(Decoding, "batch_size")
    quiet: bool = setting(False, "No progress bars.")

    def __post_init__(self) -> None:
        self.data_mapping = read_mapping("data_mapping", self.data_mapping, '{"prompt": "COLUMN"}')
        if not self.train_data:
            raise InputError("is missing", field="train_data", fix="name a hub id, a file, or chains:steps=10-14")
        for name in ("sample_hard", "sample_moderate") if self.sample_filter != "keep" else ():
            if getattr(self, name) is None:
                raise InputError(
                    f"is missing for {self.sample_filter}",
                    field=name,
                    fix="give a difficulty or quantile",
                )
        check(self)

    def decoding(self, max_tokens: int) -> Decoding:
        """How held-out problems are answered; `max_tokens` where eval_max_tokens is unset."""
        names = [name for name in vars(Decoding()) if hasattr(self, f"eval_{name}")]
        values = {name: getattr(self, f"eval_{name}") for name in names}
        return Decoding(**{**values, "max_tokens": self.eval_max_tokens or max_tokens})


@dataclass
class TeachingArguments:
    """What of the traces is taught, and when that is enough."""

    sft_shares: list[float] = setting([1.0], "shares of each trace; below 1 = slices, without an end")
    sft_answer: str = setting("", "text behind a whole trace, such as '#### {answer}'")
    sft_check: bool = setting(
        True, "grade the traces first: wrong ones are not taught, those without an answer without an end"
    )
    sft_floor: Annotated[float | None, Interval(ge=0, le=1)] = setting(
        0.0, "λ of dft as it begins, which falls to 0: a token weighs λ + (1 − λ)·its probability"
    )
    sft_patience: Annotated[int, Ge(0)] = setting(
        0, "end after so many evaluations in a row clearly below the best, whose policy is kept; 0 = off"
    )
    sft_every: Annotated[int, Ge(0)] = setting(0, "steps between these; 0 = ten in the whole of it")
    sft_held_out: Annotated[int, Ge(1)] = setting(
        100, "training problems that these ask and that are not taught, of four at most one"
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass
class StageArguments(TeachingArguments):
    """Fine-tuning first, with --method sft+METHOD."""

    sft_patience: Annotated[int, Ge(0)] = again(TeachingArguments, "sft_patience", default=3)
    sft_learning_rate: Annotated[float, Gt(0)] = setting(5e-5, "after 10 % warm-up; falls to 10 % as a cosine")
    sft_epochs: Annotated[float, Ge(0)] = setting(3.0, "over the traces, at most; 0 = none, with --method auto")
    sft_batch_size: Annotated[int, Ge(1)] = setting(64, "traces a step, on all devices")
    sft_loss: Annotated[str | None, OneOf(("nll", "dft"))] = setting(
        None,
        "of a trace's tokens: log-likelihood, or that weighed by their probability (DFT, arXiv 2508.05629); "
        "unset = dft with --method auto, nll with others",
    )
    sft_rounds: Annotated[int | None, Ge(0)] = setting(
        None,
        "further rounds at most, in which the policy solves the problems that have no whole right trace, behind what "
        "they have of one, and is taught what came out right; one is enough for a policy that solves half; unset = "
        f"{ROUNDS} with --method auto, 0 with others",
    )
    sft_floor: Annotated[float | None, Interval(ge=0, le=1)] = setting(
        None,
        "λ of dft as it begins, which falls to 0: a token weighs λ + (1 − λ)·its probability; unset = 0, with --method "
        "auto 1 where the policy finds the traces foreign",
    )
    sft_max_length: Annotated[int | None, Ge(1)] = setting(
        None, "tokens; longer traces are left out; unset = what the policy can read"
    )
    first: bool = field(default=False, init=False)  # whether there is a stage: the method says it
    alone: bool = field(default=False, init=False)  # whether nothing comes after it


@dataclass(frozen=True)
class Settings:
    """A whole run of `train` or `sft`; what its fields are is what `parse_run` reads."""

    run: RunArguments
    grading: GradingSettings
    training: Any
    model: ModelConfig

    @property
    def output(self) -> Path:
        """The run directory."""
        return Path(str(self.training.output_dir))

    def to_json(self) -> dict[str, Any]:
        """What config.yaml holds: everything of ours, G, and each field of TRL and Transformers not at its default."""
        own = {**dataclasses.asdict(self.run), **dataclasses.asdict(self.grading)}
        return {**own, **plain_fields(self.training), **plain_fields(self.model)}


@dataclass(frozen=True)
class TrainSettings(Settings):
    """A whole run of `train`."""

    training: GuidedGRPOConfig
    stage: StageArguments

    @property
    def method(self) -> str:
        """As the user names it, `sft+` in front where fine-tuning comes first."""
        name = str(self.training.method)
        if self.stage.alone:
            return ALONE
        return f"{STAGE}{name}" if self.stage.first and not METHODS[name].taught_first else name

    def to_json(self) -> dict[str, Any]:
        """What config.yaml holds: of the stage only where there is one."""
        stage = {item.name: getattr(self.stage, item.name) for item in describe(StageArguments)}
        return {**super().to_json(), **(stage if self.stage.first else {}), "method": self.method}


S = TypeVar("S", bound=Settings)


def read_mapping(field: str, value: Any, example: str = '{"name": true}') -> Any:
    """A mapping as it stands in a config, or as JSON on a command line. Raises `InputError`."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InputError("is not JSON", field=field, value=value, fix=f"write {example}") from error


def plain_fields(part: Any) -> dict[str, Any]:
    """The fields of a config that are ours, read again later, or not at their default, and that can be written."""
    always = {item.name for item in SETTINGS} | {"num_generations"}
    values = {}
    for item in dataclasses.fields(part):
        value = getattr(part, item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if item.init and (item.name in always or value != default) and _is_plain(value):
            values[item.name] = value
    return values


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def help_text(classes: Sequence[type], prog: str) -> str:
    """What a run is told by our own fields; TRL's are hundreds."""
    lines = [f"usage: {prog} [--config FILE.yaml] [--field value …]", ""]
    for owner in (owner for owner in classes if owner.__module__.startswith("guided_grpo.")):
        title, items = str(owner.__doc__).partition(".")[0], describe(owner)
        if owner is GuidedGRPOConfig:
            title, items = "Training and guidance", SETTINGS
        lines += [f"{title}:", *(f"  --{item.name:<21} {item.help}" for item in items), ""]
    lines.append(f"--model_name_or_path M    hub id, folder of a checkpoint or run, or one of {', '.join(POLICIES)}")
    lines.append("--output_dir DIR          the run directory; the same command resumes a killed run")
    lines.append("")
    trainer = "GRPOConfig" if GuidedGRPOConfig in classes else "SFTConfig"
    lines.append(f"Every field of trl.{trainer} and trl.ModelConfig works too: --help-all lists them.")
    return "\n".join(lines)


def parse(arguments: list[str], prog: str = "guided-grpo train") -> TrainSettings:
    """Settings from a command line with an optional `--config FILE`. Raises `InputError` with one line."""
    return parse_run(TrainSettings, arguments, prog)


def parse_run(kind: type[S], arguments: list[str], prog: str) -> S:
    """The settings of that kind, whose fields are dataclasses, from a command line. Raises `InputError`."""
    hints = typing.get_type_hints(kind)
    classes = tuple(hints[item.name] for item in dataclasses.fields(kind))
    if {"-h", "--help"} & set(arguments):
        print(help_text(classes, prog))
        raise SystemExit(0)
    arguments = ["--help" if word == "--help-all" else word for word in arguments]
    settings = kind(*_parse_into(classes, arguments, prog))
    if not settings.training.output_dir:
        raise InputError("is missing", field="output_dir", fix="say where the run directory goes")
    if not settings.model.model_name_or_path:
        raise InputError(
            "is missing",
            field="model_name_or_path",
            fix=f"name a hub id, a checkpoint folder, or one of {', '.join(POLICIES)}",
        )
    return settings


def _parse_into(classes: tuple[type, ...], arguments: list[str], prog: str) -> tuple[Any, ...]:
    """The dataclasses that a command line and the file behind its `--config` fill.

    Fields of the file for one method give way where `--method` names another (`presets.foreign`). Raises `InputError`.
    """
    parser = TrlParser(classes, prog=prog)

    def fail(message: str) -> NoReturn:
        raise InputError(message, fix=f"see {prog} --help")

    parser.error = fail  # argparse would print the whole usage
    if not has_bf16():
        parser.set_defaults_with_config(bf16=False)  # TRL's default asks for it, whatever the machine
    path, words = config_path(arguments)
    fields = {} if path is None else read_config(path, parser)
    command = fields.pop("command", None)  # in the config.yaml of a run
    if command and prog != f"guided-grpo {command}":
        fix = f"use guided-grpo {command}"
        raise InputError("is not this one", file=path, field="command", value=command, fix=fix)
    os.environ.update({name: str(value) for name, value in fields.pop("env", {}).items()})
    mapping, words = take_map(words)
    if mapping and any(word.startswith("--data_mapping") for word in words):
        raise InputError("is given beside --map", field="data_mapping", fix="use one of the two")
    try:
        if mapping:
            fields["data_mapping"] = {**(fields.get("data_mapping") or {}), **mapping}
        parser.set_defaults_with_config(**fields)
        method = getattr(parser.parse_known_args(words)[0], "method", None)
        if "method" in fields:
            fields["method"] = _second(str(fields["method"]))
        alone = method == ALONE
        first = alone or str(method).startswith(STAGE)
        if first:
            method = _behind_stage(str(method))
            words = [*words, "--method", method]  # the last one counts
        yielding = foreign(fields, method) if method else set()
        if yielding:
            if prog == "guided-grpo train":
                names = ", ".join(name for name in fields if name in yielding)
                tell(f"{names} of the config: chosen for {fields['method']}, so {method} takes its own")
            parser.set_defaults_with_config(**dict.fromkeys(yielding))
        parts: tuple[Any, ...] = parser.parse_args_into_dataclasses(words)
        _check_trackers([name for part in parts for name in getattr(part, "report_to", None) or ()])
        for part in parts:
            if isinstance(part, StageArguments):
                part.alone = alone
                by_itself = _taught_first(parts)
                part.sft_loss = part.sft_loss or ("dft" if by_itself else "nll")
                if part.sft_floor is None and not by_itself:
                    part.sft_floor = 0.0
                if part.sft_rounds is None:
                    part.sft_rounds = ROUNDS if by_itself else 0
                part.first = part.sft_epochs > 0 and (first or by_itself)
                if first and not part.first:
                    fix = "use a number above 0, or another method"
                    raise InputError("leaves nothing to fine-tune", field="sft_epochs", value=0, fix=fix)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(str(error), file=path, fix="correct that field") from error
    return parts


def _taught_first(parts: Sequence[Any]) -> bool:
    """Whether the method of these settings begins with fine-tuning by itself."""
    names = [part.method for part in parts if isinstance(part, GuidedGRPOConfig)]
    return any(METHODS[name].taught_first for name in names if name in METHODS)


def _second(method: str) -> str:
    """METHOD of `sft+METHOD`; of `sft`, the one whose trainer is made and does not train."""
    return UNGUIDED if method == ALONE else method.removeprefix(STAGE)


def _behind_stage(method: str) -> str:
    """METHOD of `sft+METHOD`. Raises `InputError` where there is no such method."""
    name = _second(method)
    if name not in METHODS:
        fix = f"write {STAGE}METHOD with one of {', '.join(METHODS)}"
        raise InputError("has no method behind the plus", field="method", value=method, fix=fix)
    return name


def _check_trackers(names: Sequence[str]) -> None:
    """Raise `InputError` for a tracker that is unknown, or whose package is not there."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            fix = f"use none, or {', '.join(INTEGRATION_TO_CALLBACK)}"
            raise InputError("is no tracker", field="report_to", value=name, fix=fix)
        if name not in (*get_available_reporting_integrations(), "flyte"):  # which tells only once it is used
            fix = "install its package, or use none"
            raise InputError("is not installed", field="report_to", value=name, fix=fix)


def config_path(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The file behind `--config` (None = there is none), and the other words."""
    if "--config" not in arguments:
        return None, list(arguments)
    place = arguments.index("--config")
    if place + 1 >= len(arguments):
        raise InputError("needs a file", field="config", fix="write --config FILE.yaml")
    return find_config(Path(arguments[place + 1])), [*arguments[:place], *arguments[place + 2 :]]


def read_config(path: Path, parser: TrlParser) -> dict[str, Any]:
    """The fields of a config. Raises InputError, with its line, for one that `parser` does not know."""
    fields = read_yaml(path)
    known = {action.dest for action in parser._actions} | {"env", "command"}
    for key in fields:
        if key not in known:
            lines = path.read_text(encoding="utf-8").splitlines()
            line = next((n for n, text in enumerate(lines, 1) if text.startswith(f"{key}:")), None)
            raise InputError("is not a field of a run", file=path, line=line, field=str(key), fix="remove or rename it")
    if not isinstance(fields.get("env", {}), dict):
        raise InputError("is no mapping", file=path, field="env", value=fields["env"], fix="write NAME: value")
    return fields


def tell(text: str) -> None:
    """A line for the user, beside the bars."""
    print(text, file=sys.stderr, flush=True)
