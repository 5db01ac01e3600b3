"""Law: makes a mounted image the root of this process, with /proc, /sys, /dev and volumes.

This runs in pid 1 of a new pid namespace, before the command.  As chroot does, it gives a process
another view of the files; it is no protection against a hostile image that is run as root.

Files of the host are opened (O_PATH) first and bound from /proc/self/fd/N, each on a target that
target.py resolved inside the image.  Then the root changes, the host's mounts are detached, and
every descriptor is closed: after that no path leads to a file of the host.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from fusemount import _native
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError, translated
from fusemount.sandbox.command import Volume
from fusemount.sandbox.target import DEVPTS, PROC, SYSFS, TMPFS, ImageRoot, is_directory
from fusemount.walk import open_object

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
          "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx", "core": "/proc/kcore"}  # fmt: skip
_QUIET = _native.MS_NOSUID | _native.MS_NOEXEC | _native.MS_NODEV

# Every image gets mounts on these paths; if it does not have a path, it gets a placeholder.
DIRECTORIES = ("/proc", "/sys", "/dev")
FILES = ("/etc/resolv.conf", "/etc/hosts")


@dataclass(frozen=True)
class Sandbox:
    """root: where the image is mounted. hostname: None keeps the host's."""

    root: Path
    volumes: tuple[Volume, ...] = ()
    hostname: str | None = None
    read_only: bool = False


@dataclass(frozen=True)
class _Host:
    """The files of the host that the image gets: descriptors, and the text of two files."""

    devices: dict[str, int]
    volumes: list[tuple[Volume, int]]
    sys: int
    console: int | None
    resolv_conf: bytes
    hosts: bytes


def enter(sandbox: Sandbox) -> None:
    """Makes the image our root and closes all descriptors but 0, 1, 2.

    Raises ImgmountError naming the step that failed.
    """
    _native.unshare(_native.CLONE_NEWNS | _native.CLONE_NEWUTS | _native.CLONE_NEWIPC)
    _native.mount("", "/", "", _native.MS_REC | _native.MS_PRIVATE, "")
    host = _open_host(sandbox)  # after unshare: only mounts of one's own namespace can be bound
    root = ImageRoot(os.open(sandbox.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    root.mount("/proc", "proc", PROC, _QUIET)
    _mount_dev(root, host)
    _mount_sys(root, host)
    _write_over(root, "/etc/resolv.conf", host.resolv_conf)
    _write_over(root, "/etc/hosts", host.hosts)
    for volume, fd in host.volumes:
        _bind_volume(root, volume, fd)
    if sandbox.hostname is not None:
        socket.sethostname(sandbox.hostname)
    _change_root(root)
    if sandbox.read_only:
        _native.mount_setattr("/", 0, _native.MOUNT_ATTR_RDONLY)


def _change_root(root: ImageRoot) -> None:
    """As pivot_root(2) describes under "pivot_root(".", ".")": the old root is then mounted on top
    of the new one, and is detached."""
    os.fchdir(root.fd)
    _native.pivot_root(".", ".")
    _native.umount2(".", _native.MNT_DETACH)
    os.chdir("/")
    close_from(3)


def close_from(first: int) -> None:
    try:
        _native.close_from(first)
    except OSError:  # before Linux 5.9
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _open_host(sandbox: Sandbox) -> _Host:
    def handle(path: Path) -> int:
        with translated(path):
            return os.open(path, os.O_PATH | os.O_CLOEXEC)

    devices = {name: handle(Path("/dev", name)) for name in _DEVICES}
    volumes = [(volume, _open_volume(volume.host)) for volume in sandbox.volumes]
    console = handle(Path(os.ttyname(0))) if os.isatty(0) else None
    hosts = _text("/etc/hosts") or b"127.0.0.1\tlocalhost\n::1\tlocalhost\n"
    if sandbox.hostname:
        hosts += f"127.0.1.1\t{sandbox.hostname}\n".encode()
    return _Host(devices, volumes, handle(Path("/sys")), console,
                 _text("/etc/resolv.conf"), hosts)  # fmt: skip


def _open_volume(path: Path) -> int:
    """What the caller has named: another user's symlink could give the command another directory
    of root's to write to."""
    with translated(path):
        return open_object(path)


def _text(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _mount_dev(root: ImageRoot, host: _Host) -> None:
    """Mounts a new /dev over the image's."""
    root.mount("/dev", "tmpfs", TMPFS, _native.MS_NOSUID, "mode=755,size=65536k")
    for name, fd in host.devices.items():
        root.make_file(f"/dev/{name}")
        root.bind(fd, f"/dev/{name}")
    with root.opened("/dev") as dev:
        for name, target in _LINKS.items():
            os.symlink(target, name, dir_fd=dev)
    root.make_directory("/dev/pts")
    flags = _native.MS_NOSUID | _native.MS_NOEXEC
    data = "newinstance,ptmxmode=0666,mode=0620"
    # group 5 (tty) does not exist in a namespace of one id
    root.mount("/dev/pts", "devpts", DEVPTS, flags, data + (",gid=5" if _has_gid(5) else ""))
    root.make_directory("/dev/shm")
    root.mount("/dev/shm", "tmpfs", TMPFS, _QUIET, "mode=1777,size=65536k")
    if host.console is not None:
        root.make_file("/dev/console")
        root.bind(host.console, "/dev/console")


def _has_gid(gid: int) -> bool:
    """user_namespaces(7): lines of first inside, first outside, count."""
    ranges = (
        map(int, line.split()) for line in Path("/proc/self/gid_map").read_text().splitlines()
    )
    return any(first <= gid < first + count for first, _, count in ranges)


def _mount_sys(root: ImageRoot, host: _Host) -> None:
    try:
        root.mount("/sys", "sysfs", SYSFS, _QUIET | _native.MS_RDONLY)
    except ImgmountError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.EPERM:
            raise
        # In a user namespace the kernel refuses to mount sysfs, because the network namespace is
        # the host's. The host's /sys can be bound, but only together with the mounts below it.
        root.bind(host.sys, "/sys", recursive=True)
        root.make_read_only("/sys")


def _write_over(root: ImageRoot, path: str, text: bytes) -> None:
    """Shows text as this file and leaves the image's file as it is: a file of /dev's tmpfs is bound
    over it.

    It is a copy, so that the command cannot edit the host's file. It is unlinked once it is bound.
    """
    name = ".imgmount"
    with root.opened("/dev") as dev:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o644, dir_fd=dev)
        try:
            os.fchmod(fd, 0o644)
            with open(fd, "wb", closefd=False) as file:
                file.write(text)
            root.bind(fd, path)
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=dev)


def _bind_volume(root: ImageRoot, volume: Volume, fd: int) -> None:
    if is_directory(fd):
        root.make_directory(volume.container)
    else:
        root.make_file(volume.container)
    root.bind(fd, volume.container, recursive=True)
    if volume.read_only:
        root.make_read_only(volume.container)
