"""Where guidance stands: `prefix`, at the start of the assistant's turn, or `hint`, in the user's turn.

A prefix goes inside the thinking block where there is one. Three cases for a chat template that knows `<think>`:

    the generation prompt ends with an open `<think>`        guidance follows it directly
    the generation prompt ends with a closed, empty block    (Qwen3, enable_thinking=False) guidance is plain text
    the generation prompt says nothing of thinking           (Qwen3, enable_thinking=True) the policy would open the
                                                             block itself, so guidance begins with `<think>\\n`

Ids are made once, by tokenising the text behind the rendered prompt and keeping what comes after the prompt's own ids,
so that a tokenizer that marks word starts or merges across the seam gives the ids it would give in place.

A hint is text: the wording of a template around the problem, in the last user message of a chat (a system message stays
as it is) or in the text of a plain prompt. It is part of the prompt, so it is never in the loss.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Protocol

from guided_grpo.errors import InputError
from guided_grpo.guidance.keys import Prompt, prompt_text
from guided_grpo.guidance.slicing import NO_SLICE, Slice, slice_text, slice_trace
from guided_grpo.settings import AxisGroup, OneOf, axis, setting
from guided_grpo.types import Row, Strength

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
PLACEMENTS = ("prefix", "hint")
# The wording of the GHPO paper.
HINT_TEMPLATE = (
    "{problem}\n The following text is the beginning part of the answer, "
    "which you can refer to for solving the problem:\n{hint}"
)
_COLUMN = re.compile(r"\{(\w+)\}")
_BLANK = re.compile(r"(\{problem\}|\{hint\})")
_OPEN_AT_END = re.compile(re.escape(THINK_OPEN) + r"\s*\Z")
_CLOSED_AT_END = re.compile(re.escape(THINK_CLOSE) + r"\s*\Z")


@dataclass
class PlacementSettings(AxisGroup):
    """Where guidance stands."""

    guidance_placement: Annotated[str, OneOf(PLACEMENTS)] = axis(
        "prefix", "prefix: start of the assistant's turn; hint: in the user's turn"
    )
    hint_template: str = setting(HINT_TEMPLATE, "wording of a hint around {problem} and {hint}; unset = GHPO's")
    guidance_thinking: Annotated[str, OneOf(("auto", "open", "none"))] = setting(
        "auto", "whether guidance opens a <think> block"
    )
    guidance_leak: bool = setting(False, "let guidance state the final answer")


class Tokenizer(Protocol):
    """The part of a Transformers tokenizer that is used here."""

    chat_template: Any

    def __call__(self, text: str, add_special_tokens: bool = True, **kwargs: Any) -> Mapping[str, Any]: ...

    def decode(self, token_ids: Any) -> Any: ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


def render(prompt: Prompt, tokenizer: Tokenizer, template_kwargs: Mapping[str, Any]) -> str:
    """The prompt as the policy sees it, up to the start of the assistant's turn."""
    if isinstance(prompt, str):
        return prompt
    return str(
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **dict(template_kwargs))
    )


def check_hint_template(template: str) -> None:
    """Raise `InputError` unless `{problem}` and `{hint}` stand in it once each."""
    if sorted(_BLANK.findall(template)) != ["{hint}", "{problem}"]:
        raise InputError(
            "does not hold {problem} and {hint} once each",
            field="hint_template",
            value=template,
            fix="write the wording around these two, such as '{problem} Hint: {hint}'",
        )


def with_hint(prompt: Prompt, hint: str, template: str = HINT_TEMPLATE) -> Prompt:
    """The prompt with `hint` in its user's turn; `prompt` itself stays as it is.

    Raises:
        InputError: a chat without a user message.
    """
    if isinstance(prompt, str):
        return _fill(template, prompt, hint)
    place = max((i for i, message in enumerate(prompt) if message["role"] == "user"), default=None)
    if place is None:
        raise InputError(
            "has no message of the user to put a hint in",
            field="prompt",
            value=prompt,
            fix="give the problem as a user message, or set guidance_placement: prefix",
        )
    content = prompt[place]["content"]
    if isinstance(content, str):
        filled: Any = _fill(template, content, hint)
    else:  # parts: the wording goes around them
        before, after = _fill(template, "\0", hint).split("\0")
        parts = [{"type": "text", "text": text} for text in (before, after)]
        filled = [part for part in (parts[0], *content, parts[1]) if part.get("text") != ""]
    return [*prompt[:place], {**prompt[place], "content": filled}, *prompt[place + 1 :]]


def _fill(template: str, problem: str, hint: str) -> str:
    # In one pass, so that braces in a problem or a trace stay what they are.
    return "".join({"{problem}": problem, "{hint}": hint}.get(part, part) for part in _BLANK.split(template))


def answer_text(template: str, row: Mapping[str, Any]) -> str:
    """What stands behind a whole trace: `{NAME}` in the template is that column, nothing where it is null."""
    return _COLUMN.sub(lambda match: str(row.get(match[1]) or ""), template)


def token_ends(text: str, tokenizer: Tokenizer) -> list[int]:
    """Character position after each token of `text`, as far as one text can be cut there."""
    if getattr(tokenizer, "is_fast", False):
        pairs = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [end for _, end in pairs]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # no offsets: by decoding
    return [min(len(text), len(tokenizer.decode(ids[: count + 1]))) for count in range(len(ids))]


def thinking_is_open(rendered: str) -> bool:
    """Whether the rendered prompt already opened a thinking block."""
    return bool(_OPEN_AT_END.search(rendered))


