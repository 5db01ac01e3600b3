"""Law: finds the programs of an image that must not be executed, because a file of the host would
run.

Until execve(2) is done, /proc/self/exe is our Python interpreter, a file of the host.  If the
image's program is a link to /proc/self/exe, or a script with it as interpreter, execve(2) runs that
interpreter, and the new process can open it for writing as its own /proc/self/exe: CVE-2019-5736
of runc.  (While a command runs, our interpreter runs too, and the kernel refuses writes to a
running program; some kernels from Linux 6.11 on did not.)
"""

from __future__ import annotations

import errno
import os
import stat

from fusemount.beneath import open_in_root

# linux/binfmts.h: what the kernel reads of a script, and how many interpreters may be scripts
_HEAD_BYTES, _SCRIPTS_MAX = 256, 6


def leads_through_proc(root: int, path: str) -> bool:
    """Whether the program, or the interpreter of a script, is reached by a magic link of /proc.

    Call it with our own rights: the kernel also reads scripts that the executing user may not read.
    """
    for _ in range(_SCRIPTS_MAX):
        try:
            head = _head(root, path)
        except OSError as error:
            return error.errno == errno.ELOOP
        line = head.partition(b"\n")[0]
        words = line[2:].replace(b"\0", b" ").split(maxsplit=1)
        if not head.startswith(b"#!") or not words:
            return False
        path = os.path.join("/", os.fsdecode(words[0]))
    return False  # the kernel refuses it (ELOOP)


def _head(root: int, path: str) -> bytes:
    """The first bytes of a regular file; b"" for other files."""
    fd = open_in_root(root, path.lstrip("/"), os.O_PATH | os.O_CLOEXEC)
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    os.close(fd)
    if not regular:
        return b""
    fd = open_in_root(root, path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, _HEAD_BYTES)
    finally:
        os.close(fd)
