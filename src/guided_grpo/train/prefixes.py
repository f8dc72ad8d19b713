"""Which tokens rows have in common: a tree of prefixes, so that a forward pass can read each of them once.

Rows of a group share the prompt, guided ones the beginning of the trace too, and rows whose guidance differs in length
as much of it as the shortest has. A node holds the tokens `start:end` of all rows below it:

    [prompt + 20 tokens of guidance] ─┬─ [5 more of guidance] ─┬─ [generated, row 0]
                                      │                        └─ [generated, row 1]
                                      ├─ [generated, row 2]
                                      └─ [generated, row 3]

What is read for a node are the inputs that *predict* its tokens, x_{start−1} … x_{end−2}: so every input has one label,
the last token of a row is never read, and the rows of one prompt of P tokens cost P − 1 + Σ n_i inputs (n_i tokens
behind the prompt) where rows read alone cost Σ (P − 1 + n_i).

Pure: lists of numbers in, a tree out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

LEAST_GAIN = 32  # tokens that a node must save: below, one more level costs more than it gives
MOST_LEVELS = 3  # of nodes on the way of a row, its own included; each adds calls of the attention to every layer


@dataclass
class Node:
    """Tokens `start:end` of the rows below, and where their inputs stand in the packed sequence."""

    start: int
    end: int
    row: int  # one of the rows below; any of them has these tokens
    parent: Node | None
    gain: int = 0  # tokens that are not read again because rows share it
    offset: int = 0
    children: list[Node] = field(default_factory=list, repr=False)

    @property
    def size(self) -> int:
        """Inputs that predict its tokens; nothing predicts the first token of a row."""
        return self.end - max(self.start, 1)

    @property
    def path(self) -> list[Node]:
        """From the root to this node."""
        return [*(self.parent.path if self.parent else ()), self]

    @property
    def level(self) -> int:
        """Nodes above it."""
        return len(self.path) - 1


@dataclass(frozen=True)
class PrefixTree:
    """Nodes in the order of their inputs (parents first), and the node at which each row ends."""

    nodes: list[Node]
    ends: list[Node]  # by row
    inputs: int  # of all nodes

    def places(self, row: int) -> list[int]:
        """Packed places of the inputs of a row: entry i predicts token i + 1."""
        return [place for node in self.ends[row].path for place in range(node.offset, node.offset + node.size)]

    def packed(self, rows: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """Ids and positions of all inputs, in their packed order.

        Args:
            rows: those that the tree was built of.
        """
        ids: list[int] = []
        positions: list[int] = []
        for node in self.nodes:
            first = max(node.start, 1) - 1
            ids += rows[node.row][first : node.end - 1]
            positions += range(first, node.end - 1)
        return ids, positions


def build_tree(
    rows: Sequence[list[int]], *, least_gain: int = LEAST_GAIN, most_levels: int = MOST_LEVELS
) -> PrefixTree:
    """The tree of some rows.

    Args:
        rows: token ids, each row of at least two.
        least_gain: a node that saves fewer tokens is not made.
        most_levels: where more levels would be needed, the nodes that save least give way.
    """
    order = sorted(range(len(rows)), key=lambda row: rows[row])
    common = [0, *(_common_length(rows[a], rows[b]) for a, b in pairwise(order))]
    ends: dict[int, Node] = {}
    roots: list[Node] = []

    def grow(low: int, high: int, start: int, parent: Node | None) -> None:
        """Nodes for the rows `order[low:high]`, whose first `start` tokens are above."""
        siblings = parent.children if parent else roots
        if high - low == 1:
            row = order[low]
            if parent is not None and len(rows[row]) == start:
                ends[row] = parent  # it is the beginning of its neighbours, or the same
            else:
                ends[row] = Node(start, len(rows[row]), row, parent)
                siblings.append(ends[row])
            return
        end = min(common[low + 1 : high])
        gain = (end - max(start, 1)) * (high - low - 1)
        if gain >= least_gain:
            node = Node(start, end, order[low], parent, gain)
            siblings.append(node)
            start, parent = end, node
        cuts = [low, *(place for place in range(low + 1, high) if common[place] == end), high]
        for first, last in pairwise(cuts):
            grow(first, last, start, parent)

    grow(0, len(order), 0, None)
    while deep := [node for node in ends.values() if node.level >= most_levels]:
        _dissolve(min(deep[0].path[:-1], key=lambda node: node.gain), ends)
        roots = _roots(ends)
    nodes, inputs = [], 0
    for node in _walk(roots):
        node.offset = inputs
        inputs += node.size
        nodes.append(node)
    return PrefixTree(nodes, [ends[row] for row in range(len(rows))], inputs)


def _common_length(a: list[int], b: list[int]) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _dissolve(node: Node, ends: dict[int, Node]) -> None:
    """Take a node out: each node below reads its tokens itself."""
    if node.parent is not None:
        node.parent.children.remove(node)
    for child in node.children:
        child.start, child.parent = node.start, node.parent
        if node.parent is not None:
            node.parent.children.append(child)
    for row, end in ends.items():
        if end is node:
            ends[row] = Node(node.start, node.end, row, node.parent)
            if node.parent is not None:
                node.parent.children.append(ends[row])


def _roots(ends: dict[int, Node]) -> list[Node]:
    return list({id(root): root for root in (node.path[0] for node in ends.values())}.values())


def _walk(nodes: list[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from _walk(node.children)
