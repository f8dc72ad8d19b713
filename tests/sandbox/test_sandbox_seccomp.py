"""The filter of system calls, run by a small interpreter of BPF, for both architectures.

The numbers below are the kernel's own (asm/unistd_64.h, asm-generic/unistd.h), written down a second time.
"""

from __future__ import annotations

import platform
import re
import struct
from pathlib import Path

import pytest

from guided_grpo.sandbox import seccomp
from guided_grpo.sandbox.seccomp import program_filter

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, EPERM, EACCES, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x5000D, 0x50026, 0x80000000
OWN = 7

REFUSED = {
    "x86_64": {
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "socket": 41, "connect": 42, "bind": 49, "sendmsg": 46, "ptrace": 101,
        "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250, "add_key": 248,
        "io_uring_setup": 425, "memfd_create": 319, "memfd_secret": 447, "process_vm_readv": 310, "process_vm_writev": 311, "shmget": 29,
        "msgget": 68, "mq_open": 240, "setuid": 105, "setresuid": 117, "capset": 126, "seccomp": 317, "userfaultfd": 323,
        "perf_event_open": 298, "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "tkill": 200, "rt_sigqueueinfo": 129,
        "fallocate": 285, "personality": 135, "chroot": 161, "reboot": 169, "init_module": 175, "open_by_handle_at": 304,
        "setxattr": 188, "mknod": 133, "chown": 92, "setsid": 112, "sched_setaffinity": 203, "setpriority": 141, "splice": 275,
        "openat2": 437, "mount_setattr": 442, "fsopen": 430, "landlock_restrict_self": 446, "io_submit": 209, "newest": 600,
    },
    "aarch64": {
        "execve": 221, "execveat": 281, "socket": 198, "connect": 203, "bind": 200, "sendmsg": 211, "ptrace": 117, "mount": 40,
        "umount2": 39, "pivot_root": 41, "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219, "add_key": 217, "io_uring_setup": 425,
        "memfd_create": 279, "process_vm_readv": 270, "process_vm_writev": 271, "shmget": 194, "msgget": 186, "mq_open": 180,
        "setuid": 146, "setresuid": 147, "capset": 91, "seccomp": 277, "userfaultfd": 282, "perf_event_open": 241, "tkill": 130,
        "rt_sigqueueinfo": 138, "fallocate": 47, "personality": 92, "chroot": 51, "open_by_handle_at": 265, "setxattr": 5, "mknodat": 33,
        "fchownat": 54, "setsid": 157, "splice": 76, "pidfd_open": 434, "openat2": 437, "io_submit": 2, "newest": 600,
    },
}  # fmt: skip
ALLOWED = {
    "x86_64": {"read": 0, "write": 1, "mmap": 9, "brk": 12, "futex": 202, "exit_group": 231, "getrandom": 318, "clock_nanosleep": 230, "newfstatat": 262},
    "aarch64": {"read": 63, "write": 64, "mmap": 222, "brk": 214, "futex": 98, "exit_group": 94, "getrandom": 278, "clock_nanosleep": 115, "newfstatat": 79},
}  # fmt: skip
CONDITIONAL = {
    "x86_64": {"clone": 56, "clone3": 435, "kill": 62, "tgkill": 234, "openat": 257, "fcntl": 72, "prctl": 157, "socketpair": 53, "sendto": 44, "unlinkat": 263, "prlimit64": 302, "getpgid": 121, "getsid": 124, "sched_getaffinity": 204, "clock_gettime": 228},
    "aarch64": {"clone": 220, "clone3": 435, "kill": 129, "tgkill": 131, "openat": 56, "fcntl": 25, "prctl": 167, "socketpair": 199, "sendto": 206, "unlinkat": 35, "prlimit64": 261, "getpgid": 155, "getsid": 156, "sched_getaffinity": 123, "clock_gettime": 113},
}  # fmt: skip


