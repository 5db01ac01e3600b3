"""Law: which programs of an image are not executed, since that would run a file of the host.

Until execve(2) is done, /proc/self/exe is the interpreter that runs us, which belongs to the host.
An image whose program is a link to /proc/self/exe, or a script with it as interpreter, would so be
a process whose /proc/self/exe can be opened for writing: CVE-2019-5736 of runc.  (While a command
runs, so does our own interpreter, and the kernel lets nobody write to a running program; some from
Linux 6.11 on did.)
"""

from __future__ import annotations

import errno
import os
import stat

from fusemount.beneath import open_in_root

# linux/binfmts.h: what the kernel reads of a script, and how many interpreters may be scripts
_HEAD_BYTES, _SCRIPTS_MAX = 256, 6


def leads_through_proc(root: int, path: str) -> bool:
    """Whether the program, or the interpreter of the script that it is, is a magic link of /proc.

    Read with our own rights: the kernel reads scripts that the user who executes them cannot.
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
    """Of a regular file; b"" of anything else."""
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
