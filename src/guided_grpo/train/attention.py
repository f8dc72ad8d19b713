"""Attention over a tree of prefixes: each token on the tokens of its own row, whose beginnings are held once.

The tokens of a packed sequence are those of the nodes of a `PrefixTree`, one after the other. A token looks at the
earlier ones of its node, and at all tokens of the nodes above. With s_j the scores of one query, split in parts P
(its own node, each node above), attention is the parts' own attentions o_P, weighed by their sums of exponentials:

    lse_P = log Σ_{j∈P} exp(s_j)      o = Σ_P exp(lse_P − lse) · o_P      lse = log Σ_P exp(lse_P)

so queries of all rows below a node meet its keys in one call without a mask, and no key is copied. Backward is that of
flash attention: a part needs no more than its queries, keys, values, and o and lse of the whole (as ring attention
does over devices). This needs a kernel that gives and takes lse, which PyTorch has for the CPU; elsewhere each node
gathers the keys of its path for one masked call, which every kernel takes.

`IMPLEMENTATION` is its name among Transformers' attention functions; `switched` turns a model to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import AttentionInterface

from guided_grpo.train.prefixes import Node, PrefixTree

IMPLEMENTATION = "guided_grpo_prefix_tree"
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Layout(Protocol):
    """What each token of a packed sequence looks at."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, layer: int) -> torch.Tensor:
        """Attention of a layer, all of shape (N, heads, D)."""


