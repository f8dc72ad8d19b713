"""Linux calls that Python has no name for, through ctypes. Each raises OSError with the name of the call."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 1, 2, 4, 8, 1024
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_X86 = platform.machine() == "x86_64"
_PIVOT_ROOT = 155 if _X86 else 41
_SECCOMP = 317 if _X86 else 277
_CAPSET = 126 if _X86 else 91
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47


def _check(name: str, result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _syscall(name: str, number: int, *arguments: Any) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(name, _libc.syscall(ctypes.c_long(number), *wide))


def _prctl(name: str, option: int, *arguments: int) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    _check(name, _libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)))


def unshare(flags: int) -> None:
    """Move into new namespaces (new processes only, for CLONE_NEWPID)."""
    _check("unshare", _libc.unshare(flags))


def setns(descriptor: int, flags: int) -> None:
    """Move into an existing namespace."""
    _check("setns", _libc.setns(descriptor, flags))


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    name = f"mount {target}"
    _check(name, _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]))


def unmount(target: str) -> None:
    """Take a mount away at once; its files go when the last process lets go of them."""
    _check(f"umount {target}", _libc.umount2(target.encode(), MNT_DETACH))


def make_read_only(target: str) -> None:
    """Make a mount and all mounts below it read-only, without devices or set-uid (Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID, 0, 0, 0)
    at_fdcwd, at_recursive, size = -100, 0x8000, ctypes.sizeof(attributes)
    _syscall(f"mount_setattr {target}", _MOUNT_SETATTR, at_fdcwd, target.encode(), at_recursive, attributes, size)


def pivot_to(folder: str) -> None:
    """Make a mount the root of this mount namespace and let go of the old root."""
    os.chdir(folder)
    _syscall("pivot_root", _PIVOT_ROOT, b".", b".")
    unmount(".")
    os.chdir("/")


def die_with_parent() -> None:
    """SIGKILL for this process when the thread that made it ends."""
    _prctl("prctl PDEATHSIG", _PR_SET_PDEATHSIG, 9)


def make_dumpable() -> None:
    """Own the files in /proc/self again after a change of uid."""
    _prctl("prctl DUMPABLE", _PR_SET_DUMPABLE, 1)


def no_new_privileges() -> None:
    """No set-uid program can ever raise this process."""
    _prctl("prctl NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability: effective, permitted, inheritable, ambient, and the bounding set where permitted."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) == -1:
            break  # past the last one, or not permitted: then there was none to lose
    _prctl("prctl CAP_AMBIENT", _PR_CAP_AMBIENT, 4)  # clear all
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _syscall("capset", _CAPSET, header, nothing)


def install_filter(program: bytes) -> None:
    """seccomp(SECCOMP_SET_MODE_FILTER); needs no_new_privileges() before."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    _syscall("seccomp", _SECCOMP, 1, 0, ctypes.byref(Program(len(program) // 8, program)))


def landlock_version() -> int:
    """Landlock's ABI version; 0 = the kernel has none or has it switched off."""
    return int(max(0, _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_long(0), ctypes.c_long(1))))


def landlock(rules: dict[str, int]) -> None:
    """Allow the rights given for these paths, deny all other access to files, TCP, foreign sockets and signals.

    Args:
        rules: path → LANDLOCK_ACCESS_FS_… bits; bits that this kernel does not know are left out.
    """
    version = landlock_version()
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    fields = [files, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0]  # files, network, scopes
    attributes = fields[: 1 if version < 4 else 2 if version < 6 else 3]
    words = (ctypes.c_uint64 * len(attributes))(*attributes)
    ruleset = _syscall("landlock_create_ruleset", _LANDLOCK_CREATE, words, 8 * len(attributes), 0)
    for path, rights in rules.items():
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = (rights & files).to_bytes(8, "little") + at.to_bytes(4, "little")
        _syscall("landlock_add_rule", _LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(at)
    _syscall("landlock_restrict_self", _LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
