"""Law: makes the kernel's FUSE mount and hands out its descriptor; serves nothing.

There are two ways to mount. With CAP_SYS_ADMIN over our user namespace (as root, or as root of the
user namespace of `imgmount run`) we open /dev/fuse and call mount(2). Otherwise the set-uid
fusermount3 does both and passes the descriptor back over a socket (_FUSE_COMMFD, libfuse's
util/fusermount.c). libfuse's own mount code is not used, because the descriptor must belong to us:
it outlives the session that serves it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

from fusemount import _native
from fusemount.beneath import fd_path
from fusemount.daemon.mountid import (
    Mount,
    connected,
    covering,
    detach,
    entry_of,
    mount_of,
    mount_on,
    mount_root,
    topmost,
)
from fusemount.daemon.mountpoint import FSTYPE, Mountpoint, unmount
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError, MountpointError, NotPermitted
from fusemount.mountinfo import mounts

_NOT_FOUND = 127  # env(1): no directory of PATH has the program

# Word of mount(8) -> (bit of mount(2), whether the word sets or clears it).
FLAG_WORDS: dict[str, tuple[int, bool]] = {
    "ro": (_native.MS_RDONLY, True),
    "rw": (_native.MS_RDONLY, False),
    "nosuid": (_native.MS_NOSUID, True),
    "suid": (_native.MS_NOSUID, False),
    "nodev": (_native.MS_NODEV, True),
    "dev": (_native.MS_NODEV, False),
    "noexec": (_native.MS_NOEXEC, True),
    "exec": (_native.MS_NOEXEC, False),
    "sync": (_native.MS_SYNCHRONOUS, True),
    "async": (_native.MS_SYNCHRONOUS, False),
    "dirsync": (_native.MS_DIRSYNC, True),
    "noatime": (_native.MS_NOATIME, True),
    "atime": (_native.MS_NOATIME, False),
    "nodiratime": (_native.MS_NODIRATIME, True),
    "diratime": (_native.MS_NODIRATIME, False),
    "relatime": (_native.MS_RELATIME, True),
    "norelatime": (_native.MS_RELATIME, False),
    "strictatime": (_native.MS_STRICTATIME, True),
}


@dataclass(frozen=True)
class MountRequest:
    """What to ask of the kernel.

    source: the first column of mount(8)'s output. words: keys of FLAG_WORDS, later ones win.
    """

    mountpoint: Mountpoint
    source: str
    words: tuple[str, ...] = ()
    allow_other: bool = False
    default_permissions: bool = True
    subtype: str = "imgmount"


@dataclass
class FuseChannel:
    """A mounted file system and the descriptor that answers for it.

    fd: the kernel's /dev/fuse descriptor, close-on-exec. mount: None if the mount could not be
    looked at; then this object never unmounts anything.
    """

    mountpoint: Path
    fd: int
    mount: Mount | None

    @property
    def device(self) -> str:
        """`major:minor` in mountinfo, which copies of the mount share; "" if it is not known."""
        return self.mount.device if self.mount else ""

    def close_fd(self) -> None:
        """Closes the descriptor. When its last copy is closed, the mount answers ENOTCONN."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def serves(self, root: int) -> bool:
        """Whether a descriptor is of our file system, through any of its mounts. Never true of
        another file system: none gets the device number of ours while ours is mounted."""
        return self.mount is not None and mount_of(root).device == self.device and self.connected

    @property
    def connected(self) -> bool:
        return connected(self.fd)

    def discard(self) -> None:
        """Undoes open_channel, for a mount that no process serves (any more). Never raises."""
        with suppress(OSError, ImgmountError):  # another process has unmounted it already
            # The mount is looked for by its device, because a directory above may have been moved.
            named = [e.mountpoint for e in mounts() if self.mount and e.device == self.device]
            for target in reversed(named):
                with suppress(OSError, ImgmountError), mount_root(target) as root:
                    if self._made(root):
                        self.close_fd()  # first: with it open the kernel would wait for our answer
                        self._take_off(target, root)
                        break
        self.close_fd()

    def _take_off(self, target: Path, root: int) -> None:
        if os.geteuid() == 0:
            detach(root)
        else:
            # fusermount3 takes a path, and unmounts only this user's FUSE mounts.  So it unmounts
            # another mount only if this user mounts one at this path at this very moment.
            unmount(target, mount_of(root), lazy=True)

    def _made(self, root: int) -> bool:
        """Whether a descriptor is of the mount that open_channel made."""
        if self.mount is not None and self.mount.unique:
            return mount_of(root).unique == self.mount.unique
        return self.serves(root)


