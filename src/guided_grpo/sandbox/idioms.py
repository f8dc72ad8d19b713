"""What programs of contests ask of an ordinary machine, as far as the sandbox can give it.

Set up once, before the first job. A program may undo it: nothing here is a wall.
"""

from __future__ import annotations

import _thread
import builtins
import io
import os
import resource
import threading
from typing import Any

from guided_grpo.sandbox.jail import STACK_BYTES

_STREAMS = {"/dev/stdin": 0, "/dev/fd/0": 0, "/dev/stdout": 1, "/dev/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2}
_open, _setrlimit, _stack_size = io.open, resource.setrlimit, _thread.stack_size


def install() -> None:
    """Names of the standard streams, and limits of the stack that are larger than there is."""
    builtins.open = io.open = _open_stream
    resource.setrlimit = _set_limit
    threading.stack_size = _thread.stack_size = _set_stack


def _open_stream(file: Any, *arguments: Any, **named: Any) -> Any:
    """`open`; there is no /dev/stdin where there is no /proc."""
    name = file if type(file) is str else str(file) if isinstance(file, os.PathLike) else ""
    number = _STREAMS.get(name)
    return _open(file if number is None else os.dup(number), *arguments, **named)


def _set_limit(name: int, limits: tuple[int, int]) -> None:
    """`setrlimit`; a larger stack than is allowed becomes the one that is."""
    try:
        _setrlimit(name, limits)
    except (ValueError, OSError):
        if name != resource.RLIMIT_STACK:
            raise


def _set_stack(size: int = 0) -> int:
    """`threading.stack_size`, of which the address space holds no more than a part."""
    return _stack_size(min(size, STACK_BYTES))
