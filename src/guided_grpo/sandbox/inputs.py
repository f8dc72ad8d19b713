"""One main program on several inputs, one run after the other in one process, each as if it were the first.

A process costs twenty times what a run in it costs. The price is state: what one run leaves behind, the next could
meet. So what programs commonly change is put back; what cannot be put back is looked for, and where it is found the
process ends, so that the inputs left over have no outcome and get a process of their own. None of this holds a program
that means to keep notes from run to run: `grading/code_runs.py` says why that wins it nothing.

All runs share the limits of one job. Each recorded run is one line, ["ran", [exit code, where its output ends,
exception or ""]]. Not recorded is a run that met a limit, ended the process, left a thread or ran out of memory.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as `signal`, without the making of enums
import _thread
import atexit
import decimal
import fcntl
import gc
import io
import os
import random
import resource
import signal
import sys
import threading
import warnings
from types import CodeType, ModuleType
from typing import Any, NoReturn

from guided_grpo.sandbox.jail import MAX_FILES, TEMPORARY
from guided_grpo.sandbox.program import attempt, finish, new_space, write

SEED = 0  # of `random`, for each run in each process: a program that guesses does not get a second guess
_OUTPUT, _NOTHING = MAX_FILES, MAX_FILES + 1  # descriptors that no program can get: its own keep their usual numbers

_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
_STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "surrogateescape"), ("stderr", "w", "backslashreplace"))
_REMADE = {"argv", "orig_argv", *(form.format(name) for name, *_ in _STREAMS for form in ("{}", "__{}__"))}  # of sys
_HANDLERS = [(int(number), _signal.getsignal(number)) for number in signal.valid_signals()]

Names = tuple[dict[str, Any], dict[str, Any]]  # of a module, and as they were
_modules: dict[str, list[Names]] = {}  # by the last part of the module's name


def remember_modules() -> None:
    """Note what the loaded modules hold: once, in the process that forks the jobs, which then share the notes."""
    for name, module in sys.modules.items():
        _modules.setdefault(name.rpartition(".")[2], []).append((vars(module), dict(vars(module))))
    _modules["__builtins__"] = _modules["builtins"]


def place_inputs(lengths: list[int]) -> list[int]:
    """Before the walls close: cut standard input into one memory file for each run. Returns their descriptors."""
    if not lengths:
        return []
    os.dup2(1, _OUTPUT, False)
    os.dup2(2, _NOTHING, False)
    files = []
    for number, length in enumerate(lengths, _NOTHING + 1):
        file = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        while length:
            length -= os.sendfile(file, 0, None, length)
        os.lseek(file, 0, os.SEEK_SET)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        files.append(os.dup2(file, number, False))
        os.close(file)
    return files


def run_inputs(prelude: str, program: str, inputs: list[int], results: int) -> NoReturn:
    """Run `program` on each of the `inputs` (descriptors) and write a line for each run to `results`."""
    try:
        codes: list[CodeType] = []
        first = compile(prelude, "prelude.py", "exec", dont_inherit=True)
        stopped, error = attempt(lambda: codes.append(compile(program, "program.py", "exec", dont_inherit=True)))
        state = _State(_names(codes))
        for file in inputs:
            os.dup2(file, 0)
            os.close(file)
            exit_code, error = _run(first, codes[0], program) if codes else (stopped or 0, error)
            size = os.fstat(_OUTPUT).st_size
            if error.startswith("MemoryError") or _thread._count() or os.lseek(_OUTPUT, 0, os.SEEK_CUR) != size:
                break
            write(results, ["ran", [exit_code, size, error]])
            if not state.put_back() or os.fstat(_OUTPUT).st_size != size:
                break
    finally:  # whatever the program did to the functions used here
        os._exit(0)


def _run(prelude: CodeType, code: CodeType, program: str) -> tuple[int, str]:
    """Exit code and exception of one run."""
    for descriptor, (name, mode, errors) in enumerate(_STREAMS):  # as the interpreter makes them
        buffer: Any = open(descriptor, f"{mode}b", closefd=False)  # noqa: SIM115 - the program's, to the end of its run
        buffer.raw.name = f"<{name}>"
        stream: Any = io.TextIOWrapper(buffer, "utf-8", errors, newline="\n", line_buffering=name == "stderr")
        stream.mode = mode
        vars(sys)[name] = vars(sys)[f"__{name}__"] = stream
    space = new_space("__main__", program)
    exec(prelude, space)
    stopped, error = attempt(lambda: exec(code, space))
    return finish(space, stopped or 0), error


def _names(codes: list[CodeType]) -> set[str]:
    """All names in a program."""
    names: set[str] = set()
    for code in codes:
        names.update(part for name in code.co_names for part in name.split("."))
        names |= _names([constant for constant in code.co_consts if type(constant) is CodeType])
    return names


class _State:
    """The process as the first run finds it."""

    def __init__(self, names: set[str]) -> None:
        """`names`: in the program; to look through other modules than these would cost more than the runs."""
        if "threading" in names:  # a fork changes it
            _modules["threading"] = [(vars(threading), dict(vars(threading)))]
        [self._sys] = _modules["sys"]
        self._modules = [each for name in names - {"sys"} for each in _modules.get(name, ())]
        lists: list[Any] = [value for value in vars(sys).values() if type(value) is list]
        lists += [warnings.filters, gc.callbacks, threading._threading_atexits]  # type: ignore[attr-defined]
        self._lists = [(value, list(value)) for value in lists]
        self._imported = len(sys.modules)
        self._recursion, self._digits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
        self._switch, self._thresholds = sys.getswitchinterval(), gc.get_threshold()
        self._decimal = decimal.getcontext().copy()
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._limits = [resource.getrlimit(limit) for limit in _LIMITS]
        self._folder = os.getcwd()
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        gc.freeze()

    def put_back(self) -> bool:
        """Make the process as it was; False = something is left that cannot be put back."""
        self._put_back_interpreter()
        self._put_back_process()
        gc.collect()
        for names, before in self._modules:
            if names != before:
                for name in names.keys() - before.keys():
                    if type(names[name]) is ModuleType:  # imported: it sits in its package too
                        del names[name]
                if names != before:
                    return False
        return (
            [resource.getrlimit(limit) for limit in _LIMITS] == self._limits
            and not _thread._count()
            and not (self._folder == TEMPORARY and os.listdir(TEMPORARY))
        )

    def _put_back_interpreter(self) -> None:
        names, before = self._sys
        for name in names.keys() - before.keys():
            del names[name]
        names.update((name, before[name]) for name in before.keys() - _REMADE)
        for value, content in self._lists:
            value[:] = content
        while len(sys.modules) > self._imported:
            sys.modules.popitem()  # the last comer
        sys.setrecursionlimit(self._recursion)
        sys.set_int_max_str_digits(self._digits)
        sys.setswitchinterval(self._switch)
        sys.settrace(None)
        sys.setprofile(None)
        gc.enable()
        gc.set_threshold(*self._thresholds)
        gc.set_debug(0)
        atexit._clear()
        decimal.setcontext(self._decimal.copy())
        threading.stack_size(0)
        random.seed(SEED)

    def _put_back_process(self) -> None:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            _signal.setitimer(timer, 0)
        for number, handler in _HANDLERS:
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        _signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        os.environ.clear()
        os.chdir(self._folder)
        os.umask(self._umask)
        os.dup2(_OUTPUT, 1)
        os.dup2(_NOTHING, 2)
        os.closerange(4, MAX_FILES)
