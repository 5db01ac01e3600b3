"""Law: mounts inside an image that may be hostile: every target is a descriptor that was resolved
inside the image's root, and after each mount it is checked that the right mount is there.

All paths are absolute paths of the image. fusemount.beneath resolves them: it follows symlinks
inside the root only, and refuses magic links of /proc (proc_pid_fd(5)). The kernel finds the target
by /proc/self/fd/N of the host's /proc, so all mounts are made before the root changes.
Published breakouts of this kind: CVE-2021-30465, CVE-2019-19921, CVE-2025-31133, CVE-2025-52565.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from fusemount import _native
from fusemount.beneath import fd_path, make_dirs_in_root, make_file_in_root, open_in_root
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError

# linux/magic.h
PROC, SYSFS, TMPFS, DEVPTS = 0x9FA0, 0x62656572, 0x01021994, 0x1CD1

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def failed(path: str, error: OSError) -> ImgmountError:
    why = os.strerror(error.errno or 0)
    if error.errno == errno.ELOOP:
        why = "it leads through a link of /proc, or in a circle"
    return ImgmountError(f"cannot set up {path} in the image: {why}")


@contextmanager
def _step(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failed(path, error) from error


@dataclass(frozen=True)
class ImageRoot:
    """fd: the image's root directory, O_PATH, a mount of our own mount namespace."""

    fd: int

    @contextmanager
    def opened(self, path: str, flags: int = os.O_PATH) -> Iterator[int]:
        """A descriptor of the file at that path, of any kind."""
        with _step(path):
            fd = open_in_root(self.fd, path.lstrip("/"), flags | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def mount(self, path: str, fstype: str, magic: int, flags: int, data: str = "") -> None:
        """Mounts a new file system on an existing directory. The last name may not be a symlink.

        runc refuses a symlink for /proc too, because later steps would write to its target.
        """
        with self.opened(path, _DIRECTORY | os.O_NOFOLLOW) as fd, _step(path):
            _native.mount(fstype, fd_path(fd), fstype, flags, data)
        with self.opened(path) as fd:
            if _native.fs_type(fd) != magic:
                raise ImgmountError(f"cannot set up {path} in the image: no {fstype} came there")

    def bind(self, source: int, path: str, *, recursive: bool = False) -> None:
        """Binds a file or directory of the host on the existing one at path. source: an O_PATH
        descriptor."""
        with self.opened(path) as fd, _step(path):
            if _native.fs_type(fd) == PROC:
                raise ImgmountError(f"cannot set up {path} in the image: it leads into /proc")
            flags = _native.MS_BIND | (_native.MS_REC if recursive else 0)
            _native.mount(fd_path(source), fd_path(fd), "", flags, "")
        with self.opened(path) as fd:
            if not os.path.samestat(os.fstat(source), os.fstat(fd)):
                raise ImgmountError(f"cannot set up {path} in the image: it was replaced meanwhile")

    def make_read_only(self, path: str) -> None:
        """Makes the mount at path and all mounts below it read-only. Needs Linux 5.12."""
        with self.opened(path) as fd, _step(path):
            _native.mount_setattr(fd_path(fd), _native.AT_RECURSIVE, _native.MOUNT_ATTR_RDONLY)

    def make_directory(self, path: str) -> None:
        with _step(path):
            os.close(make_dirs_in_root(self.fd, path.lstrip("/")))

    def make_file(self, path: str) -> None:
        """Makes an empty file to bind a file on; an existing file is left as it is.

        If path is a symlink to a missing file, its target is made, as docker does.
        """
        with _step(path):
            make_file_in_root(self.fd, path.lstrip("/"))


def is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)