def open_channel(request: MountRequest) -> FuseChannel:
    """Mounts on the very directory that was checked, and makes sure that its path leads there.

    Raises NotPermitted (no /dev/fuse, no privilege, no fusermount3) or MountpointError.
    """
    at = request.mountpoint
    fd = _mount_directly(request) if os.geteuid() == 0 else _mount_by_fusermount(request)
    channel = FuseChannel(at.path, fd, _mounted_on(at))
    if channel.mount is not None and mount_on(at.path) == channel.mount:
        return channel
    channel.discard()
    if os.geteuid() != 0 and channel.mount is None:
        _clear(at.path, request)
    raise moved(at.path)


def moved(path: Path) -> MountpointError:
    """The error for a mount that stands elsewhere than at its path; it is taken off again."""
    return MountpointError(
        f"{path}: moved or replaced by somebody while it was to be mounted on; nothing was"
    )


def _mounted_on(at: Mountpoint) -> Mount | None:
    """The FUSE mount on that directory. It is ours, because only root could mount on top of it."""
    with suppress(OSError), covering(at.fd, at.path) as root:
        entry, mount = entry_of(root), mount_of(root)
        if entry and entry.fstype.startswith("fuse") and mount != mount_of(at.fd):
            return mount
    return None


def _clear(path: Path, request: MountRequest) -> None:
    """Unmounts a mount that fusermount3 made on another directory; it is dead by now."""
    named = f"fuse.{request.subtype}", request.source
    with suppress(OSError, ImgmountError):
        _, entry, mount = topmost(path)
        if entry and mount and (entry.fstype, entry.source) == named:
            unmount(path, mount, lazy=True)


def _open_device() -> int:
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotPermitted(
            "/dev/fuse is missing: the kernel has no FUSE (modprobe fuse), or a container hides it"
        ) from error
    except OSError as error:
        raise NotPermitted(
            f"/dev/fuse cannot be opened: {os.strerror(error.errno or 0)}"
        ) from error


def mount_flags(words: tuple[str, ...]) -> int:
    flags = 0
    for word in words:
        bit, sets = FLAG_WORDS[word]
        flags = flags | bit if sets else flags & ~bit
    return flags


def _mount_directly(request: MountRequest) -> int:
    fd = _open_device()
    # max_read is left out: libfuse's session asks for none, and the two must agree (fuse.rst).
    data = f"fd={fd},rootmode={stat.S_IFDIR:o},user_id={os.geteuid()},group_id={os.getegid()}"
    data += ",default_permissions" if request.default_permissions else ""
    data += ",allow_other" if request.allow_other else ""
    fstype = FSTYPE if request.subtype == "imgmount" else f"fuse.{request.subtype}"
    try:
        target = fd_path(request.mountpoint.fd)
        _native.mount(request.source, target, fstype, mount_flags(request.words), data)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotPermitted(
                f"{request.mountpoint.path}: mount(2): {os.strerror(error.errno)}: "
                "needs CAP_SYS_ADMIN"
            ) from error
        if error.errno == errno.ENODEV:
            raise NotPermitted("the kernel has no FUSE (modprobe fuse)") from error
        raise MountpointError(
            f"{request.mountpoint.path}: cannot mount: {os.strerror(error.errno or 0)}"
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fusermount_options(request: MountRequest) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace(",", "\\,")

    options = [f"fsname={quoted(request.source)}", f"subtype={quoted(request.subtype)}"]
    # fusermount3 accepts no other words; for a user it adds nosuid and nodev itself.
    known = ("ro", "rw", "nosuid", "nodev", "noexec", "exec", "noatime", "atime", "sync", "async",
             "dirsync", "nodiratime", "diratime")  # fmt: skip
    options += [word for word in request.words if word in known]
    options += ["default_permissions"] if request.default_permissions else []
    options += ["allow_other"] if request.allow_other else []
    return ",".join(options)


def _mount_by_fusermount(request: MountRequest) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            # env(1) adds one variable to the environment that the child inherits.
            command = ["env", f"_FUSE_COMMFD={theirs.fileno()}", "fusermount3"]
            command += ["-o", _fusermount_options(request), "--", str(request.mountpoint.path)]
            result = subprocess.run(
                command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, check=False
            )
        if result.returncode == _NOT_FOUND:
            raise NotPermitted("fusermount3 is missing: a user needs it to mount (package fuse3)")
        if result.returncode != 0:
            message = result.stderr.decode(errors="replace").strip().removeprefix("fusermount3: ")
            raise NotPermitted(f"{request.mountpoint.path}: {message or 'fusermount3 refused'}")
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise NotPermitted("fusermount3 sent no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]
