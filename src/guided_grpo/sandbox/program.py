"""What runs inside the sandbox: the program of one job, and the writing of its results.

The results are written by the process that ran the program, so they are claims. They are one JSON array a line:
["value", …], ["passed"], ["raised", "TypeError: …"], and ["failed", "SyntaxError: …"] for the program itself.
"""

from __future__ import annotations

import atexit
import builtins
import json
import os
import sys
import threading
from types import ModuleType
from typing import Any, NoReturn

from guided_grpo.sandbox.values import encode

MAX_ERROR = 300  # characters of an exception


def run_program(request: dict[str, Any], results: int) -> NoReturn:
    """Run the program of `request` and write its results to the descriptor `results`."""
    called = bool(request["calls"] or request["checks"])
    module = ModuleType("program" if called else "__main__")
    sys.modules[module.__name__] = module
    sys.argv = sys.orig_argv = ["program.py"]
    space = module.__dict__
    space["__builtins__"] = builtins
    try:
        exec(compile(request["program"], "program.py", "exec", dont_inherit=True), space)
        exec(compile(request["setup"], "setup.py", "exec", dont_inherit=True), space)
    except SystemExit as stop:  # a main program may well end like this; a module that does has no functions to call
        if called:
            _write(results, ["failed", "SystemExit"])
        _leave(0 if stop.code is None else stop.code if type(stop.code) is int else 1)
    except BaseException as error:  # it ran what a policy wrote: whatever it raises is a result
        _write(results, ["failed", _told(error)])
        _leave(1)
    for call in request["calls"]:
        try:
            value = eval(compile(call, "call.py", "eval", dont_inherit=True), space)
            line = json.dumps(["value", encode(value)])
        except BaseException as error:  # as above, and what the methods of a returned object raise
            line = json.dumps(["raised", _told(error)])
        _write_line(results, line)
    for check in request["checks"]:
        try:
            exec(compile(check, "check.py", "exec", dont_inherit=True), space)
            _write(results, ["passed"])
        except BaseException as error:  # as above
            _write(results, ["raised", _told(error)])
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End as an interpreter does: wait for threads, run what atexit holds, write out what is buffered."""
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
    except BaseException:  # the program's threads and functions
        code = code or 1
    _flush()
    os._exit(code & 255)


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_ERROR]
    except BaseException:  # its __str__ is the program's too
        return type(error).__name__[:MAX_ERROR]


def _write(results: int, line: list[Any]) -> None:
    _write_line(results, json.dumps(line))


def _write_line(results: int, line: str) -> None:
    data = line.encode() + b"\n"
    while data:
        data = data[os.write(results, data) :]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # closed or replaced by the program
            continue
