"""Law: may this directory become (or stop being) a mount, and if not, why, in one line."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

from fusemount import _native
from fusemount.daemon.mountinfo import mount_at
from fusemount.errors import ImgmountError, MountpointError, NotPermitted

FSTYPE = "fuse.imgmount"


def resolve(path: Path) -> Path:
    """`path` as mountinfo spells it. Never fails: a dead mount still has a name."""
    return Path(os.path.realpath(path))


def check_mountpoint(path: Path, *, nonempty: bool = False) -> Path:
    """The resolved mountpoint, fit to be mounted on.

    Raises MountpointError: missing, no directory, ours already (busy), dead, not empty (a mount
    would hide what is there; `nonempty` allows it), or not readable for this user.
    """
    target = resolve(path)
    entry = mount_at(target)
    ours = entry is not None and entry.fstype == FSTYPE
    try:
        if not os.path.isdir(target):
            os.stat(target)
            raise MountpointError(f"{path}: not a directory")
        os.statvfs(target)  # never cached, where a dead mount still answers stat and readdir
        if ours and entry:
            raise MountpointError(
                f"{path}: busy: {entry.source} is mounted there (imgmount umount {path})"
            )
        with os.scandir(target) as listing:
            if not nonempty and next(listing, None):
                raise MountpointError(
                    f"{path}: not empty: a mount would hide what is there (-o nonempty allows it)"
                )
    except OSError as error:
        raise _explain(path, error) from error
    _check_owner(path, target)
    return target


def _explain(path: Path, error: OSError) -> MountpointError:
    match error.errno:
        case errno.ENOENT:
            return MountpointError(f"{path}: no such directory")
        case errno.ENOTCONN:
            return MountpointError(
                f"{path}: holds a mount whose daemon is gone; `imgmount umount {path}` clears it"
            )
        case _:
            return MountpointError(f"{path}: {os.strerror(error.errno or 0)}")


def _check_owner(path: Path, target: Path) -> None:
    """What fusermount3 would refuse later, said before the image is read (its check_perm())."""
    if os.geteuid() == 0:
        return
    if not os.access(target, os.W_OK):
        raise MountpointError(f"{path}: not permitted: a user can mount only where they may write")


def unmount(target: Path, *, lazy: bool = False) -> None:
    """Takes the topmost mount off `target`; what is unwritten reaches the daemon first.

    `lazy` detaches a busy mount (MNT_DETACH): it lives on, unseen, until its last user leaves.
    Raises MountpointError (busy, nothing mounted) or NotPermitted.
    """
    if os.geteuid() != 0:
        _fusermount(target, lazy)
        return
    flags = _native.UMOUNT_NOFOLLOW | (_native.MNT_DETACH if lazy else 0)
    try:
        _native.umount2(target, flags)
    except OSError as error:
        raise _refused(target, error.errno or 0) from error


def _refused(target: Path, number: int) -> ImgmountError:
    if number == errno.EBUSY:
        return Busy(
            f"{target}: busy: a process has an open file, its working directory or a mount there"
            " (--lazy detaches it all the same)"
        )
    if number in (errno.EPERM, errno.EACCES):
        return NotPermitted(f"{target}: unmounting it is not permitted")
    if number == errno.EINVAL:
        return MountpointError(f"{target}: nothing is mounted there")
    return MountpointError(f"{target}: cannot unmount: {os.strerror(number)}")


class Busy(MountpointError):
    """The mount has users (EBUSY)."""

    errno = errno.EBUSY


def _fusermount(target: Path, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(target)]
    try:
        result = subprocess.run(
            command, capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
        )
    except FileNotFoundError as error:
        raise NotPermitted("fusermount3 is missing: a user needs it (package fuse3)") from error
    if result.returncode == 0:
        return
    said = result.stderr.decode(errors="replace").strip()
    if "busy" in said:
        raise _refused(target, errno.EBUSY)
    # fusermount3 looks only for the user's own: another's mount is "not found in /etc/mtab".
    foreign = "not found in" in said and mount_at(target) is not None
    if foreign or "not permitted" in said or "denied" in said:
        raise _refused(target, errno.EPERM)
    raise MountpointError(f"{target}: {said.removeprefix('fusermount3: ')}")
