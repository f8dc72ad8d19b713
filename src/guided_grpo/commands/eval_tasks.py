"""What `guided-grpo eval` asks: the problems of a benchmark or a file as prompts, and how answers are sampled."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from guided_grpo.commands.policies import context_of
from guided_grpo.data.reading.benchmarks import BENCHMARKS, load_benchmark
from guided_grpo.data.sources import load_rows
from guided_grpo.errors import InputError
from guided_grpo.evaluation.evaluate import Decoding, Question, questions
from guided_grpo.evaluation.protocols import DECODINGS, PLAIN, PLAIN_STOP, SYSTEMS
from guided_grpo.guidance.placement import Prompt, render

STYLES = ("auto", "chat", "plain")
_DECIDE = ("task", "answer", "answer_kind", "tests", "entry_point", "setup")  # columns that decide what is right


@dataclass
class Task:
    """One set of problems, as it is asked."""

    name: str
    problems: list[Question]
    identities: list[object]
    decoding: Decoding
    stop: list[str]
    settings: dict[str, Any]
    skipped: dict[str, int] = field(default_factory=dict)


def data_task(options: argparse.Namespace, mapping: Mapping[str, str], tokenizer: PreTrainedTokenizerBase) -> Task:
    """The problems of `--data`, in the form that the data has unless a style is asked for."""
    rows = load_rows(options.data, mapping=mapping, split=options.split, limit=options.limit, reader=options.reader)
    asked = questions(rows)
    problems = [replace(each, prompt=_styled(each.prompt, options, options.prompt_style)) for each in asked]
    _check_template(problems, options, tokenizer)
    settings = {"data": options.data, "split": options.split, "prompt_style": options.prompt_style}
    stop = _stop(options, options.prompt_style)
    return Task("data", problems, [_identity(row) for row in rows], _decoding(options), stop, settings)


def benchmark_task(word: str, options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, model: str) -> Task:
    """The problems of `NAME` or `NAME=SOURCE`, as a chat where the model has a template."""
    name, _, source = word.partition("=")
    loaded = load_benchmark(name, source or None, limit=options.limit)
    style = options.prompt_style
    if style == "auto":
        style = "chat" if tokenizer.chat_template or options.system else "plain"
    problems = [replace(each, prompt=_styled(each.prompt, options, style)) for each in questions(loaded.rows)]
    _check_template(problems, options, tokenizer)
    decoding = _decoding(options, samples=BENCHMARKS[name].samples, max_tokens=BENCHMARKS[name].max_tokens)
    if options.max_tokens is None:  # the benchmark's own length, as far as the model's context goes
        kwargs = json_option(options.template_kwargs, "template-kwargs")
        longest = max(len(tokenizer(render(each.prompt, tokenizer, kwargs))["input_ids"]) for each in problems)
        decoding = replace(decoding, max_tokens=_within_context(decoding.max_tokens, longest, model))
    settings = {"benchmark": name, "data": loaded.source, "prompt_style": style}
    identities = [_identity(row) for row in loaded.rows]
    return Task(name, problems, identities, decoding, _stop(options, style), settings, loaded.skipped)


def _styled(prompt: Prompt, options: argparse.Namespace, style: str) -> Prompt:
    """The prompt as a chat or as plain text; `auto` leaves it as the data has it."""
    system = system_text(options)
    if style == "plain" or (style == "auto" and isinstance(prompt, str)):
        if system:
            raise InputError(
                "is for chats, and the prompts are plain text", field="system", fix="add --prompt-style chat"
            )
        if style == "auto" and options.template is None:
            return prompt
        template = PLAIN if options.template is None else options.template
        if "{problem}" not in template:
            raise InputError(
                "has no place for the problem", field="template", value=template, fix="write {problem} where it goes"
            )
        return str(template.replace("{problem}", _text(prompt)))
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if system is None:
        return messages
    return [{"role": "system", "content": system}, *(each for each in messages if each["role"] != "system")]


def _stop(options: argparse.Namespace, style: str) -> list[str]:
    return list(options.stop or ([PLAIN_STOP] if style == "plain" and options.template is None else []))


def _check_template(
    problems: Sequence[Question], options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase
) -> None:
    if not tokenizer.chat_template and not all(isinstance(each.prompt, str) for each in problems):
        raise InputError(
            "has no chat template, and the prompts are chats",
            field="model",
            value=options.model,
            fix="leave out --system, and use --prompt-style plain",
        )


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(str(message["content"]) for message in prompt)


def _identity(row: Mapping[str, Any]) -> object:
    return [row["prompt"], {name: row[name] for name in _DECIDE if row.get(name) is not None}]


def system_text(options: argparse.Namespace) -> str | None:
    """What `--system` says, or a paper's text by its name."""
    return None if options.system is None else SYSTEMS.get(options.system, options.system)


def _decoding(options: argparse.Namespace, **defaults: Any) -> Decoding:
    """Single options over --decoding over the benchmark's over the general ones."""
    names = ("samples", "temperature", "top_p", "top_k", "max_tokens", "batch_size", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    decoding = Decoding(**{**defaults, **DECODINGS.get(options.decoding, {}), **given})
    for name in ("samples", "max_tokens", "batch_size"):
        if getattr(decoding, name) < 1:
            raise InputError("is below 1", field=name, value=getattr(decoding, name), fix="use 1 or more")
    if not 0 < decoding.top_p <= 1 or decoding.temperature < 0 or decoding.top_k < 0:
        raise InputError(
            "is no way to sample", field="temperature, top_p, top_k",
            value=(decoding.temperature, decoding.top_p, decoding.top_k), fix="use T ≥ 0, 0 < top_p ≤ 1, top_k ≥ 0",
        )  # fmt: skip
    return decoding


def _within_context(wanted: int, prompt: int, model: str) -> int:
    context = context_of(model)
    if context is None:
        return wanted
    if context <= prompt:
        raise InputError(
            f"holds {context} tokens, and the longest prompt has {prompt}", field="model", value=model,
            fix="use a model with more context, or set --max-tokens",
        )  # fmt: skip
    return min(wanted, context - prompt)


def json_option(text: str | None, name: str) -> dict[str, Any]:
    """A JSON object from the command line; {} where none is given. Raises InputError."""
    try:
        found = json.loads(text) if text else {}
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise InputError("is no JSON object", field=name, value=text, fix="write '{\"enable_thinking\": true}'")
    return found
