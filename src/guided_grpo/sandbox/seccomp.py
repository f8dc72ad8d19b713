"""The system calls a program may make, and the seccomp filter that refuses all others.

An allow-list: a call that is not named here, tomorrow's new ones included, fails with EPERM. No process can be made
(threads can), no other process can be signalled or traced, there is no socket but a nameless pair (asyncio needs it).

Each entry is `name:number on x86-64:number on aarch64`; `-` = the architecture lacks it.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Callable, Iterator
from functools import cache

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH

_ALWAYS = """
read:0:63  write:1:64  readv:19:65  writev:20:66  pread64:17:67  pwrite64:18:68  preadv:295:69  pwritev:296:70
lseek:8:62  close:3:57  close_range:436:436  stat:4:-  fstat:5:80  lstat:6:-  newfstatat:262:79  statx:332:291
access:21:-  faccessat:269:48  faccessat2:439:439  readlink:89:-  readlinkat:267:78  getdents:78:-
getdents64:217:61  poll:7:-  ppoll:271:73  select:23:-  pselect6:270:72  epoll_create:213:-  epoll_create1:291:20
epoll_ctl:233:21  epoll_wait:232:-  epoll_pwait:281:22  epoll_pwait2:441:441  eventfd:284:-  eventfd2:290:19
pipe:22:-  pipe2:293:59  dup:32:23  dup2:33:-  dup3:292:24  mmap:9:222  munmap:11:215  mremap:25:216
mprotect:10:226  madvise:28:233  brk:12:214  msync:26:227  membarrier:324:283  rseq:334:293  set_robust_list:273:99
set_tid_address:218:96  futex:202:98  futex_waitv:449:449  arch_prctl:158:-
sched_yield:24:124  nanosleep:35:101
gettimeofday:96:169  time:201:-  times:100:153  getrusage:98:165  getitimer:36:102
setitimer:38:103  alarm:37:-  getpid:39:172  gettid:186:178  getppid:110:173  getuid:102:174  geteuid:107:175
getgid:104:176  getegid:108:177  getresuid:118:148  getresgid:120:150  getgroups:115:158
getpgrp:111:-  uname:63:160  sysinfo:99:179  getcwd:79:17  chdir:80:49  fchdir:81:50
getrlimit:97:163  umask:95:166  sigaltstack:131:132  rt_sigaction:13:134  rt_sigprocmask:14:135  rt_sigreturn:15:139
rt_sigpending:127:136  rt_sigtimedwait:128:137  rt_sigsuspend:130:133  pause:34:-  restart_syscall:219:128
exit:60:93  exit_group:231:94  getrandom:318:278  getcpu:309:168  wait4:61:260  waitid:247:95  statfs:137:43
fstatfs:138:44  fadvise64:221:223  sendfile:40:71  copy_file_range:326:285  fsync:74:82
fdatasync:75:83  recvfrom:45:207  shutdown:48:210
"""

# Only where there is a private folder to write in.
_WRITING = """
mkdir:83:-  mkdirat:258:34  unlink:87:-  unlinkat:263:35  rmdir:84:-  rename:82:-  renameat:264:38
renameat2:316:276  link:86:-  linkat:265:37  symlink:88:-  symlinkat:266:36  chmod:90:-  fchmod:91:52
fchmodat:268:53  ftruncate:77:46  truncate:76:45  utimensat:280:88  utime:132:-
"""

# Allowed for some arguments.
_CONDITIONAL = """
open:2:-  openat:257:56  fcntl:72:25  ioctl:16:29  prctl:157:167  prlimit64:302:261  kill:62:129  tgkill:234:131
clone:56:220  clone3:435:435  socketpair:53:199  sendto:44:206  getpgid:121:155  getsid:124:156
sched_getaffinity:204:123  clock_gettime:228:113  clock_getres:229:114  clock_nanosleep:230:115
"""

_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000  # SECCOMP_RET_…
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF opcodes: 32-bit load, jumps, return
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080
_OPEN_TO_WRITE = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
# F_DUPFD … F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Not F_SETOWN: it has signals sent to other processes; no locks: of
# files that all workers read (the interpreter's) they would be messages from one to another.
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032)
_TEMPORARY_FILE = 0o20000000  # O_TMPFILE's own bit: such a file moves the counter of inodes, and nothing tells of it
_CLOCKS = 12  # numbers of clocks; beyond are those of other processes
_PR_SET_NAME, _AF_UNIX = 15, 1


def supported() -> bool:
    """Whether the numbers of this processor's system calls are known here."""
    return platform.machine() in _ARCHITECTURES


