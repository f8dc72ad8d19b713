"""Which trace of a problem becomes its guidance: complete, correct by our own verifier, more than the bare answer.

The first of these tests that a trace fails is its reason; where all traces of a problem fail, the row's reason is that
of the trace that came furthest. Verdicts come in batches, from the grader of training and evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from guided_grpo.data.reading.drafts import Draft, Inputs, Trace
from guided_grpo.grading.answers import BOX, HASHES, PROSE, box_content, clean
from guided_grpo.grading.code import reference_tests
from guided_grpo.grading.code_forms import parse_tests
from guided_grpo.grading.code_tests import Close
from guided_grpo.grading.grader import Grader, Submission
from guided_grpo.grading.worth import GradingSettings
from guided_grpo.types import Status, Verdict

RULES = ("first-correct", "shortest-correct")
# From a trace that says least to one that came furthest.
TRACE_REASONS = (
    "no-trace", "bare-answer", "incomplete-trace", "trace-short", "trace-long",
    "unanswered-trace", "wrong-trace", "ungraded-trace",
)  # fmt: skip
_FAILURES = {Status.WRONG: "wrong-trace", Status.NO_ANSWER: "unanswered-trace", Status.UNPARSEABLE: "wrong-trace"}
# A step, however short.
_WORKING = re.compile(r"[=<>]|\\(?:frac|sum|times|cdot|implies)|[\w)]\s*[+*^×·]\s*[\w(\\]|\d\s*-\s*\d")
_WORDS = 6  # a "solution" with at most so many words beside the answer is bare


class Graders(Grader):
    """The grader of training and evaluation, in whose sandbox references run too."""

    def __init__(self, workers: int = 1) -> None:
        # A broken grader leaves "ungraded-trace" behind, counted; it is no reason to lose hours of curation.
        super().__init__(GradingSettings(maths_workers=workers, code_workers=workers, infra_limit=1.0))

    def check(self, traces: Sequence[tuple[Draft, Trace]]) -> list[Verdict]:
        """One verdict a draft and trace, in order."""
        verdicts = self.grade([Submission(trace.text, _row(draft)) for draft, trace in traces])
        return [verdict or Verdict(Status.INFRA_ERROR, None, "nothing to grade it by") for verdict in verdicts]

    def reference_tests(self, inputs: Inputs) -> list[str]:
        """Asserts from a run of the reference. Raises ValueError where it does not answer every input.

        Values that no assert can state (a NaN) are left out.
        """
        tests = reference_tests(
            self._programs(), inputs.reference, inputs.entry_point, inputs.arguments, tolerance=inputs.tolerance
        )
        asserts = []
        for test in tests.calls:
            text = f"assert {test.call} == {test.expected.value!r}"
            if isinstance(test.expected, Close):
                text = f"assert abs({test.call} - {test.expected.value!r}) <= {test.expected.absolute!r}"
            if parse_tests([text]).calls == (test,):
                asserts.append(text)
        return asserts


def _row(draft: Draft) -> dict[str, Any]:
    if draft.task == "math":
        return {"task": "math", "answer": draft.answer}
    return {
        "task": "code",
        "tests": draft.tests,
        **{name: draft.columns.get(name) for name in ("entry_point", "setup")},
    }


def is_bare(text: str, answer: str | None) -> bool:
    """Whether a solution is no more than its answer: at most six words beside it.

    `\\boxed{204}`, `**204**` and "The answer is 204." are bare; "6·34 = 204" with a sentence is not.
    """
    if len(text) > 200:
        return False
    if answer is not None and len(text) <= len(answer) + 24 and clean(text) == clean(answer):
        return True
    rest = text
    for match in reversed(list(BOX.finditer(text))):
        content = box_content(text, match.end()) or ""
        rest = rest[: match.start()] + rest[match.end() + len(content) + 2 :]
    rest = HASHES.sub(" ", PROSE.sub(" ", rest))
    if answer:
        rest = rest.replace(answer, " ")
    return len(re.findall(r"\w+", rest)) <= _WORDS and not _WORKING.search(rest)


@dataclass
class Candidates:
    """The traces of one draft that are still in the running, best first, and why the others are not."""

    draft: Draft
    traces: list[Trace] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)  # reason, detail
    choice: Trace | None = None
    prompt: Any = None  # the problem as the policy gets it

    def reason(self) -> tuple[str, str]:
        """Why no trace was chosen."""
        if not self.failures:
            return "no-trace", "there is none"
        best = max(self.failures, key=lambda failure: TRACE_REASONS.index(failure[0]))[0]
        return best, "; ".join(dict.fromkeys(detail for _, detail in self.failures))


def candidates(
    draft: Draft, rule: str, *, length_fault: Callable[[str], tuple[str, str] | None], drop_bare: bool = True
) -> Candidates:
    """The traces of `draft` in the order in which they are tried.

    Args:
        rule: `first-correct`, `shortest-correct`, or a column: only its traces.
        length_fault: trace text → (reason, detail) where its length is not allowed, else None.
        drop_bare: whether a trace that is no more than the answer is none.
    """
    result = Candidates(draft)
    for trace in draft.traces:
        if rule not in RULES and trace.name != rule and not trace.name.startswith(f"{rule}["):
            continue
        if trace.complete is False:
            fault: tuple[str, str] | None = ("incomplete-trace", "cut off or never closes its thought")
        elif drop_bare and draft.task == "math" and is_bare(trace.text, draft.answer):
            fault = ("bare-answer", trace.text)
        else:
            fault = length_fault(trace.text)
        if fault:
            result.failures.append((fault[0], f"{trace.name}: {fault[1]}"))
        else:
            result.traces.append(trace)
    if rule == "shortest-correct":
        result.traces.sort(key=lambda trace: len(trace.text))
    return result


def choose(batch: Iterable[Candidates], graders: Graders, verify: str, agreement: Counter[str]) -> None:
    """Give every draft of a batch its trace, grading one trace a draft at a time.

    Args:
        batch: what `candidates` made; `choice` is filled, `failures` grow.
        graders: the verifiers.
        verify: `strict` = only traces that declare the gold answer (or pass the tests); `lenient` = also those that
            declare none; `off` = the first that is left.
        agreement: counts what the data says of graded traces against what the verifier says.
    """
    queue = [each for each in batch if each.traces]
    while queue:
        pairs: list[tuple[Candidates, Trace]] = []
        for each in queue:
            trace = each.traces.pop(0)
            if verify == "off" or trace.gold:
                each.choice = trace
            else:
                pairs.append((each, trace))
        verdicts = graders.check([(each.draft, trace) for each, trace in pairs])
        for (each, trace), verdict in zip(pairs, verdicts, strict=True):
            if trace.correct is not None:
                data, ours = (
                    "correct" if right else "not correct" for right in (trace.correct, verdict.status is Status.CORRECT)
                )
                agreement[f"data says {data}, verifier says {ours}"] += 1
            undeclared = verdict.status is Status.NO_ANSWER
            if verdict.status is Status.CORRECT or (undeclared and verify == "lenient"):
                each.choice = trace
            else:
                answer = f" ({verdict.extracted!r:.60})" if verdict.extracted and each.draft.task == "math" else ""
                reason = _FAILURES.get(verdict.status, "ungraded-trace")
                each.failures.append((reason, f"{trace.name}: {verdict.status}, {verdict.reason[:100]}{answer}"))
        queue = [each for each in queue if each.choice is None and each.traces]
