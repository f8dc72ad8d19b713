"""The walls: a root with nothing but the interpreter, an ordinary user, namespaces, and what each job adds to them.

Order for a worker of tier A. As root: build the new root and move into it, become an ordinary user, only then make a
user namespace, so that it belongs to an ordinary user and no program can be uid 0 of the machine. As an ordinary user:
the user namespace first, since it is what allows the mounts.

There is no /proc inside: nothing needs it, so there is nothing to hide in it, and a container that masks its own does
not stand in the way.
"""

from __future__ import annotations

import errno
import os
import platform
import resource
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from guided_grpo.sandbox import kernel
from guided_grpo.sandbox.seccomp import program_filter

ORDINARY_UID = 65_534  # what root becomes
MAX_FILES = 64  # open descriptors of a job
STACK_BYTES = 64 * 2**20
TEMPORARY = "/tmp"  # the folder of a job, inside

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_ARCHITECTURE = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"  # Debian's folder; other systems have no such one
_SYSTEM_LIBRARIES = (
    *(
        ("/lib", "/usr/lib")
        if not os.path.isdir(_ARCHITECTURE)
        else (_ARCHITECTURE, _ARCHITECTURE[4:], "/usr/lib/locale")
    ),
    *("/lib64", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"),
)
_MOUNT_POINTS = ("/tmp", "/mnt", "/var", "/usr")  # any existing folder; used in a mount namespace of our own

# LANDLOCK_ACCESS_FS_…: write file 1, read file 2, read folder 3, remove 4 5, make 6–12, refer 13, truncate 14
_READ = 1 << 2 | 1 << 3
_WRITE_FILE = 1 << 1 | 1 << 2 | 1 << 14
_EVERYTHING_IN_TEMPORARY = _READ | _WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13


class JailError(Exception):
    """A wall could not be built: what is missing, and the fix."""

    def __init__(self, missing: str, fix: str) -> None:
        super().__init__(missing, fix)
        self.missing, self.fix = missing, fix


def interpreter_paths(further: Sequence[str] = ()) -> list[str]:
    """What the interpreter reads: its standard library, the shared libraries, `further`; no folder inside another."""
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    with open("/proc/self/maps") as maps:
        paths |= {os.path.dirname(line.split()[-1]) for line in maps if ".so" in line and line.split()[-1][0] == "/"}
    paths = {os.path.realpath(path) for path in paths} | {
        path for path in (*_SYSTEM_LIBRARIES, *further) if os.path.exists(path)
    }
    top = [path for path in paths if not any(str(parent) in paths for parent in Path(path).parents)]
    return sorted(path for path in top if os.path.exists(path) and path != "/")


def _other_packages(sources: Sequence[str]) -> list[str]:
    """Folders of packages within `sources`: no part of the interpreter, and answers of a benchmark may lie there."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    folders |= {f"{path}/{name}" for path in sources for name in ("site-packages", "dist-packages")}
    folders = {os.path.realpath(path) for path in folders if os.path.isdir(path)}
    return sorted(path for path in folders if any(str(parent) in sources for parent in Path(path).parents))


def become_ordinary() -> None:
    """Root gives up its uid, gid and groups for good; anyone else stays who they are."""
    if os.geteuid() != 0 and os.getuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
        os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    except OSError as error:
        raise JailError(
            f"root may not become uid {ORDINARY_UID} ({error.strerror})", "run as an ordinary user"
        ) from None
    kernel.make_dumpable()


def check_readable(paths: list[str]) -> None:
    """JailError where this process, no longer root, cannot read its own interpreter: what stands in the way."""
    for path in map(Path, paths):
        folders = [*reversed(path.parents), *([path] if os.path.isdir(path) else [])]
        shut = next((folder for folder in folders if not os.access(folder, os.X_OK)), None)
        if shut or not os.access(path, os.R_OK):
            denied = f"enter {shut}" if shut else f"read {path}"
            raise JailError(
                f"uid {os.geteuid()}, which programs run as, may not {denied}, and the interpreter needs {path}",
                "use a Python that all may read, as in /usr or /opt, or "
                + (f"let all enter the folder (chmod o+x {shut})" if shut else f"let all read it (chmod o+rX {path})"),
            )


def enter_namespaces(sources: list[str], packages: Sequence[str] = ()) -> None:
    """Tier A: leave this process an ordinary user in namespaces of its own, whose root holds `sources` and no more.

    Of folders of packages within `sources` it holds `packages` alone. The next child is PID 1 of the new process
    namespace. Raises JailError.
    """
    own_proc = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    rooted = False
    if os.geteuid() == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWNS)
        except PermissionError:  # root of a container: it may still be allowed what any user is
            pass
        else:
            _build_root(sources, packages)
            rooted = True
        become_ordinary()
    uid, gid = os.geteuid(), os.getegid()
    flags = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    try:
        kernel.unshare(flags | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            at = os.open(name, os.O_WRONLY, dir_fd=own_proc)
            os.write(at, line.encode())
            os.close(at)
    except OSError as error:
        raise JailError(f"user namespaces are not allowed here ({error.strerror})", _NAMESPACE_FIX) from None
    os.close(own_proc)
    if not rooted:
        _build_root(sources, packages)


_NAMESPACE_FIX = (
    "allow them (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0, or a container with "
    "`--security-opt seccomp=unconfined`), or choose the sandbox tier 'B'"
)


def _build_root(sources: list[str], packages: Sequence[str]) -> None:
    """Mount the interpreter read-only under a fresh root and move there."""
    try:
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        handles = {path: os.open(path, os.O_PATH) for path in [*sources, *_DEVICES] if not os.path.islink(path)}
        links = {path: os.readlink(path) for path in sources if os.path.islink(path)}
        new = next(path for path in _MOUNT_POINTS if os.path.isdir(path))
        kernel.mount("none", new, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=0755")
        for path, target in links.items():
            os.makedirs(os.path.dirname(new + path), exist_ok=True)
            os.symlink(target, new + path)
        hidden = _other_packages(sources)
        shown = {
            path: os.open(path, os.O_PATH)
            for path in packages
            if os.path.exists(path) and any(path.startswith(f"{folder}/") for folder in hidden)
        }
        for path, at in handles.items():
            _bind(at, new + path)
        for folder in hidden:
            kernel.mount("none", new + folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=0755")
        for path, at in shown.items():
            _bind(at, new + path)
        os.makedirs(new + TEMPORARY, exist_ok=True)
        kernel.make_read_only(new)
        kernel.pivot_to(new)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise JailError("the kernel is older than Linux 5.12", "use a newer kernel") from None
        raise JailError(f"the root of the sandbox cannot be built ({error})", "choose the sandbox tier 'B'") from None


def _bind(handle: int, inside: str) -> None:
    """Mount a file or folder at a place that is made for it, and close its handle."""
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.isdir(f"/proc/self/fd/{handle}"):
        os.makedirs(inside, exist_ok=True)
    else:
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o600))
    kernel.mount(f"/proc/self/fd/{handle}", inside, None, kernel.MS_BIND | kernel.MS_REC)
    os.close(handle)


class Temporary:
    """The private folder of the zygote's current job.

    Each job finds it as new. To unmount costs milliseconds of waiting, so that a folder nobody wrote in is kept: one
    whose time of change is that of its mount, which nothing can set back.
    """

    def __init__(self) -> None:
        self._size = self._changed = 0

    def renew(self, size: int) -> None:
        """An empty folder for at most `size` bytes; 0 = none."""
        if self._size and (size != self._size or os.stat(TEMPORARY).st_ctime_ns != self._changed):
            kernel.unmount(TEMPORARY)
            self._size = 0
        if size and not self._size:
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_NOATIME
            files = 64 + size // 16_384
            kernel.mount("none", TEMPORARY, "tmpfs", flags, f"size={size},nr_inodes={files},mode=0700")
            self._size, self._changed = size, os.stat(TEMPORARY).st_ctime_ns


def close_in(tier: str, limits: dict[str, float], *, landlock: int, readable: list[str]) -> None:
    """All walls around one job, from inside its own process; what fails raises, and the job must not run.

    Args:
        tier: "A", "B" or "C".
        limits: the fields of jobs.Limits, and the job's `steps`.
        landlock: the ABI version; 0 = none (tier A goes without, its root holds nothing to read or write).
        readable: what tier B may read.
    """
    os.chdir(TEMPORARY if tier == "A" else "/")
    _limit_resources(limits, tier)
    kernel.die_with_parent()
    kernel.no_new_privileges()
    if tier != "C" and landlock:
        readable = [path for path in readable if not os.path.islink(path)]  # /lib would let all of /usr/lib in
        rules = {"/": _READ} if tier == "A" else dict.fromkeys(readable, _READ)
        for path in readable if tier == "B" else []:
            if not os.path.isdir(path):
                rules[path] = 1 << 2
        if tier == "A":
            rules["/dev/null"] = _WRITE_FILE
        if tier == "A" and limits["disk_bytes"]:
            rules[TEMPORARY] = _EVERYTHING_IN_TEMPORARY
        kernel.landlock(rules)
    kernel.drop_capabilities()
    if tier != "C":
        kernel.install_filter(program_filter(os.getpid(), writable=tier == "A"))


def _limit_resources(limits: dict[str, float], tier: str) -> None:
    bounds = {
        resource.RLIMIT_AS: int(limits["memory_bytes"]),
        resource.RLIMIT_CPU: int(limits["cpu_seconds"] * limits["steps"]) + 2,  # behind the worker's own watch
        resource.RLIMIT_FSIZE: int(limits["output_bytes"]),
        resource.RLIMIT_NOFILE: MAX_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if tier == "A" and release >= (5, 14):  # counted per user namespace; before, over all processes of the user
        bounds[resource.RLIMIT_NPROC] = int(limits["threads"]) + 3
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
    for name, bound in bounds.items():
        hard = resource.getrlimit(name)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(name, (bound, bound))
