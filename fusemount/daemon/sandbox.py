"""Law: turns a mounted image into the root of this process, with /proc, /sys, /dev and volumes.

Runs as pid 1 of a new pid namespace, before the command.  It is a separation of views, as chroot
is, with nothing left behind; it is no wall against a hostile image run as root.

What comes from the host is opened (O_PATH) before the root changes and bound from
/proc/self/fd/N after it.  So every target is resolved by the kernel inside the image: a symlink in
the image cannot lead a mount out of it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from fusemount import _native
from fusemount.daemon.command import Volume
from fusemount.errors import ImgmountError

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
          "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx", "core": "/proc/kcore"}  # fmt: skip
_QUIET = _native.MS_NOSUID | _native.MS_NOEXEC | _native.MS_NODEV


@dataclass(frozen=True)
class Sandbox:
    """root: where the image is mounted. hostname: None keeps the host's."""

    root: Path
    volumes: tuple[Volume, ...] = ()
    hostname: str | None = None
    read_only: bool = False


@dataclass(frozen=True)
class _Host:
    """What of the host is needed after it is out of reach: descriptors and two files' text."""

    devices: dict[str, int]
    volumes: list[tuple[Volume, int]]
    sys: int
    console: int | None
    resolv_conf: bytes
    hosts: bytes


def enter(sandbox: Sandbox) -> None:
    """Makes the image our root. Raises ImgmountError naming the step that failed."""
    _native.unshare(_native.CLONE_NEWNS | _native.CLONE_NEWUTS | _native.CLONE_NEWIPC)
    _native.mount("", "/", "", _native.MS_REC | _native.MS_PRIVATE, "")
    host = _open_host(sandbox)  # after unshare: only mounts of one's own namespace can be bound
    os.chdir(sandbox.root)
    # pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one, from where
    # the descriptors above still lead into it, until the umount at the end.
    _native.pivot_root(".", ".")
    os.chdir("/")
    _make_dir("/proc")
    _native.mount("proc", "/proc", "proc", _QUIET, "")
    _mount_dev(host)
    _mount_sys(host)
    _write_over("/etc/resolv.conf", host.resolv_conf)
    _write_over("/etc/hosts", host.hosts)
    for volume, fd in host.volumes:
        _bind_volume(volume, fd)
    if sandbox.hostname is not None:
        socket.sethostname(sandbox.hostname)
    _native.umount2(".", _native.MNT_DETACH)
    os.chdir("/")
    if sandbox.read_only:
        _make_read_only("/")


def _open_host(sandbox: Sandbox) -> _Host:
    def handle(path: Path) -> int:
        try:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise ImgmountError(f"{path}: {os.strerror(error.errno or 0)}") from error

    devices = {name: handle(Path("/dev", name)) for name in _DEVICES}
    volumes = [(volume, handle(volume.host)) for volume in sandbox.volumes]
    console = handle(Path(os.ttyname(0))) if os.isatty(0) else None
    hosts = _text("/etc/hosts") or b"127.0.0.1\tlocalhost\n::1\tlocalhost\n"
    if sandbox.hostname:
        hosts += f"127.0.1.1\t{sandbox.hostname}\n".encode()
    return _Host(devices, volumes, handle(Path("/sys")), console,
                 _text("/etc/resolv.conf"), hosts)  # fmt: skip


def _text(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _step(path: str, error: OSError) -> ImgmountError:
    return ImgmountError(f"cannot set up {path} in the image: {os.strerror(error.errno or 0)}")


def _make_dir(path: str, mode: int = 0o755) -> None:
    try:
        os.makedirs(path, mode, exist_ok=True)
    except OSError as error:
        raise _step(path, error) from error


def _make_file(path: str) -> None:
    """A place to bind a file on; what is there is left as it is."""
    _make_dir(os.path.dirname(path))
    try:
        if not os.path.exists(path):
            # Through a symlink that leads nowhere yet, too, as docker does for resolv.conf.
            real = os.path.realpath(path)
            os.makedirs(os.path.dirname(real), exist_ok=True)
            os.close(os.open(real, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise _step(path, error) from error


def _bind(fd: int, target: str, *, recursive: bool = False) -> None:
    flags = _native.MS_BIND | (_native.MS_REC if recursive else 0)
    try:
        _native.mount(f"/proc/self/fd/{fd}", target, "", flags, "")
    except OSError as error:
        raise _step(target, error) from error


def _make_read_only(target: str, *, recursive: bool = False) -> None:
    """One mount, or with all below it, which a remount could not reach. Linux 5.12."""
    flags = _native.AT_RECURSIVE if recursive else 0
    try:
        _native.mount_setattr(target, flags, _native.MOUNT_ATTR_RDONLY)
    except OSError as error:
        raise _step(target, error) from error


def _mount_dev(host: _Host) -> None:
    _make_dir("/dev")
    _native.mount("tmpfs", "/dev", "tmpfs", _native.MS_NOSUID, "mode=755,size=65536k")
    for name, fd in host.devices.items():
        _make_file(f"/dev/{name}")
        _bind(fd, f"/dev/{name}")
    for name, target in _LINKS.items():
        os.symlink(target, f"/dev/{name}")
    _make_dir("/dev/pts")
    flags = _native.MS_NOSUID | _native.MS_NOEXEC
    data = "newinstance,ptmxmode=0666,mode=0620"
    try:
        _native.mount("devpts", "/dev/pts", "devpts", flags, data + ",gid=5")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise _step("/dev/pts", error) from error
        # group 5 (tty) does not exist in a namespace of one id
        _native.mount("devpts", "/dev/pts", "devpts", flags, data)
    _make_dir("/dev/shm")
    _native.mount("shm", "/dev/shm", "tmpfs", _QUIET, "mode=1777,size=65536k")
    if host.console is not None:
        _make_file("/dev/console")
        _bind(host.console, "/dev/console")


def _mount_sys(host: _Host) -> None:
    _make_dir("/sys")
    try:
        _native.mount("sysfs", "/sys", "sysfs", _QUIET | _native.MS_RDONLY, "")
    except OSError as error:
        if error.errno != errno.EPERM:
            raise _step("/sys", error) from error
        # The network namespace is the host's, so its sysfs is not ours to mount, only to bind;
        # what is mounted below it is locked together with it.
        _bind(host.sys, "/sys", recursive=True)
        _make_read_only("/sys", recursive=True)


def _write_over(path: str, text: bytes) -> None:
    """Shows text as this file without changing the image's own: a file of /dev's tmpfs, bound over.

    A copy, so that nothing in here can edit the host's; unlinked once bound.
    """
    source = "/dev/.imgmount"
    Path(source).write_bytes(text)
    os.chmod(source, 0o644)
    _make_file(path)
    fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        _bind(fd, path)
    finally:
        os.close(fd)
        os.unlink(source)


def _bind_volume(volume: Volume, fd: int) -> None:
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        _make_dir(volume.container)
    else:
        _make_file(volume.container)
    _bind(fd, volume.container, recursive=True)
    if volume.read_only:
        _make_read_only(volume.container, recursive=True)