def decide(program: bytes, number: int, *arguments: int, architecture: int) -> int:
    """What the kernel would do: the classic BPF machine on `struct seccomp_data`."""
    data = struct.pack(
        "<IIQ6Q", number, architecture, 0, *[a & (2**64 - 1) for a in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    )
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        opcode, if_true, if_false, value = code[at]
        at += 1
        if opcode == 0x20:
            [accumulator] = struct.unpack_from("<I", data, value)
        elif opcode == 0x06:
            return value
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[opcode]
            at += if_true if test else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    program_filter.cache_clear()
    request.addfinalizer(program_filter.cache_clear)
    return request.param


def test_allowed_and_refused(machine: str) -> None:
    audit = ARCHITECTURE[machine]
    for writable in (True, False):
        program = program_filter(OWN, writable=writable)
        assert len(program) // 8 < 4_096
        assert {name: decide(program, n, architecture=audit) for name, n in REFUSED[machine].items()} == dict.fromkeys(
            REFUSED[machine], EPERM
        )
        assert {name: decide(program, n, architecture=audit) for name, n in ALLOWED[machine].items()} == dict.fromkeys(
            ALLOWED[machine], ALLOW
        )


def test_other_architectures_and_x32_are_killed(machine: str) -> None:
    program = program_filter(OWN, writable=True)
    assert decide(program, 0, architecture=0x40000003) == KILL  # 32-bit x86
    assert decide(program, 0x40000000, architecture=ARCHITECTURE[machine]) == KILL


@pytest.mark.parametrize(("name", "arguments", "verdict"), [
    ("clone", (0x3D0F00,), ALLOW),  # what pthread_create passes
    ("clone", (17,), EPERM), ("clone", (0x4111,), EPERM), ("clone", (0x3D0F00 | 0x10000000,), EPERM), ("clone", (0x3D0F00 | 0x80,), EPERM),
    ("clone3", (), ENOSYS),
    ("kill", (OWN, 9), ALLOW), ("kill", (OWN + 1, 9), EPERM), ("kill", (-1, 9), EPERM), ("kill", (0, 9), EPERM), ("kill", (-OWN, 9), EPERM),
    ("tgkill", (OWN, OWN, 6), ALLOW), ("tgkill", (1, 1, 6), EPERM),
    ("fcntl", (3, 3), ALLOW), ("fcntl", (3, 8), EPERM), ("fcntl", (3, 5), EPERM), ("fcntl", (3, 6), EPERM),
    ("getpgid", (0,), ALLOW), ("getpgid", (OWN,), ALLOW), ("getpgid", (OWN + 1,), EPERM), ("getsid", (1,), EPERM),
    ("sched_getaffinity", (0,), ALLOW), ("sched_getaffinity", (1,), EPERM),
    ("clock_gettime", (11,), ALLOW), ("clock_gettime", (0xFFFFFFF2,), 0x50016),
    ("fcntl", (3, 15), EPERM), ("fcntl", (3, 1031), EPERM),
    ("prctl", (15,), ALLOW), ("prctl", (1,), EPERM), ("prctl", (4,), EPERM),
    ("prlimit64", (0, 7), ALLOW), ("prlimit64", (OWN + 1, 7), EPERM),
    ("socketpair", (1, 1), ALLOW), ("socketpair", (2, 1), EPERM),
    ("sendto", (3, 1, 1, 0, 0), ALLOW), ("sendto", (3, 1, 1, 0, 5), EPERM), ("sendto", (3, 1, 1, 0, 1 << 32), EPERM),
])  # fmt: skip
def test_arguments_that_decide(machine: str, name: str, arguments: tuple[int, ...], verdict: int) -> None:
    number = CONDITIONAL[machine][name]
    assert (
        decide(program_filter(OWN, writable=False), number, *arguments, architecture=ARCHITECTURE[machine]) == verdict
    )


@pytest.mark.parametrize("flags", [0o1, 0o2, 0o101, 0o1000, 0o100, 0o20200002])
def test_no_file_is_opened_to_write_in_tier_b(machine: str, flags: int) -> None:
    audit, openat, unlinkat = ARCHITECTURE[machine], CONDITIONAL[machine]["openat"], CONDITIONAL[machine]["unlinkat"]
    sealed, writable = program_filter(OWN, writable=False), program_filter(OWN, writable=True)
    assert decide(sealed, openat, 0, 0, flags, architecture=audit) == EACCES
    assert decide(sealed, openat, 0, 0, 0o2000000, architecture=audit) == ALLOW  # O_CLOEXEC alone reads
    unnamed = flags & 0o20000000  # O_TMPFILE: not in tier A either
    assert decide(writable, openat, 0, 0, flags, architecture=audit) == (0x5005F if unnamed else ALLOW)  # EOPNOTSUPP
    assert [decide(program, unlinkat, architecture=audit) for program in (sealed, writable)] == [EPERM, ALLOW]


@pytest.mark.parametrize(("column", "header"), [(0, "x86_64-linux-gnu/asm/unistd_64.h"), (1, "asm-generic/unistd.h")])
def test_every_number_is_the_kernel_headers(column: int, header: str) -> None:
    """All entries of the tables by name, on whatever machine has the headers; aarch64 uses the generic numbers."""
    file = Path("/usr/include", header)
    if not file.exists():
        pytest.skip(f"no {file}")
    lines = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", file.read_text())
    known = {name: int(number) for name, number in lines}
    entries = [entry.split(":") for entry in (seccomp._ALWAYS + seccomp._WRITING + seccomp._CONDITIONAL).split()]
    ours = {entry[0]: int(entry[1 + column]) for entry in entries if entry[1 + column] != "-"}
    newer = {name for name in ours if name not in known}  # than the headers
    assert {name: ours[name] for name in ours.keys() - newer} == {name: known[name] for name in ours.keys() - newer}
    assert len(newer) <= 3 and len(ours) > 100
    absent = {entry[0] for entry in entries if entry[1 + column] == "-"}
    assert not absent & known.keys()
