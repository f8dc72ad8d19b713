"""Sampling with Transformers on a CPU: a prompt is read once for all its rollouts, and ended rollouts leave the batch.

The prompts (with their guidance) are one tree of prefixes, read in one call; its keys and values are kept once. Each
step then reads one token of every rollout under way: it looks at what its rollout generated, whose keys lie in a buffer
of its own, and at the nodes above, which all rollouts below meet in one call (attention.py). Logits are warped by
Transformers' own classes, in its order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from guided_grpo.train.attention import TreeLayout, flash, merge, padded, real_places, switched
from guided_grpo.train.prefixes import Node, build_tree

_ALIVE = 0.8  # ended rollouts leave once the share of those under way is below: leaving copies the others' buffers
_FIRST_ROOM = 32  # tokens of the buffers at first; doubled when they are full
_NO_IDS = torch.empty(0, dtype=torch.long)  # these warpers look at logits alone


class _Prompts(TreeLayout):
    """The layout of the prompts, which keeps keys and values of every layer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.read: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, layer: int) -> torch.Tensor:
        self.read[layer] = (k, v)
        return super().attend(q, k, v, scale, layer)


class _Shared:
    """One level of nodes above the rollouts under way: n nodes, at most Q rollouts below each."""

    def __init__(self, below: dict[int, tuple[Node, list[int]]], prompts: _Prompts) -> None:
        counts = torch.tensor([len(rows) for _, rows in below.values()])
        self.rows_nQ = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(rows) for _, rows in below.values()], batch_first=True
        )
        whole = bool((counts == self.rows_nQ.size(1)).all())
        self.flat, self.rows = real_places(
            self.rows_nQ, None if whole else torch.arange(self.rows_nQ.size(1)) < counts[:, None]
        )
        keys_nK, mask_nK = padded([[node] for node, _ in below.values()])
        self.mask = None
        if mask_nK is not None:
            self.mask = torch.zeros(mask_nK.shape).masked_fill_(~mask_nK, -torch.inf)[:, None, None, :]
        self.keys = {
            layer: tuple(x[keys_nK].transpose(1, 2).contiguous() for x in (k, v))
            for layer, (k, v) in prompts.read.items()
        }

    def take_into(self, out: torch.Tensor, lse: torch.Tensor, q: torch.Tensor, scale: float, layer: int) -> None:
        """Merge what the rollouts see here; q of shape (rows, key heads, queries of each, D)."""
        k, v = self.keys[layer]
        blocks, (count, most) = q[self.rows_nQ].transpose(1, 2), self.rows_nQ.shape  # (n, heads, Q, each, D)
        heads, each, size = q.shape[1:]
        mask = None if self.mask is None else self.mask.to(q.dtype).expand(-1, -1, most * each, -1)
        part, part_lse = flash(blocks.reshape(count, heads, most * each, size), k, v, attn_mask=mask, scale=scale)
        part = part.unflatten(2, (most, each)).transpose(1, 2).reshape(count * most, heads * each, size)
        part_lse = part_lse.unflatten(2, (most, each)).transpose(1, 2).reshape(count * most, heads * each)
        merge(out, lse, self.rows, part.index_select(0, self.flat), part_lse.index_select(0, self.flat))


class _Rollouts:
    """The layout of one step: the newest token of each rollout under way.

    Args:
        prompts: read already.
        ends: of each rollout, the node at which its prompt ends.
    """

    def __init__(self, prompts: _Prompts, ends: list[Node]) -> None:
        self._prompts, self._ends = prompts, ends
        self._own: dict[int, list[torch.Tensor]] = {}  # by layer: keys and values (rows, heads, room, D)
        self._length = 0  # generated tokens of each rollout, that under way included
        self._shared = self._nodes_above()

    def _nodes_above(self) -> list[_Shared]:
        levels: list[dict[int, tuple[Node, list[int]]]] = []
        for row, end in enumerate(self._ends):
            for height, node in enumerate(end.path):
                if height == len(levels):
                    levels.append({})
                if node.size:
                    levels[height].setdefault(id(node), (node, []))[1].append(row)
        return [_Shared(below, self._prompts) for below in levels if below]

    def begin_step(self) -> None:
        """Make room for one more token of each rollout."""
        self._length += 1
        for own in self._own.values():
            if self._length > own[0].size(2):
                own[:] = [torch.cat([buffer, torch.empty_like(buffer)], dim=2) for buffer in own]

    def keep(self, rows: torch.Tensor) -> None:
        """Only these go on."""
        for own in self._own.values():
            own[:] = [buffer[:, :, : self._length].index_select(0, rows) for buffer in own]
        self._ends = [self._ends[row] for row in rows.tolist()]
        self._shared = self._nodes_above()

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, layer: int) -> torch.Tensor:
        """As `attention.Layout`; keeps the new keys and values."""
        rows, heads, size = k.shape
        if layer not in self._own:
            self._own[layer] = [k.new_empty(rows, heads, _FIRST_ROOM, size) for _ in (k, v)]
        seen = []
        for buffer, new in zip(self._own[layer], (k, v), strict=True):
            buffer[:, :, self._length - 1] = new
            seen.append(buffer[:, :, : self._length])
        grouped = q.view(rows, heads, -1, size)  # query heads that share a key head ask as one block
        own, own_lse = flash(grouped, *seen, scale=scale)
        out: torch.Tensor = own.reshape(q.shape)
        lse = own_lse.reshape(q.shape[:2])
        for shared in self._shared:
            shared.take_into(out, lse, grouped, scale, layer)
        return out


