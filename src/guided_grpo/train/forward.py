"""The training forward that reads each token once, and only tokens that can move the loss.

TRL asks for log-probs and entropies of completion tokens and does the rest. Here they come from one packed sequence of
the tree of prefixes of the rows (prefixes.py) under `tree_attention` (attention.py). Left out are

    rows      whose advantage is 0, where no other term of the loss reads them (β = 0, no entropy term)
    tokens    whose weight in the loss is 0, and what stands behind the last token that has one

and their places hold what makes their share of the loss exactly 0, while every normaliser counts them as before. Loss
and gradients are those of TRL's own forward but for the order of sums (tests/train/test_forward.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from guided_grpo.train.attention import TreeLayout, switched
from guided_grpo.train.prefixes import build_tree

FORWARDS = ("shared", "plain")


@dataclass(frozen=True)
class Reading:
    """What a forward gives: log-probs and entropies of completion tokens, shape (b, T), 0 where none was asked for."""

    logps_bT: torch.Tensor
    entropies_bT: torch.Tensor | None
    inputs: int  # tokens that the model read


def why_plain(model: Any) -> str | None:
    """Why this model cannot read shared prefixes, in words; None = it can, as far as its config says.

    Args:
        model: unwrapped, perhaps with adapters.
    """
    config = model.config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    adapters = getattr(model, "peft_config", {}).values()
    base = model.get_base_model() if adapters else model
    if config.is_encoder_decoder or text is not config:
        return "it is not a text-only decoder"
    if kinds != {"full_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        return "its attention is a sliding window"
    if not getattr(base, "_supports_attention_backend", False):
        return "its class does not take attention functions"
    if not (getattr(text, "rope_parameters", None) or getattr(text, "rope_theta", None)):
        return "its positions are not rotary"
    if getattr(text, "attention_dropout", 0.0):
        return "it has dropout in its attention"
    if getattr(text, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    if any(adapter.is_prompt_learning for adapter in adapters):
        return "its adapter is a learned prompt"
    return None


def needed_tokens(inputs: dict[str, Any], *, every_row: bool) -> torch.Tensor:
    """Which completion tokens can move the loss, bool, shape (b, T).

    Args:
        inputs: of TRL's `_compute_loss`.
        every_row: a term of the loss besides the policy's reads rows whatever their advantage.
    """
    if "advantages" not in inputs:  # a step of traces alone
        taken_bT: torch.Tensor = inputs["imitation_factors"] != 0
        return taken_bT
    weights_bT: torch.Tensor = inputs["completion_mask"]
    if "tool_mask" in inputs:
        weights_bT = weights_bT * inputs["tool_mask"]
    needed_bT = weights_bT != 0
    if not every_row:
        advantages: torch.Tensor = inputs["advantages"]
        needed_bT = needed_bT & (advantages.unsqueeze(1) if advantages.dim() == 1 else advantages).ne(0)
    if "imitation_factors" in inputs:
        needed_bT = needed_bT | (inputs["imitation_factors"] != 0)
    return needed_bT


def read_shared(
    model: Callable[..., Any],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    needed_bT: torch.Tensor,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Reading:
    """Log-probs and entropies of the needed tokens, by one call of the model.

    The model is called even where nothing is needed (with the shortest beginning of a row): ranks must call it equally
    often, and its gradients must be zeros then, not missing.

    Args:
        model: switched to `attention.IMPLEMENTATION`, with TRL's fused head.
        input_ids: prompts, padded on the left, and completions, padded on the right, shape (b, L).
        attention_mask: which of them are real, shape (b, L).
        needed_bT: of the T completion tokens.
        autocast: precision of the call.
    """
    device, width = input_ids.device, input_ids.size(1) - needed_bT.size(1)
    needed = needed_bT.cpu()
    ids, real = input_ids.tolist(), attention_mask[:, :width].sum(dim=1).tolist()  # real tokens of each prompt
    last_b = (needed * torch.arange(1, needed.size(1) + 1)).amax(dim=1).tolist()  # behind the last one needed
    rows = {
        row: ids[row][width - prompt : width + last]
        for row, (prompt, last) in enumerate(zip(real, last_b, strict=True))
        if last
    }
    if not rows:
        row = min(range(len(ids)), key=lambda row: real[row])
        rows = {row: ids[row][width - real[row] : width + 1]}
    tree = build_tree(list(rows.values()))
    place_bT = torch.zeros(needed.shape, dtype=torch.long)
    for number, (row, tokens) in enumerate(rows.items()):
        places = tree.places(number)[real[row] - 1 :]
        place_bT[row, : len(places)] = torch.tensor(places)
        assert len(places) == len(tokens) - real[row]
    packed_ids, positions = torch.tensor(tree.packed(list(rows.values())), dtype=torch.long)
    labels = torch.full((tree.inputs,), -100)
    labels[place_bT[needed]] = input_ids[:, width:].cpu()[needed]
    with autocast():
        output = model(
            input_ids=packed_ids.to(device).unsqueeze(0),
            position_ids=positions.to(device).unsqueeze(0),
            attention_mask=torch.zeros(1, 1, 1, 1, device=device),  # four dimensions: Transformers leaves it as it is
            shift_labels=labels.to(device).unsqueeze(0),
            fused_lm_head=True,
            prefix_layout=TreeLayout(tree, device),
        )
    place_bT = place_bT.to(device)
    logps_bT, entropies_bT = (
        None if values is None else values[0][place_bT].where(needed_bT, 0.0)
        for values in (output.log_probs, output.entropy)
    )
    assert logps_bT is not None
    return Reading(logps_bT, entropies_bT, tree.inputs)


class Forward:
    """How a trainer's model is read, from one of TRL's questions to the next.

    Args:
        shared: whether prefixes are shared; else TRL reads, and this only keeps what it read.
        checkpointing: layers are read again in backward, so the model stays switched until `close`.
    """

    def __init__(self, *, shared: bool, checkpointing: bool) -> None:
        self.shared, self._checkpointing = shared, checkpointing
        self.values: tuple[torch.Tensor, torch.Tensor | None] | tuple[()] = ()  # log-probs, entropies, as last read
        self._needed_bT: torch.Tensor | None = None  # None = every completion token
        self._entropy_sums: torch.Tensor | None = None  # of the needed tokens, and their number
        self._switch = ExitStack()

    @contextmanager
    def reading(self, needed_bT: torch.Tensor | None) -> Iterator[None]:
        """A loss that needs these tokens; what was read is forgotten after it."""
        self._needed_bT = needed_bT
        try:
            yield
        finally:
            self._needed_bT, self.values = None, ()

    def read(
        self,
        model: Any,
        config: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        completion: int,
        batch_size: int | None,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> tuple[int, torch.Tensor, torch.Tensor | None]:
        """Tokens that the model read, log-probs and entropies; in calls of `batch_size` rows.

        Args:
            model: perhaps wrapped.
            config: of the model itself.
            input_ids: as in `read_shared`.
            attention_mask: as in `read_shared`.
            completion: T, completion tokens at the end of each row.
            batch_size: None = one call.
            autocast: precision of the calls.
        """
        needed_bT = attention_mask[:, -completion:].bool() if self._needed_bT is None else self._needed_bT
        size = batch_size or len(input_ids)
        self.close()
        self._switch.enter_context(switched(config))
        try:
            readings = [
                read_shared(model, input_ids[rows], attention_mask[rows], needed_bT[rows], autocast)
                for rows in (slice(first, first + size) for first in range(0, len(input_ids), size))
            ]
        finally:
            if not (torch.is_grad_enabled() and self._checkpointing):
                self.close()
        logps_bT, entropies_bT = torch.cat([reading.logps_bT for reading in readings]), None
        if readings[0].entropies_bT is not None:
            entropies_bT = torch.cat([reading.entropies_bT for reading in readings])  # type: ignore[misc]  # all or none
            self._entropy_sums = torch.stack([entropies_bT.detach().sum(), needed_bT.sum()])
        self.values = (logps_bT, entropies_bT)
        return sum(reading.inputs for reading in readings), logps_bT, entropies_bT

    def mean_entropy(self, accelerator: Any) -> float:
        """Over the tokens that were read, of all ranks; NaN where none was."""
        total, count = accelerator.reduce(self._entropy_sums, reduction="sum").tolist()
        return total / count if count else math.nan

    def close(self) -> None:
        """Switch the model back."""
        self._switch.close()


def arrange_rows(groups: Sequence[Hashable], costs: Sequence[int], chunks: int) -> list[list[int]]:
    """Micro-batches of equally many rows in which groups stay together, with about the same number of tokens each.

    Args:
        groups: of each row, in TRL's shuffled order; the order of groups follows it.
        costs: tokens of each row that the loss needs.
        chunks: micro-batches; they divide the rows.

    Returns:
        Row numbers of each micro-batch. Where groups do not fit, they are cut at the end of a micro-batch.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    size = len(groups) // chunks
    filled: list[list[int]] = [[] for _ in range(chunks)]
    spent = [0] * chunks
    for rows in sorted(members.values(), key=lambda rows: -sum(costs[row] for row in rows)):
        open_chunks = [chunk for chunk in range(chunks) if len(filled[chunk]) + len(rows) <= size]
        if not open_chunks:
            flat = [row for rows in members.values() for row in rows]
            return [flat[size * chunk : size * (chunk + 1)] for chunk in range(chunks)]
        chunk = min(open_chunks, key=lambda chunk: spent[chunk])
        filled[chunk] += rows
        spent[chunk] += sum(costs[row] for row in rows)
    return sorted(filled, key=lambda rows: min(rows, default=0))


def arrange(chunks: list[dict[str, Any]], *, every_row: bool) -> list[dict[str, Any]]:
    """TRL's micro-batches of a generation batch with their rows arranged by `arrange_rows`.

    Args:
        chunks: as TRL buffers them.
        every_row: as in `needed_tokens`.
    """
    whole = {name: _joined([chunk[name] for chunk in chunks]) for name in chunks[0]}
    needed_bT = needed_tokens(whole, every_row=every_row)
    prompts = [tuple(ids) for ids in whole["prompt_ids"].tolist()]
    order = arrange_rows(prompts, needed_bT.sum(dim=1).tolist(), len(chunks))
    return [{name: _taken(values, rows) for name, values in whole.items()} for rows in order]


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor) and first.dim():
        return torch.cat(parts)
    return [item for part in parts for item in part] if isinstance(first, list) else first


def _taken(values: Any, rows: list[int]) -> Any:
    if isinstance(values, torch.Tensor) and values.dim():
        return values[rows]
    return [values[row] for row in rows] if isinstance(values, list) else values