class Part:
    """One call of the kernel: n blocks of at most Q queries on at most K keys, each block of some nodes.

    Args:
        queries: nodes of each block whose inputs ask.
        keys: nodes of each block that they look at.
        causal: the keys are the queries' own; padding stands behind them, where causality hides it.
    """

    def __init__(self, queries: Sequence[list[Node]], keys: Sequence[list[Node]], *, causal: bool = False) -> None:
        self.queries_nQ, self.query_mask_nQ = padded(queries)
        self.keys_nK, key_mask_nK = padded(keys)
        self.causal = causal
        self.real_queries = real_places(self.queries_nQ, self.query_mask_nQ)
        self.real_keys = real_places(self.keys_nK, key_mask_nK)
        self._key_mask_nK = None if causal else key_mask_nK

    def inputs(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Queries, keys and values (n, heads, ·, D), and what is added to the scores."""
        mask, repeat = None, q.size(1) // k.size(1)
        if self._key_mask_nK is not None:
            mask = torch.zeros(self._key_mask_nK.shape, dtype=q.dtype).masked_fill_(~self._key_mask_nK, -torch.inf)
            mask = mask[:, None, None, :].expand(-1, -1, self.queries_nQ.size(1), -1)
        part_k, part_v = _blocks(k, self.keys_nK), _blocks(v, self.keys_nK)
        if repeat > 1:
            part_k, part_v = part_k.repeat_interleave(repeat, dim=1), part_v.repeat_interleave(repeat, dim=1)
        return _blocks(q, self.queries_nQ), part_k, part_v, mask


class TreeLayout:
    """A tree as the attention reads it, on one device.

    Args:
        tree: the nodes.
        device: of the model.
    """

    def __init__(self, tree: PrefixTree, device: torch.device) -> None:
        nodes = [node for node in tree.nodes if node.size]
        levels = [
            [node for node in nodes if node.level == level] for level in range(1 + max(node.level for node in nodes))
        ]
        self.inputs = tree.inputs
        if not self.reads_by_gathering(device):
            self.own = [Part([[node] for node in level], [[node] for node in level], causal=True) for level in levels]
            self.above = [part for depth, level in enumerate(levels) for part in _parts_above(level, depth)]
        else:
            self.gathered = [_gathered(level, device) for level in levels]

    @staticmethod
    def reads_by_gathering(device: torch.device) -> bool:
        """Whether the kernel that gives and takes lse is missing there."""
        return device.type != "cpu"

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, layer: int) -> torch.Tensor:
        """As `Layout`."""
        if hasattr(self, "gathered"):
            return _gathered_attention(q, k, v, self, scale)
        return _MergedAttention.apply(q, k, v, self, scale)  # type: ignore[no-any-return,no-untyped-call]


def _parts_above(level: list[Node], depth: int) -> Iterator[Part]:
    """Queries of the nodes of a level on each level above, those of one node above in one block."""
    for height in range(depth):
        blocks: dict[int, tuple[Node, list[Node]]] = {}
        for node in level:
            above = node.path[height]
            if above.size:
                blocks.setdefault(id(above), (above, []))[1].append(node)
        if blocks:
            yield Part([below for _, below in blocks.values()], [[above] for above, _ in blocks.values()])


def padded(blocks: Sequence[list[Node]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Places of the tokens of some nodes, block by block, and which are real."""
    rows = [
        torch.cat([torch.arange(node.offset, node.offset + node.size) for node in block])
        if block
        else torch.empty(0, dtype=torch.long)
        for block in blocks
    ]
    lengths = torch.tensor([len(row) for row in rows])
    places = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    if bool((lengths == places.size(1)).all()):
        return places, None
    return places, torch.arange(places.size(1)) < lengths[:, None]


def real_places(places: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    flat = torch.arange(places.numel()) if mask is None else mask.flatten().nonzero().squeeze(1)
    return flat, places.flatten()[flat]


def _gathered(level: list[Node], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of the nodes of a level, whether real, keys of their paths, and the mask of both."""
    queries, real = padded([[node] for node in level])
    above, mask = padded([node.path[:-1] for node in level])
    count, length = queries.shape
    real = torch.ones(count, length, dtype=torch.bool) if real is None else real
    mask = torch.ones_like(above, dtype=torch.bool) if mask is None else mask
    own = torch.ones(length, length, dtype=torch.bool).tril().expand(count, -1, -1)
    whole = torch.cat([mask[:, None, :].expand(-1, length, -1), own], dim=2)[:, None]
    keys = torch.cat([above, queries], dim=1)
    return queries.to(device), real.to(device), keys.to(device), whole.to(device)


def merge(
    out: torch.Tensor, lse: torch.Tensor, places: torch.Tensor, part_out: torch.Tensor, part_lse: torch.Tensor
) -> None:
    """Take a part into what the queries at `places` have so far, in place.

    Args:
        out: (N, heads, D).
        lse: (N, heads).
        places: which of the N, each once.
        part_out: their attention over the part.
        part_lse: its log of the sum of exponentials.
    """
    before = lse.index_select(0, places)
    total = torch.logaddexp(before, part_lse)
    share = (part_lse - total).exp().unsqueeze(-1).to(out.dtype)
    out.index_copy_(0, places, torch.lerp(out.index_select(0, places), part_out, share))
    lse.index_copy_(0, places, total)


class _MergedAttention(torch.autograd.Function):
    """Of tensors (N, heads, D): the module's equation, and its gradient."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TreeLayout, scale: float) -> Any:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
        for part in layout.own:
            flat, places = part.real_queries
            part_out, part_lse = _part_forward(part, q, k, v, scale)
            out.index_copy_(0, places, part_out.index_select(0, flat))
            lse.index_copy_(0, places, part_lse.index_select(0, flat))
        for part in layout.above:
            flat, places = part.real_queries
            part_out, part_lse = _part_forward(part, q, k, v, scale)
            part_out, part_lse = part_out.index_select(0, flat), part_lse.index_select(0, flat)
            merge(out, lse, places, part_out, part_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for part in (*ctx.layout.own, *ctx.layout.above):
            part_q, part_k, part_v, mask = part.inputs(q, k, v)
            part_gradient = _blocks(gradient, part.queries_nQ)
            part_lse = lse.index_select(0, part.queries_nQ.flatten()).view(*part.queries_nQ.shape, -1).transpose(1, 2)
            if part.query_mask_nQ is not None:  # what stands in the padding must not move any key
                padding = ~part.query_mask_nQ[:, None, :]
                part_gradient = part_gradient.masked_fill(padding.unsqueeze(-1), 0)
                part_lse = part_lse.masked_fill(padding, torch.inf)
            a, b, c = _flash_backward(
                part_gradient,
                part_q,
                part_k,
                part_v,
                _blocks(out, part.queries_nQ),
                part_lse,
                0.0,
                part.causal,
                attn_mask=mask,
                scale=ctx.scale,
            )
            _add(dq, a, part.real_queries)
            _add(dk, _summed_heads(b, k.size(1)), part.real_keys)
            _add(dv, _summed_heads(c, v.size(1)), part.real_keys)
        return dq, dk, dv, None, None


def _part_forward(
    part: Part, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of a part alone, (n·Q, heads, D), and its log of the sum of exponentials, (n·Q, heads)."""
    part_q, part_k, part_v, mask = part.inputs(q, k, v)
    out, lse = flash(part_q, part_k, part_v, 0.0, part.causal, attn_mask=mask, scale=scale)
    return out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)


def _blocks(values: torch.Tensor, places_nK: torch.Tensor) -> torch.Tensor:
    """(N, heads, D) → (n, heads, K, D)."""
    return values.index_select(0, places_nK.flatten()).view(*places_nK.shape, *values.shape[1:]).transpose(1, 2)


def _add(total: torch.Tensor, blocks: torch.Tensor, real: tuple[torch.Tensor, torch.Tensor]) -> None:
    flat, places = real
    total.index_add_(0, places, blocks.transpose(1, 2).flatten(0, 1).index_select(0, flat))


def _summed_heads(blocks: torch.Tensor, heads: int) -> torch.Tensor:
    return blocks if blocks.size(1) == heads else blocks.view(len(blocks), heads, -1, *blocks.shape[2:]).sum(dim=2)


def _gathered_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TreeLayout, scale: float
) -> torch.Tensor:
    outs, places, repeat = [], [], q.size(1) // k.size(1)
    for queries, real, keys, mask in layout.gathered:
        # Heads are repeated: with a mask and fewer key heads no kernel is left that does not hold all scores.
        part_k, part_v = (_blocks(x, keys).repeat_interleave(repeat, dim=1) for x in (k, v))
        out = functional.scaled_dot_product_attention(_blocks(q, queries), part_k, part_v, attn_mask=mask, scale=scale)
        outs.append(out.transpose(1, 2)[real])
        places.append(queries[real])
    return torch.cat(outs)[torch.cat(places).argsort()]


def tree_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    *,
    prefix_layout: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """A Transformers attention function; takes (1, heads, N, D), gives (1, N, heads, D).

    Args:
        module: of the layer.
        query: of the packed sequence.
        key: perhaps of fewer heads.
        value: as key.
        attention_mask: unused, the layout says it all.
        prefix_layout: what looks at what; comes from the model's keyword arguments.
        scaling: of the scores; None = 1/√D.
    """
    # Under autocast what was rotated or normed comes in float32; Transformers' own kernels have autocast for that.
    q, k, v = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
    scale = q.size(-1) ** -0.5 if scaling is None else scaling
    return prefix_layout.attend(q, k, v, scale, module.layer_idx).unsqueeze(0), None


AttentionInterface.register(IMPLEMENTATION, tree_attention)


@contextmanager
def switched(config: Any) -> Iterator[None]:
    """Let a model read by `tree_attention`, inside. Checkpointed layers are read again in backward: it belongs inside.

    Args:
        config: of the model.
    """
    usual = config._attn_implementation
    config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = usual
