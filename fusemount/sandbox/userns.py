"""Law: makes an unprivileged user root of a new user namespace (user_namespaces(7)).

If the user has lines in /etc/subuid and /etc/subgid, and the set-uid newuidmap and newgidmap are
there, ids 1 to 65,536 of the image are mapped too.  Else only id 0 is mapped, and files of other
ids show as nobody's.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from fusemount import _native
from fusemount.errors import NotPermitted, translated

_SUBIDS_MAX = 65536


def enter_user_namespace() -> None:
    """Makes us uid 0 with all capabilities in a new user namespace. We must have only one thread.

    Raises NotPermitted if the system forbids it.
    """
    uid, gid, pid = os.geteuid(), os.getegid(), os.getpid()
    uids = [(0, uid, 1), *sub_ids(Path("/etc/subuid"), uid)]
    gids = [(0, gid, 1), *sub_ids(Path("/etc/subgid"), uid)]
    several = len(uids) > 1 and len(gids) > 1
    several = several and bool(shutil.which("newuidmap") and shutil.which("newgidmap"))
    go_reader, go_writer = os.pipe()
    helper = os.fork() if several else 0
    if helper:
        os.close(go_reader)
    elif several:
        os.close(go_writer)
        _map_from_outside(pid, go_reader, uids, gids)
    try:
        _native.unshare(_native.CLONE_NEWUSER | _native.CLONE_NEWNS)
    except OSError as error:
        if several:
            os.close(go_writer)
            os.waitpid(helper, 0)
        raise NotPermitted(
            f"no user namespace to be had ({os.strerror(error.errno or 0)}): ask for one"
            " (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces) or be root"
        ) from error
    if several:
        os.write(go_writer, b"!")
        _, status = os.waitpid(helper, 0)
        if status != 0:
            raise NotPermitted("newuidmap or newgidmap refused /etc/subuid's or /etc/subgid's ids")
    else:
        _map_ourselves(uid, gid)
        os.close(go_reader)
    os.close(go_writer)


def _map_from_outside(
    pid: int, go: int, uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]
) -> None:
    """In a child that stayed outside: maps many ids, which only the set-uid programs may do. Never
    returns."""
    code = 1
    try:
        if os.read(go, 1):
            for tool, ranges in (("newuidmap", uids), ("newgidmap", gids)):
                words = [str(number) for line in ranges for number in line]
                subprocess.run([tool, str(pid), *words], check=True)
            code = 0
    finally:
        os._exit(code)


def _map_ourselves(uid: int, gid: int) -> None:
    with translated("cannot map ids"):
        Path("/proc/self/setgroups").write_text("deny")  # the kernel then allows a gid_map
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def sub_ids(file: Path, uid: int) -> list[tuple[int, int, int]]:
    """(inside, outside, count) for the user's lines of subuid(5), inside from 1 on."""
    try:
        text = file.read_text()
    except OSError:
        return []
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    ranges: list[tuple[int, int, int]] = []
    inside = 1
    for line in text.splitlines():
        owner, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if owner in names and first.isdigit() and count.strip().isdigit():
            length = min(int(count), _SUBIDS_MAX + 1 - inside)
            if length > 0:
                ranges.append((inside, int(first), length))
                inside += length
    return ranges
