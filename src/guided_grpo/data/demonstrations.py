"""Rows as demonstrations for supervised fine-tuning: the trace where guidance would stand, with the same ids.

    whole trace   prompt ids | [opening of a thinking block] trace ids [answer ids] end
    slice ω       prompt ids | [opening] first ω of the trace ids        no end: the trace goes on

Labels are on all but the prompt. So a policy that was fine-tuned on traces, and one that was guided by them, have seen
the same tokens in the same places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from guided_grpo.errors import InputError
from guided_grpo.guidance.placement import GuidanceTokenizer, answer_text
from guided_grpo.types import Strength

IGNORED = -100  # the label of a token that has no loss


def demonstrations(
    rows: Iterable[Mapping[str, Any]],
    guide: GuidanceTokenizer,
    *,
    shares: Sequence[float] = (1.0,),
    answer: str = "",
    end_id: int,
    max_tokens: int | None = None,
) -> tuple[list[dict[str, list[int]]], dict[str, int]]:
    """Token ids and labels of each row and share.

    Args:
        rows: problems; those without a trace are left out.
        guide: renders prompts and places traces.
        shares: of the trace's tokens, in (0, 1]; 1 = all of it, followed by `answer` and the end token.
        answer: text behind a whole trace, `{answer}` in it is the row's, as any column; "" = nothing.
        end_id: the policy's end token.
        max_tokens: longer demonstrations are left out; None = no limit.

    Returns:
        `{"input_ids", "labels"}` each, and how many rows and demonstrations were left out by reason.

    Raises InputError for a share outside (0, 1].
    """
    for share in shares:
        if not 0 < share <= 1:
            raise InputError("is no share", field="sft_shares", value=share, fix="use numbers in (0, 1]")
    examples, left_out = [], {"no trace": 0, "too long": 0}
    for row in rows:
        trace = row.get("guidance")
        if not trace:
            left_out["no trace"] += 1
            continue
        text = trace + answer_text(answer, row)
        prompt_ids = guide.prompt_ids(row["prompt"])
        for share in shares:
            whole = share == 1
            source: Any = {**row, "guidance": text if whole else trace, "guidance_limit": len(text)}
            trace_ids = [*guide.slice(source, Strength("ratio", share)).ids, *([end_id] if whole else [])]
            if max_tokens is not None and len(prompt_ids) + len(trace_ids) > max_tokens:
                left_out["too long"] += 1
            elif trace_ids:
                labels = [IGNORED] * len(prompt_ids) + trace_ids
                examples.append({"input_ids": [*prompt_ids, *trace_ids], "labels": labels})
    return examples, left_out
