"""What goes into the sandbox and what comes out of it. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from guided_grpo.errors import InputError

MIB = 2**20
MAX_INPUTS = 32  # of one job
MAX_STEPS = 10  # limits that a job with calls may use up, one after the other


@dataclass(frozen=True)
class Limits:
    """What one job may use. The CPU limit decides; the wall limit only ends what sleeps.

    Both count from the last call or check that was answered (as seen a tenth of the CPU limit late at most), so that
    a call has as much time as a program that reads its input, and one that never ends costs its own limit and the
    answers after it. A whole job ends at MAX_STEPS limits, since a program can pretend to answer.

    Raises InputError for a value that is not positive (`disk_bytes` may be 0).
    """

    cpu_seconds: float = 5.0  # of all its threads together
    wall_seconds: float = 60.0  # from its start, without the time it queued; generous, since a busy machine is no fault
    memory_bytes: int = 512 * MIB  # address space, interpreter included (about 40 MiB)
    output_bytes: int = MIB  # of standard output, of the results, and of any one file
    disk_bytes: int = 16 * MIB  # of the private /tmp (tier A only); 0 = no folder to write in
    threads: int = 64  # at once, in tier A; elsewhere the address space bounds them

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name != "disk_bytes"):
                raise InputError("is no limit", field=name, value=value, fix="give a number above 0")


@dataclass(frozen=True)
class Job:
    """One program and what to do with it, in one process of its own.

    With `calls` or `checks` the program is a module: it is loaded, then `setup` runs, then each call is evaluated and
    each check executed in its name space. With neither, it is the main program: it reads `stdin`, and what it prints
    counts. With `inputs` it is the main program once for each of them, one run after the other in the same process and
    under the limits of one job, with the state of the interpreter put back in between (`inputs.py`).
    """

    program: str
    stdin: bytes = b""
    prelude: str = ""  # runs before the program, in its name space
    setup: str = ""
    calls: tuple[str, ...] = ()  # expressions, whose values come back
    checks: tuple[str, ...] = ()  # statements, of which only "raised nothing" comes back: the program can forge that
    limits: Limits | None = None  # None = the pool's
    inputs: tuple[bytes, ...] = ()  # at most MAX_INPUTS, instead of `stdin`

    def __post_init__(self) -> None:
        if len(self.inputs) > MAX_INPUTS or (self.inputs and (self.calls or self.checks)):
            raise ValueError(f"at most {MAX_INPUTS} inputs, and no calls or checks beside them")

    @property
    def steps(self) -> int:
        """How many times its CPU and wall limits it may use in all: once for each call and check, MAX_STEPS at most."""
        return min(MAX_STEPS, max(1, len(self.calls) + len(self.checks)))


class End(StrEnum):
    """How a job's process ended."""

    EXITED = "exited"  # by itself, whatever its exit code
    CRASHED = "crashed"  # by a signal that it caused
    CPU = "cpu"  # limit reached
    WALL = "wall"  # limit reached
    OUTPUT = "output"  # limit reached
    INFRA_ERROR = "infra_error"  # the sandbox failed, twice


class Kind(StrEnum):
    """What became of one call or check."""

    VALUE = "value"
    PASSED = "passed"  # a check that raised nothing
    RAISED = "raised"
    ABSENT = "absent"  # the process ended before, or wrote what cannot be read


@dataclass(frozen=True)
class Result:
    """Of one call or check. Written by a process that ran the program: to be compared, never to be trusted."""

    kind: Kind
    value: Any = None  # of a VALUE: in the form of values.py, for `same(expected, value)`
    error: str = ""  # of a RAISED: "ValueError: …"
    classes: tuple[str, ...] = ()  # of a RAISED: names of its class and of those above it


@dataclass(frozen=True)
class Outcome:
    """What came out of one job."""

    end: End
    exit_code: int | None = None  # of an EXITED; 0 proves nothing
    signal: int | None = None  # of a CRASHED
    error: str = ""  # exception of the program (or its setup) itself, or the reason of an INFRA_ERROR
    results: tuple[Result, ...] = ()  # of the calls, then of the checks: always as many as there are
    stdout: bytes = b""  # of a main program, at most `output_bytes`
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    runs: tuple[Outcome | None, ...] = ()  # of each of the job's `inputs`; None = it did not come to a clean end there
