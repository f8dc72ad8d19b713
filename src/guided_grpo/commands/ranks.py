"""Several processes, perhaps on several machines: what the first one read, a disk that all see, and how they end.

A run that loses a process cannot go on: gloo and NCCL have no group without it. The others say so and end, and the
same command goes on from the last checkpoint.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.utils import broadcast_object_list, gather_object

from guided_grpo.commands.parsing import tell
from guided_grpo.errors import InfraLimitError, InputError

_PATIENCE = 10.0  # seconds until a file on a network disk is there for all


def from_main(value: Any) -> Any:
    """The first rank's value, on all: what another one reads from a network disk may be old."""
    box = [value]
    broadcast_object_list(box)
    return box[0]


def check_shared(path: Path) -> None:
    """Raise `InputError`, on all ranks, where one does not see a file of the run directory that is there."""
    until = time.monotonic() + _PATIENCE
    while not (seen := _sees(path)) and time.monotonic() < until:
        time.sleep(0.5)
    blind = [rank for rank, sees in enumerate(gather_object([seen])) if not sees]
    if blind:
        problem, fix = f"is not seen by rank {blind[0]}", "name a folder on a disk that all machines share"
        raise InputError(problem, field="output_dir", value=str(path.parent), fix=fix)


def _sees(path: Path) -> bool:
    try:
        return path in path.parent.iterdir()  # unlike `exists` it asks the server anew
    except FileNotFoundError:
        return False


@contextmanager
def leaving(command: str) -> Iterator[None]:
    """Around a whole run. Where it has several processes, each leaves here, by the exit codes of cli.py.

    An ordinary exit would not do: gloo's threads abort it now and then, and it waits for ranks that are gone.
    """
    try:
        yield
        code = 0
    except (InputError, InfraLimitError) as error:
        if not _several():
            raise
        code = 2 if isinstance(error, InputError) else 1
        line = f"guided-grpo {command}: {error}"
        if _is_first(line):
            tell(line)
    except Exception as error:  # whatever it is, this process must end
        if not _several():
            raise
        code = 1
        if is_lost(error):
            what = str(error).strip().splitlines()[0]
            tell(f"guided-grpo {command}: rank {dist.get_rank()} lost another one ({what}); "
                 "the same command goes on from the last checkpoint")  # fmt: skip
        else:
            traceback.print_exc()
    if not _several():
        return
    if not code:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_lost(error: BaseException) -> bool:
    """Whether this is what a rank gets when another one is gone, or does not answer for too long."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _is_first(line: str) -> bool:
    """Whether no other rank has said this; most errors are those of all."""
    try:
        return bool(dist.distributed_c10d._get_default_store().add(line, 1) == 1)
    except RuntimeError:  # who keeps the store is gone
        return True
