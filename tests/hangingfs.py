"""A FUSE file system that answers no request, as a user's may be.

Law: a process that waits for an answer does not end, not even by SIGKILL, before the context is
left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from oracle import run

# Answers FUSE_INIT (linux/fuse.h: opcode 26, version 7.31).  Each further request is read, because
# the kernel lets a process be killed while its request has not been read.
_SERVER = """
import ctypes, os, struct, sys
fd = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=%d,group_id=0,allow_other" % (fd, int(sys.argv[2]))
source, kind = map(os.fsencode, sys.argv[3:])
if ctypes.CDLL(None).mount(source, os.fsencode(sys.argv[1]), kind, 6, options):
    sys.exit("mount")
unique = struct.unpack_from("<Q", os.read(fd, 1 << 18), 8)[0]
ready = struct.pack("<IIIIHHIIHH28x", 7, 31, 65536, 0, 12, 10, 65536, 1, 0, 0)
os.write(fd, struct.pack("<IiQ", 16 + len(ready), 0, unique) + ready)
print("up", flush=True)
while True:
    os.read(fd, 1 << 18)
"""


@contextmanager
def hanging(
    at: Path, *, apart: bool = False, uid: int = 0, source: str = "hanging", kind: str = "fuse"
) -> Iterator[int]:
    """The file system is on the directory `at`; yields the pid of the process that serves it.

    uid: of the user who has mounted it, and has chosen source and kind.
    apart: in a mount namespace of that process, which has copies of all mounts that are there."""
    words = ["unshare", "--mount", "--propagation=private"] if apart else []
    words += [sys.executable, "-c", _SERVER, str(at), str(uid), source, kind]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout and server.stdout.readline() == "up\n"
        yield server.pid
    finally:
        server.kill()
        server.communicate()
        if not apart:
            run("umount", "--lazy", at)


@contextmanager
def waited_for() -> Iterator[list[int]]:
    """The forked children that os.waitpid is called for, which returns at once: it would not return
    for one that hangs. Left after hanging(), so that all children have ended."""
    forked: list[int] = []
    waited: list[int] = []
    fork, wait = os.fork, os.waitpid

    def forks() -> int:
        pid = fork()
        if pid:
            forked.append(pid)
        return pid

    def waits(pid: int, options: int) -> tuple[int, int]:
        if pid not in forked:
            return wait(pid, options)
        waited.append(pid)
        return pid, 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fork", forks)
        patch.setattr(os, "waitpid", waits)
        yield waited
    for pid in forked:
        wait(pid, 0)
