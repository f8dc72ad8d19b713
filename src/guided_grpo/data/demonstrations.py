"""Rows as demonstrations for supervised fine-tuning: the trace where guidance would stand, with the same ids.

    whole trace   prompt ids | [opening of a thinking block] trace ids [answer ids] end
    slice ω       prompt ids | [opening] first ω of the trace ids        no end: the trace goes on

Traces can be graded first (`grade_traces`). Labels are on all but the prompt. So a policy that was fine-tuned on
traces, and one that was guided by them, have seen the same tokens in the same places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal

from guided_grpo.errors import InputError
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.guidance.placement import GuidanceTokenizer, answer_text
from guided_grpo.types import Status, Strength

IGNORED = -100  # the label of a token that has no loss
Worth = Literal["whole", "open", "wrong"]
_WORTH: dict[Status, Worth] = {Status.NO_ANSWER: "open", Status.WRONG: "wrong"}


def grade_traces(rows: Sequence[Mapping[str, Any]], answer: str, grader: Grader) -> list[Worth]:
    """What each row's trace is worth as a demonstration.

        whole   it comes to the right answer, or nothing here can say: taught to its end
        open    it declares no answer, as one that was cut: taught without an end
        wrong   it comes to a wrong one: not taught

    Args:
        rows: problems; those without a trace are "whole".
        answer: as for `demonstrations`.
        grader: of the run.
    """
    traced = {place: row for place, row in enumerate(rows) if row.get("guidance")}
    verdicts = grader.grade([Submission(row["guidance"] + answer_text(answer, row), row) for row in traced.values()])
    worth: list[Worth] = ["whole"] * len(rows)
    for place, verdict in zip(traced, verdicts, strict=True):
        if verdict is not None:
            worth[place] = _WORTH.get(verdict.status, "whole")
    return worth


def demonstrations(
    rows: Iterable[Mapping[str, Any]],
    guide: GuidanceTokenizer,
    *,
    worth: Iterable[Worth] | None = None,
    shares: Sequence[float] = (1.0,),
    answer: str = "",
    end_id: int,
    max_tokens: int | None = None,
) -> tuple[list[dict[str, list[int]]], dict[str, int]]:
    """Token ids and labels of each row and share.

    Args:
        rows: problems; those without a trace are left out.
        guide: renders prompts and places traces.
        worth: of `grade_traces`; None = all are whole.
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
    examples, left_out = [], {"no trace": 0, "wrong answer": 0, "too long": 0}
    for row, its_worth in zip(rows, repeat("whole") if worth is None else worth, strict=False):
        trace = row.get("guidance")
        if not trace or its_worth == "wrong":
            left_out["wrong answer" if trace else "no trace"] += 1
            continue
        text = trace + answer_text(answer, row)
        prompt_ids = guide.prompt_ids(row["prompt"])
        for share in shares:
            whole = share == 1
            source: Any = {**row, "guidance": text if whole else trace, "guidance_limit": len(text)}
            ends = [end_id] if whole and its_worth == "whole" else []
            trace_ids = [*guide.slice(source, Strength("ratio", share)).ids, *ends]
            if max_tokens is not None and len(prompt_ids) + len(trace_ids) > max_tokens:
                left_out["too long"] += 1
            elif trace_ids:
                labels = [IGNORED] * len(prompt_ids) + trace_ids
                examples.append({"input_ids": [*prompt_ids, *trace_ids], "labels": labels})
    return examples, left_out
