"""A sandbox for Python that a model wrote.

    with SandboxPool(workers=2) as pool:
        outcomes = pool.run([Job("def f(x): return 2 * x", calls=("f(21)",)), Job("print(input())", stdin=b"4\\n")])
        same(42, outcomes[0].results[0].value)  # True

The way of a job: `pool.py` gives it to a `worker.py`; `zygote.py` forks a process, which `jail.py` closes in
(`kernel.py`, `seccomp.py`); `program.py` runs it and writes values (`values.py`), or `inputs.py` runs it on
several inputs; `outcomes.py` reads what was written; the caller compares.

What is contained and what is not stands in README.md beside this file.
"""

from __future__ import annotations

from guided_grpo.sandbox.jobs import End, Job, Kind, Limits, Outcome, Result
from guided_grpo.sandbox.pool import SandboxPool
from guided_grpo.sandbox.values import decode, number_of, plain, same

__all__ = ["End", "Job", "Kind", "Limits", "Outcome", "Result", "SandboxPool", "decode", "number_of", "plain", "same"]
