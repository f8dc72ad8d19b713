"""Programs that try to escape, run at every start of a pool: a sandbox that is not tight here must not be used here."""

from __future__ import annotations

from guided_grpo.sandbox.jobs import End, Job, Kind, Limits, Outcome
from guided_grpo.sandbox.values import same

# Each function returns what it got through with. It must be none of it.
_ATTEMPTS = """
import os, sys, threading

def works(action):
    try:
        action()
    except (OSError, MemoryError, AttributeError, ImportError, RuntimeError, LookupError):
        return False
    return True

def leave(action):  # in a child process, if it may have one
    pid = action()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def syscall(number, *arguments):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "refused")

def escapes():
    import socket
    attempts = {
        "read /etc/passwd": lambda: open("/etc/passwd").read(),
        "list folders of the machine": lambda: [
            name for name in os.listdir("/") if name in ("boot", "home", "proc", "srv", "sys", "var") or tier == "B"
        ][0],
        "list processes": lambda: os.listdir("/proc/1"),
        "write outside": lambda: open("/escaped", "w"),
        "write beside the interpreter": lambda: open(os.path.dirname(os.__file__) + "/escaped", "w"),
        "remove the interpreter": lambda: os.unlink(os.__file__),
        "fork": lambda: leave(os.fork),
        "run a command": lambda: os.execv(sys.executable, [sys.executable, "-c", "0"]),
        "open a socket": lambda: socket.socket().close(),
        "open a local socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).close(),
        "signal another process": lambda: os.kill(os.getppid() or 2, 0),
        "signal every process": lambda: os.kill(-1, 0),
        "make a memory file": lambda: os.memfd_create("escaped"),
        "become root": lambda: os.setuid(0),
        "enter a user namespace": lambda: syscall(272 if os.uname().machine == "x86_64" else 97, 0x10000000),
        "mount": lambda: syscall(165 if os.uname().machine == "x86_64" else 40, 0, 0, 0, 0, 0),
        "trace": lambda: syscall(101 if os.uname().machine == "x86_64" else 117, 0, 0, 0, 0),
        "start io_uring": lambda: syscall(425, 0, 0),
        "exceed the memory limit": lambda: bytearray(4 * 2**30),
    }
    names = [name for name, attempt in attempts.items() if works(attempt)]
    names += ["see environment variables"] * bool(os.environ)
    names += ["inherit descriptors"] * any(works(lambda: os.fstat(number)) for number in range(4, 64))
    names += ["run as root"] * (0 in os.getresuid())
    return names

def lives():
    signs = []
    thread = threading.Thread(target=signs.append, args=(1,))
    thread.start()
    thread.join()
    if tier == "A":
        with open("note", "w") as file:
            file.write("kept")
        signs.append(open("note").read())
    return signs
"""
_LIMITS = Limits(cpu_seconds=5.0, memory_bytes=512 * 2**20)
_ENDLESS = "while True: pass"


def canaries(tier: str) -> list[Job]:
    """The programs for a tier, for `weakness` in this order."""
    program = f"tier = {tier!r}\n{_ATTEMPTS}"
    return [
        Job(program, calls=("escapes()", "lives()"), limits=_LIMITS),
        Job(_ENDLESS, limits=Limits(cpu_seconds=0.05)),
    ]


def weakness(tier: str, outcomes: list[Outcome]) -> str:
    """What is wrong with the outcomes of the canaries; "" = nothing."""
    attempts, endless = outcomes
    for outcome in outcomes:
        if outcome.end is End.INFRA_ERROR:
            return f"a job could not be closed in ({outcome.error})"
    escapes, lives = attempts.results
    if escapes.kind is not Kind.VALUE or type(escapes.value) is not list:
        return f"the canary did not finish ({attempts.end}: {attempts.error or escapes.error})"
    if escapes.value:
        return f"a program could {', '.join(str(name) for name in escapes.value)}"
    if not same([1, "kept"] if tier == "A" else [1], lives.value):
        return f"an honest program could not start a thread or write its own file ({lives.error or lives.value})"
    if endless.end is not End.CPU:
        return f"a program over its CPU limit ended by {endless.end}"
    return ""
