"""Which part of a trace is handed over: its beginning, cut by tokens, steps or characters, counted or as a share ω.

    tokens n    ratio ω          first n tokens, first ω of the tokens
    steps n     ratio-steps ω    whole lines or sentences only
    chars n     ratio-chars ω    characters, as in the GHPO paper: may break a word

A trace shorter than asked gives what it has; nothing is ever padded. Unless leaking is allowed, the slice ends before
the trace states the final answer (`guidance_limit` characters, see data/leak.py). Numbers are rounded down, but for
`ratio-steps`: the nearest whole number of steps, at least one, since a hint of no step is no hint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from guided_grpo.types import Strength, Unit

SHARES: dict[str, Unit] = {"chars": "ratio-chars", "tokens": "ratio", "steps": "ratio-steps"}  # what an ω is of
UNITS = ("tokens", "ratio", "steps", "ratio-steps", "chars", "ratio-chars")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|;\s*")
_LINE_END = re.compile(r"\n+")
_ROUNDING = 1e-9  # 0.7 of 10 is 7, whatever floats say


@dataclass(frozen=True)
class Slice:
    """The guidance of one rollout, and what the leak limit did to it.

    A prefix is `ids`, in front of what is generated; a hint is `hint`, text for the user's turn.
    """

    ids: tuple[int, ...] = ()
    clipped: bool = False  # more was asked for, and the leak limit cut it
    leaked: bool = False  # the slice reaches into the part that states the answer
    hint: str = ""
    hint_tokens: int = 0
    whole: bool = False  # all of the trace, its answer and its end: nothing is left to generate

    @property
    def tokens(self) -> int:
        """Guidance tokens, wherever they stand; 0 = unguided."""
        return len(self.ids) + self.hint_tokens


NO_SLICE = Slice()


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
        strength: how much, in one of `UNITS`.
        limit: characters of the trace that do not state the answer.
        tokenize: text → ids as they stand in their final place.
        leak: allow the slice to pass `limit`.
    """
    if strength.unit not in ("tokens", "ratio"):
        text, clipped, leaked = slice_text(trace, strength, limit, token_ends=None, leak=leak)
        return Slice(tuple(tokenize(text)) if text else (), clipped, leaked)
    usable = trace if leak else trace[:limit]
    ids = tokenize(usable) if usable else []
    # The share is of the whole trace: a limit shortens what is given, not what the share means.
    count = _count(strength, lambda: len(ids) if len(usable) == len(trace) else len(tokenize(trace)))
    head = ids[:count]
    clipped = count > len(ids) and len(usable) < len(trace)
    leaked = leak and limit < len(trace) and len(head) > len(tokenize(trace[:limit]) if limit else [])
    return Slice(tuple(head), clipped, leaked)


def slice_text(
    trace: str,
    strength: Strength,
    limit: int,
    *,
    token_ends: Callable[[str], list[int]] | None,
    leak: bool = False,
) -> tuple[str, bool, bool]:
    """The same as text: (text, clipped, leaked).

    Args:
        token_ends: text → character position after each of its tokens; needed for `tokens` and `ratio`.
    """
    if strength.unit in ("steps", "ratio-steps"):
        ends = step_ends(trace)
    elif strength.unit in ("chars", "ratio-chars"):
        ends = list(range(1, len(trace) + 1))
    else:
        assert token_ends is not None
        ends = token_ends(trace)
    most = min(_count(strength, lambda: len(ends)), len(ends))
    count = most
    while not leak and count and len(trace[: ends[count - 1]].rstrip()) > limit:
        count -= 1
    end = ends[count - 1] if count else 0
    if not leak:
        end = min(end, limit)
    return trace[:end], count < most, end > limit


def _count(strength: Strength, whole: Callable[[], int]) -> int:
    """How many tokens, steps or characters `strength` asks for, of `whole()`."""
    if not strength.unit.startswith("ratio"):
        return math.floor(strength.amount + _ROUNDING)
    part = min(strength.amount, 1.0) * whole()
    if strength.unit == "ratio-steps":
        return max(1, math.floor(part + 0.5 + _ROUNDING)) if part > 0 else 0
    return math.floor(part + _ROUNDING)