@cache
def program_filter(own_pid: int, *, writable: bool) -> bytes:
    """The BPF program for one job.

    Args:
        own_pid: the job's process id as it sees it itself: the only process it may signal.
        writable: True = files may be made, changed and removed (where the mounts and Landlock allow it);
            False = no file may even be opened for writing.

    Raises KeyError on an architecture whose numbers are not known.
    """
    column, audit_architecture = _ARCHITECTURES[platform.machine()]
    code = _Assembler()
    code.load(4)  # seccomp_data.arch
    code.unless_equal(audit_architecture, _KILL)
    code.load(0)  # seccomp_data.nr
    code.emit(_JGE, 0x40000000, 0, 1)  # x32 numbers
    code.emit(_RETURN, _KILL)
    for _, number in _named(_ALWAYS + (_WRITING if writable else ""), column):
        code.when_equal(number, lambda: code.emit(_RETURN, _ALLOW))
    rules = _argument_rules(code, own_pid, writable)
    for name, number in _named(_CONDITIONAL, column):
        code.when_equal(number, rules[name])
    code.emit(_RETURN, _ERRNO | errno.EPERM)
    return code.program()


def _argument_rules(code: _Assembler, own_pid: int, writable: bool) -> dict[str, Callable[[], None]]:
    """For each conditional call: what emits its verdict. Arguments are read as 32 bits, as the kernel reads these."""

    def refuse(number: int) -> None:
        code.emit(_RETURN, _ERRNO | number)

    def allow_one_of(argument: int, values: tuple[int, ...]) -> Callable[[], None]:
        def rule() -> None:
            code.argument(argument)
            for value in values:
                code.when_equal(value, lambda: code.emit(_RETURN, _ALLOW))
            refuse(errno.EPERM)

        return rule

    def threads_only() -> None:
        code.argument(0)
        code.emit(_JSET, _CLONE_NAMESPACES, 1, 0)
        code.emit(_JSET, _CLONE_THREAD, 1, 0)
        refuse(errno.EPERM)
        code.emit(_RETURN, _ALLOW)

    def no_destination() -> None:  # sendto on a connected pair only
        for half in (0, 4):
            code.argument(4, half)
            code.unless_equal(0, _ERRNO | errno.EPERM)
        code.emit(_RETURN, _ALLOW)

    def opens(flags_at: int) -> Callable[[], None]:
        def rule() -> None:
            if not writable:
                code.argument(flags_at)
                code.emit(_JSET, _OPEN_TO_WRITE, 0, 1)
                refuse(errno.EACCES)
            code.argument(flags_at)
            code.emit(_JSET, _TEMPORARY_FILE, 0, 1)
            refuse(errno.EOPNOTSUPP)
            code.emit(_RETURN, _ALLOW)

        return rule

    def clocks() -> None:
        code.argument(0)
        code.emit(_JGE, _CLOCKS, 0, 1)
        refuse(errno.EINVAL)
        code.emit(_RETURN, _ALLOW)

    # Without a process namespace what is asked about other processes tells which there are.
    about_itself = (lambda: code.emit(_RETURN, _ALLOW)) if writable else allow_one_of(0, (0, own_pid))

    return {
        "clone": threads_only,
        "clone3": lambda: refuse(errno.ENOSYS),  # its flags lie out of a filter's sight; libc falls back to clone
        "prctl": allow_one_of(0, (_PR_SET_NAME,)),
        "fcntl": allow_one_of(1, _FCNTLS),
        "ioctl": allow_one_of(1, _IOCTLS),
        "prlimit64": allow_one_of(0, (0, own_pid)),
        "kill": allow_one_of(0, (own_pid,)),
        "tgkill": allow_one_of(0, (own_pid,)),
        "socketpair": allow_one_of(0, (_AF_UNIX,)),
        "sendto": no_destination,
        **dict.fromkeys(("getpgid", "getsid", "sched_getaffinity"), about_itself),
        **dict.fromkeys(("clock_gettime", "clock_getres", "clock_nanosleep"), clocks),
        "open": opens(1),
        "openat": opens(2),
    }


class _Assembler:
    """BPF instructions with jumps of known length."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []

    def emit(self, opcode: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self._code.append((opcode, if_true, if_false, value))

    def load(self, offset: int) -> None:
        self.emit(_LOAD, offset)

    def argument(self, index: int, half: int = 0) -> None:
        """Load 32 bits of an argument; both architectures are little-endian."""
        self.load(16 + 8 * index + half)

    def unless_equal(self, value: int, verdict: int) -> None:
        self.emit(_JEQ, value, 1, 0)
        self.emit(_RETURN, verdict)

    def when_equal(self, value: int, body: Callable[[], None]) -> None:
        """`body` must end in a verdict on every path, since it may leave another value loaded."""
        at = len(self._code)
        self.emit(_JEQ, value)
        body()
        self._code[at] = (_JEQ, 0, len(self._code) - at - 1, value)

    def program(self) -> bytes:
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in self._code)


def _named(table: str, column: int) -> Iterator[tuple[str, int]]:
    for entry in table.split():
        name, *numbers = entry.split(":")
        if len(numbers) == 2 and numbers[column] != "-":
            yield name, int(numbers[column])
