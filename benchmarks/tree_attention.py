"""Attention over shared prefixes by every kernel that this device has, against rows that are read alone.

    .venv/bin/python benchmarks/tree_attention.py                        a guided batch on a GPU, or on the CPU
    .venv/bin/python benchmarks/tree_attention.py --groups 2 --tokens 32

gathered    keys of each path for one masked call: what train/attention.py takes on every device but the CPU
merged      parts merged by their log-sum-exp: what it takes on the CPU, which alone has the kernel
flex        FlexAttention with the tree as its block mask; backward on a GPU alone. A trial, not used by the trainer

A line of JSON each: ms of forward and backward (forward alone for flex on a CPU), and the largest difference of the
output and of the gradient of the queries from rows alone, in the same precision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from guided_grpo.train.attention import TreeLayout
from guided_grpo.train.prefixes import PrefixTree, build_tree

HEADS, KEY_HEADS, WIDTH = 8, 4, 64
SCALE = WIDTH**-0.5
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of (N, heads, D)


def guided_rows(groups: int, size: int, tokens: int) -> list[list[int]]:
    """Groups of `size` rows: a prompt, guidance for the first half, then of each row its own; of `tokens` each."""
    draw = Random(0)

    def some() -> list[int]:
        return [draw.randrange(50_000) for _ in range(tokens)]

    problems = [(some(), some()) for _ in range(groups)]
    return [
        [*prompt, *(guidance if row < size // 2 else []), *some()]
        for prompt, guidance in problems
        for row in range(size)
    ]


def alone(tree: PrefixTree, rows: int, device: torch.device) -> Attention:
    """Each row by itself, causal; of what rows share, the result of any of them."""
    places = [torch.tensor(tree.places(row), device=device) for row in range(rows)]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(q)
        for place in places:
            parts = (x[place].transpose(0, 1)[None] for x in (q, k, v))
            mine = scaled_dot_product_attention(*parts, is_causal=True, scale=SCALE, enable_gqa=True)
            out = out.index_copy(0, place, mine[0].transpose(0, 1))
        return out

    return attend


def kernels(tree: PrefixTree, device: torch.device) -> Iterator[tuple[str, Attention]]:
    usual = TreeLayout.reads_by_gathering
    for name, gathers in (("gathered", True), ("merged", False)):
        if name == "merged" and device.type != "cpu":
            continue
        TreeLayout.reads_by_gathering = staticmethod(lambda device, gathers=gathers: gathers)  # type: ignore[method-assign]
        layout = TreeLayout(tree, device)
        TreeLayout.reads_by_gathering = staticmethod(usual)  # type: ignore[method-assign]
        yield name, lambda q, k, v, layout=layout: layout.attend(q, k, v, SCALE, 0)  # type: ignore[misc]
    yield "flex", flex(tree, device)


def flex(tree: PrefixTree, device: torch.device) -> Attention:
    node_N = torch.tensor([number for number, node in enumerate(tree.nodes) for _ in range(node.size)], device=device)
    paths = [{id(node) for node in node.path} for node in tree.nodes]
    sees = torch.tensor([[id(node) in path for node in tree.nodes] for path in paths], device=device)

    def mask(batch: Any, head: Any, query: Any, key: Any) -> torch.Tensor:
        return sees[node_N[query], node_N[key]] & (key <= query)  # parents stand before their children

    blocks = create_block_mask(mask, None, None, tree.inputs, tree.inputs, device=str(device))
    call: Any = torch.compile(flex_attention) if device.type == "cuda" else flex_attention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        parts = (x.transpose(0, 1)[None].contiguous() for x in (q, k, v))
        out: torch.Tensor = call(*parts, block_mask=blocks, scale=SCALE, enable_gqa=True)
        return out[0].transpose(0, 1)

    return attend


def measured(attend: Attention, inputs: list[torch.Tensor], repeats: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Output, gradient of the queries (zeros where none is asked for), and the median of the ms."""
    seconds = []
    for _ in range(repeats + 1):
        for x in inputs:
            x.grad = None
        started = time.perf_counter()
        out = attend(*inputs)
        if out.requires_grad:
            (out.float() ** 2).sum().backward()  # type: ignore[no-untyped-call]
        if out.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    gradient = torch.zeros_like(out) if inputs[0].grad is None else inputs[0].grad
    return out.detach(), gradient, 1000 * statistics.median(seconds[1:])


def largest(difference: torch.Tensor) -> float:
    return float(f"{float(difference.abs().max()):.1e}")


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--size", type=int, default=8, help="rows of a group")
    parser.add_argument("--tokens", type=int, default=256, help="of the prompt, of the guidance, of a response")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = guided_rows(options.groups, options.size, options.tokens)
    tree = build_tree(rows)
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        torch.manual_seed(0)
        shapes = [(tree.inputs, heads, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
        inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes]
        expected, gradient, ms = measured(alone(tree, len(rows), device), inputs, options.repeats)
        usual = {"device": device.type, "dtype": str(dtype).removeprefix("torch."), "tokens": tree.inputs}
        print(json.dumps({"kernel": "rows alone", **usual, "ms": round(ms, 2)}), flush=True)
        for name, attend in kernels(tree, device):
            given = [x.detach() for x in inputs] if name == "flex" and device.type == "cpu" else inputs
            out, found, ms = measured(attend, given, options.repeats)
            errors = {"output": largest(out - expected)}
            if given is inputs:
                errors["gradient"] = largest(found - gradient)
            print(json.dumps({"kernel": name, **usual, "ms": round(ms, 2), **errors}), flush=True)


if __name__ == "__main__":
    main()
