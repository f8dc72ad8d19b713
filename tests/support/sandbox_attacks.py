"""What programs must not get through with. Numbers are those of the list in test_sandbox.py."""

from __future__ import annotations

from pathlib import Path

# Each returns true where it got through, false or an exception where not.
ATTACKS = {
    "[3] fork": "pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)\nreturn True",
    "[3] vfork and exec": "import subprocess\nreturn subprocess.run(['/bin/true']).returncode == 0",
    "[3] clone": "return fork_by_clone()",
    "[4] two hundred threads": "return threads(200) == 200",
    "[5] memory file": "f = os.memfd_create('x')\nreturn os.write(f, bytes(1000)) == 1000",
    "[5] shared memory of System V": "return call(SHMGET, 0, 1 << 20, 0o1600) >= 0",
    "[11] daemon": "pid = os.fork()\nif not pid:\n    os.setsid()\n    os._exit(0)\nos.waitpid(pid, 0)\nreturn True",
    "[11] session of its own": "import subprocess\nreturn subprocess.run(['/bin/true'], start_new_session=True) is not None",
    "[12] signal the parent": "os.kill(os.getppid() or 2, 0)\nreturn True",
    "[12] have a signal sent": "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, 8, os.getppid() or 2)\nreturn True",
    "[13] process_vm_readv": "return read_memory(os.getpid())",
    "[13] trace": "return call(PTRACE, 0, 0, 0, 0) == 0",
    "[13] memory by /proc": "return len(os.read(os.open('/proc/self/mem', os.O_RDONLY), 0)) == 0",
    "[13] other processes": "return len([name for name in os.listdir('/proc') if name.isdigit()]) > 1",
    "[15] read a secret": "return open(outside + '/secret').read() == 'hunter2'",
    "[15] list a folder": "return 'secret' in os.listdir(outside)",
    "[15] write outside": "open(outside + '/new', 'w').write('x')\nreturn True",
    "[15] cut a file": "os.close(os.open(outside + '/secret', os.O_RDONLY | os.O_TRUNC | os.O_WRONLY))\nos.truncate(outside + '/secret', 0)\nreturn True",
    "[15] link out": "os.symlink(outside + '/secret', outside + '/link')\nreturn bool(open(outside + '/link').read() or 1)",
    "[15] rename": "open(outside + '/old', 'w').close()\nos.rename(outside + '/old', outside + '/moved')\nreturn True",
    "[15] delete": "open(outside + '/mine', 'w').close()\nos.unlink(outside + '/mine')\nreturn True",
    "[15] change modes": "open(outside + '/own', 'w').close()\nos.chmod(outside + '/own', 0o600)\nreturn True",
    "[15] run a command": "os.set_inheritable(3, True)\nos.execv('/bin/sh', ['sh', '-c', 'echo \\'[\"value\", true]\\' >&3'])",
    "[16] TCP": "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\nreturn True",
    "[16] UDP": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))\nreturn True",
    "[16] abstract socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind(chr(0) + 'sandbox-test-' + str(os.getpid()))\nreturn True",
    "[17] user namespace": "return call(UNSHARE, 0x10000000) == 0",
    "[17] mount": "return call(UNSHARE, 0x10020000) == 0 and call(MOUNT, b'none', outside.encode(), b'tmpfs', 0, 0) == 0",
    "[17] core pattern read": "return bool(open('/proc/sys/kernel/core_pattern').read())",
}  # fmt: skip

TOOLS = """
import ctypes, os, sys, threading
outside = {outside!r}
X86 = os.uname().machine == "x86_64"
SHMGET, PTRACE, UNSHARE, MOUNT = (29, 101, 272, 165) if X86 else (194, 117, 97, 40)
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(number), *wide)

def fork_by_clone():
    pid = call(56 if X86 else 220, 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return pid > 0

def threads(count):
    threading.stack_size(65536)
    stop = threading.Event()
    made = []
    try:
        while len(made) < count:
            thread = threading.Thread(target=stop.wait)
            thread.start()
            made.append(thread)
    except RuntimeError:
        pass
    stop.set()
    for thread in made:
        thread.join()
    return len(made)

def read_memory(pid):
    target, found = ctypes.create_string_buffer(b"found"), ctypes.create_string_buffer(8)
    local = (ctypes.c_ulong * 2)(ctypes.addressof(found), 5)
    remote = (ctypes.c_ulong * 2)(ctypes.addressof(target), 5)
    return call(310 if X86 else 270, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == 5

def attack():
"""


def program(body: str, outside: Path | str = "/tmp") -> str:
    return TOOLS.format(outside=str(outside)) + "".join(f"    {line}\n" for line in body.splitlines())
