"""Which part of a trace is handed over: its beginning, cut by tokens, by share, by steps or by characters.

A trace shorter than asked gives what it has; nothing is ever padded. Unless leaking is allowed, the slice ends before
the trace states the final answer (`guidance_limit` characters, see problems/leak.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from guided_grpo.types import Strength

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|;\s*")
_LINE_END = re.compile(r"\n+")


@dataclass(frozen=True)
class Slice:
    """Guidance ids and what the leak limit did to them."""

    ids: tuple[int, ...]
    clipped: bool = False  # more was asked for, and the leak limit cut it
    leaked: bool = False  # the slice reaches into the part that states the answer


def step_ends(trace: str) -> list[int]:
    """Character positions after each step, increasing, the last one `len(trace)`.

    Steps are lines where the trace has line breaks; else sentences, and clauses that `;` ends.
    """
    pattern = _LINE_END if "\n" in trace.strip() else _SENTENCE_END
    ends = [match.end() for match in pattern.finditer(trace) if match.end() < len(trace)]
    return [*ends, len(trace)] if trace else []


def slice_trace(
    trace: str,
    strength: Strength,
    limit: int,
    tokenize: Callable[[str], list[int]],
    *,
    leak: bool = False,
) -> Slice:
    """The beginning of `trace` that `strength` asks for, as token ids.

    Args:
        trace: the whole trace.
        strength: amount in tokens (rounded down), share of the trace's tokens, steps (rounded down) or characters.
        limit: characters of the trace that do not state the answer.
        tokenize: text → ids as they stand in their final place.
        leak: allow the slice to pass `limit`.
    """
    usable = trace if leak else trace[:limit]
    if strength.unit in ("tokens", "ratio"):
        ids = tokenize(usable) if usable else []
        if strength.unit == "tokens":
            wanted = math.floor(strength.amount + 1e-9)
        else:
            # The share is of the whole trace: a limit shortens what is given, not what the share means.
            whole = len(ids) if len(usable) == len(trace) else len(tokenize(trace))
            wanted = math.floor(min(strength.amount, 1.0) * whole + 1e-9)
        given = ids[:wanted]
        clipped = wanted > len(ids) and len(usable) < len(trace)
        leaked = leak and limit < len(trace) and len(given) > len(tokenize(trace[:limit]) if limit else [])
        return Slice(tuple(given), clipped, leaked)
    end = _character_end(trace, strength)
    given_end = min(end, len(usable))
    text = trace[:given_end]
    return Slice(tuple(tokenize(text)) if text else (), clipped=end > given_end, leaked=given_end > limit)


def _character_end(trace: str, strength: Strength) -> int:
    if strength.unit == "chars":
        return min(len(trace), math.floor(strength.amount + 1e-9))
    ends = step_ends(trace)
    steps = min(len(ends), math.floor(strength.amount + 1e-9))
    return ends[steps - 1] if steps else 0
