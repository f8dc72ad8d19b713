"""What runs inside the sandbox: the program of one job, and the writing of its results.

The results are written by the process that ran the program, so they are claims. They are one JSON array a line:
["value", …], ["passed"], ["raised", ["TypeError: …", names of its classes]], and ["failed", "SyntaxError: …"] for the
program itself.
"""

from __future__ import annotations

import atexit
import builtins
import json
import linecache
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from guided_grpo.sandbox.values import encode

MAX_ERROR = 300  # characters of an exception


def run_program(request: dict[str, Any], results: int) -> NoReturn:
    """Run the program of `request` and write its results to the descriptor `results`."""
    called = bool(request["calls"] or request["checks"])
    space = new_space("program" if called else "__main__", request["program"])

    def load() -> None:
        for part in ("prelude", "program", "setup"):
            exec(compile(request[part], f"{part}.py", "exec", dont_inherit=True), space)

    stopped, error = attempt(load)
    if error or (called and stopped is not None):  # a module that ends like a main program has no functions to call
        write(results, ["failed", error or "SystemExit"])
    if stopped is not None or not called:
        os._exit(finish(space, stopped or 0))
    for call in request["calls"]:
        try:
            write(results, ["value", encode(eval(compile(call, "call.py", "eval", dont_inherit=True), space))])
        except BaseException as error:  # it ran what a policy wrote, and the methods of a returned object
            write(results, ["raised", [_describe(error), [kind.__name__[:100] for kind in type(error).__mro__][:20]]])
    for check in request["checks"]:
        try:
            exec(compile(check, "check.py", "exec", dont_inherit=True), space)
            write(results, ["passed"])
        except BaseException as error:  # as above
            write(results, ["raised", [_describe(error), []]])
    os._exit(finish({}, 0))


def new_space(name: str, program: str) -> dict[str, Any]:
    """The name space of a new module, `name`, of a program that was started without arguments."""
    module = ModuleType(name)
    module.__file__ = "program.py"
    linecache.cache["program.py"] = (len(program), None, program.splitlines(True), "program.py")  # for `inspect`
    sys.modules[name] = module
    sys.argv = sys.orig_argv = ["program.py"]
    space = module.__dict__
    space["__builtins__"] = builtins
    return space


def attempt(action: Callable[[], None]) -> tuple[int | None, str]:
    """The exit code that what a policy wrote asks for (None = it ran to its end), and its exception ("" = none)."""
    try:
        action()
    except SystemExit as stop:
        return 0 if stop.code is None else stop.code if type(stop.code) is int else 1, ""
    except BaseException as error:  # whatever it raises is a result
        return 1, _describe(error)
    return None, ""


def finish(space: dict[str, Any], code: int) -> int:
    """End as an interpreter does: wait for threads, run what atexit holds, let go of the program's objects, write out
    what is buffered. Returns the exit code."""
    try:
        for stop in reversed(getattr(threading, "_threading_atexits", ())):  # of thread pools; Python 3.9
            stop()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
    except BaseException:  # the program's threads and functions
        code = code or 1
    _flush()
    space.clear()  # closes the files that it left open
    _flush()
    return code & 255


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_ERROR]
    except BaseException:  # its __str__ is the program's too
        return type(error).__name__[:MAX_ERROR]


def write(results: int, line: list[Any]) -> None:
    """Add a line to the results."""
    data = json.dumps(line).encode() + b"\n"
    while data:
        data = data[os.write(results, data) :]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # closed or replaced by the program
            continue
