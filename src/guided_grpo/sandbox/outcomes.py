"""From what a worker and a job's process wrote to an Outcome."""

from __future__ import annotations

import json
from typing import Any

from guided_grpo.sandbox.jobs import End, Job, Kind, Limits, Outcome, Result
from guided_grpo.sandbox.worker import WorkerReply

_SIGKILL = 9


def outcome_of(job: Job, limits: Limits, reply: WorkerReply | str, *, last: bool) -> Outcome | None:
    """The outcome of a job; None = the sandbox failed and the job has another attempt.

    A SIGKILL from outside (the kernel out of memory, an administrator) gets another attempt too, but then it is a
    crash: a program must not be able to make itself ungraded.
    """
    trouble = reply if isinstance(reply, str) else reply.end["setup"]
    if isinstance(reply, str) or trouble:
        return _failure(job, trouble) if last else None
    process = reply.end
    cpu_limit = limits.cpu_seconds * job.steps
    killed_from_outside = process["signal"] == _SIGKILL and not process["limit"]
    if killed_from_outside and not last and process["cpu"] < cpu_limit:
        return None
    end = End.EXITED if process["signal"] is None else End(process["limit"]) if process["limit"] else End.CRASHED
    if end is End.CRASHED and killed_from_outside and process["cpu"] >= cpu_limit:
        end = End.CPU
    if max(len(reply.results), len(reply.stdout)) >= limits.output_bytes:
        end = End.OUTPUT
    error, results = _read_results(job, reply.results)
    called = bool(job.calls or job.checks)
    return Outcome(
        end=end,
        exit_code=process["exit"],
        signal=process["signal"],
        error=error,
        results=results,
        stdout=b"" if called else reply.stdout[: limits.output_bytes],
        cpu_seconds=process["cpu"],
        wall_seconds=process["wall"],
        runs=_read_runs(job, limits, reply.results, reply.stdout) if job.inputs else (),
    )


def _failure(job: Job, reason: str) -> Outcome:
    absent = (Result(Kind.ABSENT),) * (len(job.calls) + len(job.checks))
    return Outcome(end=End.INFRA_ERROR, error=reason[:500], results=absent, runs=(None,) * len(job.inputs))


def _read_results(job: Job, written: bytes) -> tuple[str, tuple[Result, ...]]:
    """The program's own exception ("" = none) and one result for each call and check, whatever was written."""
    expected = [Kind.VALUE] * len(job.calls) + [Kind.PASSED] * len(job.checks)
    results: list[Result] = []
    for line in written.splitlines()[: len(expected) + 1]:
        tag, content = _line(line)
        if tag == "failed":
            return _text(content), tuple(results + [Result(Kind.ABSENT)] * (len(expected) - len(results)))
        if len(results) == len(expected):
            break
        kind = expected[len(results)]
        if tag == kind:
            results.append(Result(kind, value=content))
        elif tag == "raised":
            results.append(_exception(content))
        else:
            break
    return "", tuple(results + [Result(Kind.ABSENT)] * (len(expected) - len(results)))


def _read_runs(job: Job, limits: Limits, written: bytes, stdout: bytes) -> tuple[Outcome | None, ...]:
    """One outcome for each input, whatever was written; None from the first that is not there.

    Output that reaches the limit is cut off where it is: a run that ends there was hindered.
    """
    runs: list[Outcome | None] = []
    at = 0
    for line in written.splitlines()[: len(job.inputs)]:
        tag, content = _line(line)
        if tag != "ran" or type(content) is not list or [type(each) for each in content] != [int, int, str]:
            break
        exit_code, end, error = content
        if not at <= end < limits.output_bytes:
            break
        runs.append(Outcome(End.EXITED, exit_code=exit_code, error=_text(error), stdout=stdout[at:end]))
        at = end
    return tuple(runs + [None] * (len(job.inputs) - len(runs)))


def _line(line: bytes) -> tuple[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # not our program's writing: cut off at a limit, or forged
        return "", None
    if type(entry) is not list or not 1 <= len(entry) <= 2 or type(entry[0]) is not str:
        return "", None
    return entry[0], entry[1] if len(entry) == 2 else None


def _exception(content: Any) -> Result:
    text, classes = content if type(content) is list and len(content) == 2 else ("", [])
    names = classes if type(classes) is list and all(type(name) is str for name in classes) else []
    return Result(Kind.RAISED, error=_text(text), classes=tuple(names[:20]))


def _text(content: Any) -> str:
    return content[:500] if type(content) is str else ""