def opening(rendered: str, tokenizer: Tokenizer, mode: str = "auto") -> str:
    """Text that stands before the trace: `<think>\\n` where the policy would open the block itself, else nothing.

    Args:
        mode: "auto" reads it off the chat template, "open" always opens a block that is not open, "none" never does.
    """
    if mode == "none" or thinking_is_open(rendered) or (mode == "auto" and _CLOSED_AT_END.search(rendered)):
        return ""
    template = tokenizer.chat_template
    knows_thinking = isinstance(template, str) and THINK_OPEN in template and _renders_as_chat(rendered, template)
    return f"{THINK_OPEN}\n" if mode == "open" or knows_thinking else ""


def _renders_as_chat(rendered: str, template: str) -> bool:
    # A plain-text prompt of a chat model carries no role markers, and its continuation no thinking block.
    return any(marker in rendered for marker in re.findall(r"<\|[^|<>]+\|>", template))


def continuation_ids(rendered: str, text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of `text` as it stands behind `rendered`; on its own where a merge crosses the seam."""
    if not text:
        return []
    before = list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    joint = list(tokenizer(rendered + text, add_special_tokens=False)["input_ids"])
    if joint[: len(before)] == before:
        return joint[len(before) :]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class GuidanceTokenizer:
    """Traces in their final place, remembered: a problem comes G times a step, and again every epoch.

    Args:
        tokenizer: the policy's.
        template_kwargs: of its chat template.
        thinking: "auto", "open" or "none", see `placement.opening`.
        placement: "prefix" or "hint".
        template: wording of a hint.
        leak: let guidance state the final answer.
        cache: renderings and tokenisations kept.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template_kwargs: Mapping[str, Any],
        thinking: str,
        *,
        placement: str = "prefix",
        template: str = HINT_TEMPLATE,
        leak: bool = False,
        cache: int = 4096,
    ) -> None:
        self.tokenizer, self.template_kwargs, self.thinking = tokenizer, template_kwargs, thinking
        self.placement, self.template, self.leak = placement, template, leak
        self._ids = lru_cache(maxsize=cache)(self._uncached_ids)
        self._rendered = lru_cache(maxsize=cache)(self._uncached_rendered)
        self._token_ends = lru_cache(maxsize=cache)(lambda text: tuple(token_ends(text, tokenizer)))

    def thinking_is_open(self, prompt: Prompt) -> bool:
        """Whether the rendered prompt opens a thinking block, so that the response cannot."""
        return thinking_is_open(self._rendered(prompt_text(prompt)))

    def slice(self, row: Row, strength: Strength) -> Slice:
        """The guidance of one rollout, in its place; empty where the problem has no trace or the strength is 0."""
        trace = row.get("guidance")
        if not trace or strength.amount <= 0:
            return NO_SLICE
        limit = row.get("guidance_limit")
        limit = len(trace) if limit is None else limit
        if self.placement == "hint":
            ends = self._token_ends
            text, clipped, leaked = slice_text(
                trace, strength, limit, token_ends=lambda text: list(ends(text)), leak=self.leak
            )
            return Slice((), clipped, leaked, text, len(ends(text)) if text else 0)
        key = prompt_text(row["prompt"])
        piece = slice_trace(trace, strength, limit, lambda text: list(self._ids(key, text)), leak=self.leak)
        return self._opened(self._rendered(key), piece) if piece.ids else piece

    def whole(self, row: Row, answer: str, end_id: int) -> Slice:
        """The whole trace as a rollout, with the text of the answer (`answer_text`) and the end.

        Empty where the problem has no trace.
        """
        trace = row.get("guidance")
        if not trace:
            return NO_SLICE
        text = trace + answer_text(answer, row)
        key = prompt_text(row["prompt"])
        opened = self._opened(self._rendered(key), Slice(self._ids(key, text)))
        return replace(opened, ids=(*opened.ids, end_id), leaked=True, whole=True)

    def prompt(self, prompt: Prompt, piece: Slice) -> Prompt:
        """The prompt that the policy sees: with the hint in its user's turn, where there is one."""
        return with_hint(prompt, piece.hint, self.template) if piece.hint else prompt

    def length(self, prompt: Prompt, piece: Slice) -> int:
        """Tokens before the first generated one: prompt, hint, and guidance prefix."""
        return len(self.prompt_ids(self.prompt(prompt, piece))) + len(piece.ids)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt as the policy sees it, tokenised."""
        # A rendered chat carries its special tokens already; a plain text gets the tokenizer's.
        ids = self.tokenizer(self._rendered(prompt_text(prompt)), add_special_tokens=isinstance(prompt, str))[
            "input_ids"
        ]
        return list(ids)

    def without_opening(self, prompt: Prompt, response: str) -> str:
        """A response as a trace: what `slice` and `whole` put in front of it again is taken away."""
        return response.removeprefix(opening(self._rendered(prompt_text(prompt)), self.tokenizer, self.thinking))

    def _opened(self, rendered: str, piece: Slice) -> Slice:
        # With the opening of a thinking block in front, where the policy would have written one.
        start = opening(rendered, self.tokenizer, self.thinking)
        ids = continuation_ids(rendered, start, self.tokenizer)
        return replace(piece, ids=(*ids, *piece.ids))

    def _uncached_rendered(self, key: str) -> str:
        return render(json.loads(key), self.tokenizer, self.template_kwargs)

    def _uncached_ids(self, key: str, text: str) -> tuple[int, ...]:
        rendered = self._rendered(key)
        return tuple(
            continuation_ids(rendered + opening(rendered, self.tokenizer, self.thinking), text, self.tokenizer)
        )
