"""Law: every kind of error that a user can get is a class here; its exit code is an attribute.

An error's message is one line that names what failed, where and why.  `errno` is what a file-system
call answers when the error reaches it instead of a command line.  The table of docs/exit-codes.md
is printed from this module (`scripts/exit-codes`), and a test holds the two together.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class ImgmountError(Exception):
    """Something failed that is none of the cases below (an I/O error, a lost daemon)."""

    exit_code: ClassVar[int] = 1
    errno: ClassVar[int] = _errno.EIO


class UsageError(ImgmountError):
    """The command line or an option cannot be understood."""

    exit_code = 2
    errno = _errno.EINVAL


class ImageNotFound(ImgmountError):
    """No such file, no image in it, no image of that name, or several and none chosen."""

    exit_code = 3
    errno = _errno.ENOENT


class MalformedImage(ImgmountError):
    """An archive, layer, manifest or config that breaks its format, or passes a limit."""

    exit_code = 4
    errno = _errno.EIO


class VerificationFailed(ImgmountError):
    """A digest or diff_id is not what the manifest or config says."""

    exit_code = 5
    errno = _errno.EIO


class PlatformMismatch(ImgmountError):
    """The image has no variant for the platform asked for."""

    exit_code = 6
    errno = _errno.ENOEXEC


class MountpointError(ImgmountError):
    """The mountpoint is missing, no directory, busy, not empty, or not permitted."""

    exit_code = 7
    errno = _errno.ENOTDIR


class UpperError(ImgmountError):
    """The upper directory cannot be used: in use, read-only, or no fit for an upper."""

    exit_code = 8
    errno = _errno.EBUSY


class NotPermitted(ImgmountError):
    """FUSE or a privilege that the call needs is not there."""

    exit_code = 9
    errno = _errno.EPERM


class NoSpace(ImgmountError):
    """The disk that holds the cache or the upper is full."""

    exit_code = 10
    errno = _errno.ENOSPC


class RegistryError(ImgmountError):
    """A registry cannot be reached, refuses for a reason of its own, or breaks the protocol."""

    exit_code = 11
    errno = _errno.EREMOTEIO


class Unauthorized(ImgmountError):
    """A registry wants other credentials, or gives these no such right; or they cannot be read."""

    exit_code = 12
    errno = _errno.EACCES


class ImageInUse(ImgmountError):
    """An image of the store that a mount shows, or that has further names."""

    exit_code = 13
    errno = _errno.EBUSY


@contextmanager
def translated(
    what: object,
    kind: type[ImgmountError] = ImgmountError,
    *,
    full: str = "",
    named: bool = False,
) -> Iterator[None]:
    """An OSError of the block is raised as kind, with the message "WHAT: its reason".

    full: if given, a full disk or quota is raised as NoSpace, with this text in place of WHAT.
    named: the file that the OSError names, if it names one, takes the place of WHAT.
    """
    try:
        yield
    except OSError as error:
        if full and error.errno in (_errno.ENOSPC, _errno.EDQUOT):
            raise NoSpace(f"{full}: {os.strerror(error.errno)}") from error
        if named and isinstance(error.filename, str):
            what = error.filename
        raise kind(f"{what}: {error.strerror or error}") from error
