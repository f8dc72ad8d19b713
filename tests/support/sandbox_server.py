"""Run by the tests of the sandbox, as an ordinary user: jobs come in on stdin, outcomes go out on stdout, pickled."""

from __future__ import annotations

import pickle
import sys
import types

if __name__ == "__main__":
    source, tier = sys.argv[1:]
    package = types.ModuleType("guided_grpo")  # this interpreter may lack what the package itself needs
    package.__path__ = [f"{source}/guided_grpo"]
    sys.modules["guided_grpo"] = package
    from guided_grpo.sandbox import Limits, SandboxPool

    with SandboxPool(1, tier, limits=Limits(cpu_seconds=30.0, wall_seconds=120.0), unsafe=tier == "C") as pool:
        pickle.dump(pool.tier, sys.stdout.buffer)
        sys.stdout.flush()
        while True:
            try:
                jobs = pickle.load(sys.stdin.buffer)
            except EOFError:
                break
            pickle.dump(pool.run(jobs), sys.stdout.buffer)
            sys.stdout.flush()
