"""What `guided-grpo eval` asks: the problems of a benchmark or a file as prompts, and how answers are sampled."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from guided_grpo.commands.data_stream import rows_of
from guided_grpo.commands.policies import context_of
from guided_grpo.data.reading.benchmarks import BENCHMARKS, load_benchmark
from guided_grpo.errors import InputError
from guided_grpo.evaluation.completions import Request
from guided_grpo.evaluation.decoding import DECODINGS, PLAIN, PLAIN_STOP, SYSTEMS, Decoding
from guided_grpo.evaluation.questions import Question, question_key, questions, requests_of
from guided_grpo.guidance.keys import Prompt
from guided_grpo.settings import check

STYLES = ("auto", "chat", "plain")


@dataclass
class Task:
    """One set of problems, as it is asked."""

    name: str
    requests: list[Request]
    decoding: Decoding
    stop: list[str]
    settings: dict[str, Any]
    skipped: dict[str, int] = field(default_factory=dict)


def data_task(options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> Task:
    """The problems of `--data`, in the form that the data has unless a style is asked for."""
    settings = {"data": options.data, "split": options.split, "prompt_style": options.prompt_style}
    requests = _requests(questions(rows_of(options)), options, options.prompt_style, tokenizer)
    return Task("data", requests, _decoding(options), _stop(options, options.prompt_style), settings)


def benchmark_task(word: str, options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, model: str) -> Task:
    """The problems of `NAME` or `NAME=SOURCE`, as a chat where the model has a template."""
    name, _, source = word.partition("=")
    loaded = load_benchmark(name, source or None, limit=options.limit)
    style = options.prompt_style
    if style == "auto":
        style = "chat" if tokenizer.chat_template or options.system else "plain"
    requests = _requests(questions(loaded.rows), options, style, tokenizer)
    decoding = _decoding(options, samples=BENCHMARKS[name].samples, max_tokens=BENCHMARKS[name].max_tokens)
    if options.max_tokens is None:  # the benchmark's own length, as far as the model's context goes
        longest = max(len(request.prompt_ids) for request in requests)
        decoding = replace(decoding, max_tokens=_within_context(decoding.max_tokens, longest, model))
    settings = {"benchmark": name, "data": loaded.source, "prompt_style": style}
    return Task(name, requests, decoding, _stop(options, style), settings, loaded.skipped)


def _requests(
    problems: Sequence[Question], options: argparse.Namespace, style: str, tokenizer: PreTrainedTokenizerBase
) -> list[Request]:
    """The problems in that style, with the keys that they have in any."""
    styled = [replace(each, prompt=_styled(each.prompt, options, style)) for each in problems]
    if not tokenizer.chat_template and not all(isinstance(each.prompt, str) for each in styled):
        raise InputError(
            "has no chat template, and the prompts are chats",
            field="model",
            value=options.model,
            fix="use --prompt-style plain, without --system",
        )
    kwargs = json_option(options.template_kwargs, "template-kwargs")
    return requests_of(styled, tokenizer, kwargs, [question_key(each) for each in problems])


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


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(str(message["content"]) for message in prompt)


def system_text(options: argparse.Namespace) -> str | None:
    """What `--system` says, or a paper's text by its name."""
    return None if options.system is None else SYSTEMS.get(options.system, options.system)


def _decoding(options: argparse.Namespace, **defaults: Any) -> Decoding:
    """Single options over --decoding over the benchmark's over the general ones."""
    typed = {name: getattr(options, name) for name in vars(Decoding()) if getattr(options, name) is not None}
    decoding = Decoding(**{**defaults, **DECODINGS.get(options.decoding, {}), **typed})
    check(decoding)
    return decoding


def _within_context(most: int, prompt: int, model: str) -> int:
    context = context_of(model)
    if context is None:
        return most
    if context <= prompt:
        raise InputError(
            f"holds {context} tokens, and the longest prompt has {prompt}", field="model", value=model,
            fix="use a model with more context, or set --max-tokens",
        )  # fmt: skip
    return min(most, context - prompt)


def json_option(text: str | None, name: str) -> dict[str, Any]:
    """A JSON object from the command line; {} where none is given. Raises InputError."""
    try:
        value = json.loads(text) if text else {}
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InputError("is no JSON object", field=name, value=text, fix="write '{\"enable_thinking\": true}'")
    return value
