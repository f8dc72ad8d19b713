"""FLOPs of training, counted from the tokens that the model really reads.

    without gradient    2·N a token      sampling (prompts and every step of it), old and reference log-probs
    with gradient       6·N a token      2·N forward, 2·N for the gradients of states, 2·N for those of weights;
                                         of frozen parameters 4·N: their weights get none

the usual estimate (arXiv 2001.08361), with these choices:

    N            all parameters but the table of input embeddings, which is looked up; the head counts for every token
                 read, tied to that table or not. Of a mixture of experts all experts count.
    left out     attention scores, which grow with length; optimizer steps; grading; evaluation
    padding      counts where the model reads it (TRL's own forward and `generate`); what is shared counts once
    recomputed   layers of gradient checkpointing are not counted twice: saving memory is no part of a method
    reference    a model of its own has its own N; an adapter that is switched off counts as if it were on
    engines      vLLM, continuous batching (whose recorded passes cannot be seen): each different prompt once, and
                 every generated token

Tokens are counted where they pass the decoder, so whatever calls it is counted, and nothing by formula but engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch


@dataclass(frozen=True)
class Parameters:
    """N of a model, in its two parts."""

    trained: int
    frozen: int = 0

    def forward(self, tokens: int) -> int:
        """FLOPs of reading tokens without gradient."""
        return 2 * (self.trained + self.frozen) * tokens

    def update(self, tokens: int) -> int:
        """FLOPs of reading tokens with gradient, backward included."""
        return (6 * self.trained + 4 * self.frozen) * tokens


def parameters_of(model: Any) -> Parameters:
    """N of a causal language model, perhaps with adapters."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    looked_up = None if head is not None and head.weight is table else table
    counts = {True: 0, False: 0}
    for parameter in model.parameters():  # a tied one comes once
        if parameter is not looked_up:
            counts[parameter.requires_grad] += getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 holds a part
    return Parameters(counts[True], counts[False])


def engine_tokens(prompts: Iterable[Sequence[int]], completions: Iterable[Sequence[int]]) -> int:
    """Tokens that an engine reads which keeps what prompts have in common."""
    return sum(map(len, set(map(tuple, prompts)))) + sum(map(len, completions))


class Meter:
    """Counts while it is open: `with meter: …`. Evaluation, which calls the same model, stays outside.

    Args:
        models: unwrapped; the first is the one that is trained.
    """

    def __init__(self, *models: Any) -> None:
        self._open, self._flops = False, 0
        self._parameters = [parameters_of(model) for model in models]
        for model, parameters in zip(models, self._parameters, strict=True):
            base = model.get_base_model() if hasattr(model, "get_base_model") else model
            decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
            decoder.register_forward_pre_hook(_Count(self, parameters), with_kwargs=True)

    def __enter__(self) -> Self:
        self._open = True
        return self

    def __exit__(self, *error: object) -> None:
        self._open = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what the models read meanwhile: `add_sampled` does."""
        was, self._open = self._open, False
        try:
            yield
        finally:
            self._open = was

    def add(self, flops: int) -> None:
        """Count these, if it is open."""
        self._flops += flops if self._open else 0

    def add_sampled(self, prompts: Iterable[Sequence[int]], completions: Iterable[Sequence[int]]) -> None:
        """Count what an engine sampled with the model that is trained."""
        self.add(self._parameters[0].forward(engine_tokens(prompts, completions)))

    def take(self) -> int:
        """FLOPs since the last call."""
        flops, self._flops = self._flops, 0
        return flops


class _Count:
    """The hook of one decoder."""

    def __init__(self, meter: Meter, parameters: Parameters) -> None:
        self._meter, self._parameters = meter, parameters

    def __call__(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        tokens = ids.numel() if ids is not None else named["inputs_embeds"].shape[:2].numel()
        count = self._parameters.update if torch.is_grad_enabled() else self._parameters.forward
        self._meter.add(count(tokens))