@torch.no_grad()
def sample_rollouts(
    model: Any,
    prompts: Sequence[list[int]],
    warp: LogitsProcessorList,
    ends: Collection[int],
    most: int,
) -> list[list[int]]:
    """One rollout of each prompt, to the first token of `ends` (which it holds) or `most` tokens.

    Args:
        model: whose config passes `forward.why_plain`; on a CPU.
        prompts: token ids; those that begin alike are read together.
        warp: of `warpers`.
        ends: tokens that end a rollout.
        most: tokens.
    """
    if not prompts:
        return []
    different = list(dict.fromkeys(map(tuple, prompts)))
    behind = [[*ids, -1] for ids in different]  # the tree reads what predicts a token: here, the one to be drawn
    tree = build_tree(behind)
    layout = _Prompts(tree, torch.device("cpu"))
    inputs, positions = tree.packed(behind)
    last = {ids: tree.places(number)[-1] for number, ids in enumerate(different)}
    node_of = {ids: tree.ends[number] for number, ids in enumerate(different)}
    with switched(model.config):
        logits = _logits(model, inputs, positions, layout, torch.tensor([last[tuple(ids)] for ids in prompts]))
        steps = _Rollouts(layout, [node_of[tuple(ids)] for ids in prompts])
        alive = torch.arange(len(prompts))  # number of the rollout that each row of the batch is
        lengths = torch.tensor([len(ids) for ids in prompts])
        rollouts: list[list[int]] = [[] for _ in prompts]
        over = torch.zeros(len(prompts), dtype=torch.bool)
        stops = torch.tensor(sorted(ends))
        for step in range(most):
            drawn = torch.multinomial(warp(_NO_IDS, logits).softmax(dim=-1), 1).squeeze(1)
            for row, token in zip(alive[~over].tolist(), drawn[~over].tolist(), strict=True):
                rollouts[row].append(token)
            over |= torch.isin(drawn, stops)
            if bool(over.all()) or step + 1 == most:
                break
            if float(over.sum()) > (1 - _ALIVE) * len(over):
                rows = (~over).nonzero().squeeze(1)
                steps.keep(rows)
                alive, drawn, over = alive[rows], drawn[rows], over[rows]
            steps.begin_step()
            logits = _logits(model, drawn.tolist(), (lengths[alive] + step).tolist(), steps, torch.arange(len(alive)))
    return rollouts


def _logits(
    model: Any, inputs: list[int], positions: list[int], layout: _Prompts | _Rollouts, places: torch.Tensor
) -> torch.Tensor:
    """Logits (places, vocabulary) at some places of a packed sequence."""
    output = model(
        input_ids=torch.tensor([inputs]),
        position_ids=torch.tensor([positions]),
        attention_mask=torch.zeros(1, 1, 1, 1),  # four dimensions: Transformers leaves it as it is
        use_cache=False,
        logits_to_keep=places,
        prefix_layout=layout,
    )
    return output.logits[0].float()  # type: ignore[no-any-return]


def warpers(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float | None = None
) -> LogitsProcessorList:
    """Transformers' warpers of these settings, in the order of its `generate`.

    Args:
        temperature: divides logits.
        top_k: most likely tokens that stay; 0 = all.
        top_p: share of the probability that stays; 1 = all.
        min_p: least probability, as a share of the most likely token's; None = any.
    """
    chosen: list[Any] = []
    if temperature != 1:
        chosen.append(TemperatureLogitsWarper(temperature))
    if top_k:
        chosen.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chosen.append(TopPLogitsWarper(top_p))
    if min_p is not None:
        chosen.append(MinPLogitsWarper(min_p))
    return LogitsProcessorList(chosen)
