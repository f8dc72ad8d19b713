"""Where guidance stands: at the start of the assistant's turn, inside the thinking block where there is one.

Three cases for a chat template that knows `<think>`:

    the generation prompt ends with an open `<think>`        guidance follows it directly
    the generation prompt ends with a closed, empty block    (Qwen3, enable_thinking=False) guidance is plain text
    the generation prompt says nothing of thinking           (Qwen3, enable_thinking=True) the policy would open the
                                                             block itself, so guidance begins with `<think>\\n`

Ids are made once, by tokenising the text behind the rendered prompt and keeping what comes after the prompt's own ids,
so that a tokenizer that marks word starts or merges across the seam gives the ids it would give in place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
PLACEMENTS = ("prefix",)
_OPEN_AT_END = re.compile(re.escape(THINK_OPEN) + r"\s*\Z")
_CLOSED_AT_END = re.compile(re.escape(THINK_CLOSE) + r"\s*\Z")


class Tokenizer(Protocol):
    """The part of a Transformers tokenizer that is used here."""

    chat_template: Any

    def __call__(self, text: str, add_special_tokens: bool = True) -> Mapping[str, list[int]]: ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


def render(prompt: str | list[dict[str, Any]], tokenizer: Tokenizer, template_kwargs: Mapping[str, Any]) -> str:
    """The prompt as the policy sees it, up to the start of the assistant's turn."""
    if isinstance(prompt, str):
        return prompt
    return str(
        tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **dict(template_kwargs))
    )


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
