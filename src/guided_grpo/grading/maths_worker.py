"""One killable process that grades maths: `python -m guided_grpo.grading.maths_worker MEMORY_BYTES`.

Reads lines of JSON `[declared answer, gold]` from standard input, writes a line `[status, extracted, reason]` for each,
in order. It dies with the process that started it (Linux), and takes no more address space than it is told. Nothing
that it grades is ever run as code; it is a process of its own because a computation in sympy can only be ended from
outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys

from guided_grpo.grading.maths import compare
from guided_grpo.sandbox import kernel
from guided_grpo.types import Status


def main() -> None:
    """Serve until standard input ends."""
    memory = int(sys.argv[1])
    _die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for a verdict
    compare("x+x", "2x")  # the first check loads grammars; it takes a second
    replies.write("ready\n")
    replies.flush()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        answer, gold = json.loads(line)
        try:
            verdict = compare(answer, gold)
            reply = [verdict.status.value, verdict.extracted, verdict.reason]
        except (MemoryError, RecursionError) as error:  # sympy on what a policy wrote
            reply = [Status.RESOURCE.value, None, f"{type(error).__name__} while it was read"]
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _die_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux standard input ends instead
        kernel.die_with_parent()
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main()
