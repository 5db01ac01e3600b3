"""Law: makes one image, one upper with all kinds of changes, and mounts that may be killed.

    Scene(base, launcher, faults)      makes the image and unpacks its layers, once
    scene.prepare(fill)                makes the upper that every case starts from, by a mount
    scene.fresh()                      makes a copy of that upper for one case
    with scene.mounted("fast") as at   the daemon may die in the block
    scene.dump(at), scene.kernel_dump()

A dump is a dict: {path: fields of its dump line}.  A time that the layers do not have is NOW.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imagewriter import docker_archive
from interposer import Interposer
from launcher import Launcher, alive
from layers import rootfs_of
from oracle import dump_directory, unpack, without_layer

from fusemount.rootfs.treetext import dump_lines

TIME = 1_400_000_000_123_456_789  # of all that the layers have, and that cases set
LONG_AGO = 1_500_000_000
NOW = b"now"
MODES = {"fast": "fastpath=on,threads=1,suid,dev", "pyfuse3": "fastpath=off,suid,dev"}
HARMLESS = "harmless"  # nosuid,nodev: root mounts images so
_OPTIONS = MODES | {HARMLESS: "fastpath=on,threads=1"}
Fields = tuple[bytes, ...]
Dump = dict[bytes, Fields]

_KIND, _TIME = 0, 5  # in a line, the path taken off

_libc = ctypes.CDLL(None, use_errno=True)
_DETACH = 2


def _call(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(kind: str, at: Path, options: str) -> None:
    """mount(2), without starting mount(8)."""
    done = _libc.mount(kind.encode(), os.fsencode(at), kind.encode(), 0, os.fsencode(options))
    _call(done, f"mount {kind} {options}")


def unmount(at: Path, *, lazy: bool = False) -> None:
    _call(_libc.umount2(os.fsencode(at), _DETACH if lazy else 0), f"umount {at}")


class Scene:
    def __init__(
        self, base: Path, launcher: Launcher, faults: Interposer, tars: Sequence[bytes]
    ) -> None:
        self.base, self._launcher, self.faults, self._tars = base, launcher, faults, tars
        self.image = docker_archive(base / "image.tar", list(tars))
        self._layers = [unpack(tar, base / f"layer{i}") for i, tar in enumerate(tars)]
        self.template = base / "template"
        self.place(base / "case")
        for name in ("mnt", "kernel"):
            (base / name).mkdir()

    def place(self, case: Path) -> None:
        """The directory for the cases' uppers from now on, perhaps on another file system."""
        self.case = case
        self.upper, self.work = case / "upper", case / "work"
        self.faults.watch(case)

    def prepare(self, fill: Callable[[Path], None]) -> None:
        self.case.mkdir()
        with self.mounted("fast") as at:
            fill(at)
        self.case.rename(self.template)

    def fresh(self) -> None:
        if self.case.exists():
            shutil.rmtree(self.case)
        subprocess.run(["cp", "-a", self.template, self.case], check=True)

    # ---- mounts ---------------------------------------------------------------------------

    @contextmanager
    def mounted(self, mode: str) -> Iterator[Path]:
        """A mount of the case.  At the end of the block the daemon has ended, killed or not.

        `ended` is its exit status.  Raises AssertionError if it failed without being killed.
        """
        at = self.base / "mnt"
        pid = self._launcher.mount(
            at, self.image, "--upper", self.upper, "--work", self.work, "-o", _OPTIONS[mode]
        )
        self.pid = pid
        try:
            yield at
        finally:
            self.faults.disarm()
            self._take_down(at, pid)
            self.ended = self._launcher.wait(pid)
        assert self.ended in (0, -signal.SIGKILL), self._launcher.log.read_text()[-2000:]

    def _take_down(self, at: Path, pid: int) -> None:
        if not alive(pid):
            unmount(at, lazy=True)
            return
        end = time.monotonic() + 10
        try:
            while True:
                try:
                    unmount(at)
                    break
                except OSError as e:
                    if e.errno != errno.EBUSY or time.monotonic() > end:
                        raise
                    time.sleep(0.002)
            while alive(pid) and time.monotonic() < end:
                time.sleep(0.001)
        finally:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

    def dies(self) -> bool:
        """Whether the daemon has ended or is ending."""
        end = time.monotonic() + 1
        while alive(self.pid) and time.monotonic() < end:
            time.sleep(0.001)
        return not alive(self.pid)

    # ---- what is seen ---------------------------------------------------------------------

    def dump(self, at: Path) -> Dump:
        return parse(dump_directory(at))

    def dump_of_upper(self) -> Dump:
        """What the next mount shows of an upper that is not mounted."""
        with rootfs_of(self._tars, upper=self.upper, work=self.work) as rootfs:
            return parse(without_layer(list(dump_lines(rootfs, digest=True))))

    def dump_of_copy(self) -> Dump:
        """What the next mount would show of the mounted upper as it is now, from a copy."""
        copy = self.case.with_name("copy")
        subprocess.run(["cp", "-a", self.case, copy], check=True)
        try:
            with rootfs_of(self._tars, upper=copy / "upper", work=copy / "work") as rootfs:
                return parse(without_layer(list(dump_lines(rootfs, digest=True))))
        finally:
            shutil.rmtree(copy)

    def seen(self, mode: str) -> Dump:
        """The dump of the case's upper, from a new mount."""
        with self.mounted(mode) as at:
            return self.dump(at)

    def kernel_dump(self) -> Dump:
        """The dump of the case's upper in the kernel's overlayfs, over the unpacked layers."""
        work, at = self.case / "kernel-work", self.base / "kernel"
        work.mkdir()
        lower = ":".join(str(layer) for layer in reversed(self._layers))
        options = f"lowerdir={lower},upperdir={self.upper},workdir={work}"
        mount("overlay", at, options + ",redirect_dir=on,metacopy=on,index=off")
        try:
            return self.dump(at)
        except OSError as e:
            raise AssertionError(f"the kernel's overlayfs: {e}") from e
        finally:
            unmount(at)
            shutil.rmtree(work)

    def left_in_work(self) -> list[str]:
        return os.listdir(self.work / "work")


def parse(lines: Iterable[bytes]) -> Dump:
    found = {}
    for line in lines:
        path, *fields = line.split(b" ")
        if float(fields[_TIME]) >= LONG_AGO:
            fields[_TIME] = NOW
        found[path] = tuple(fields)
    return found


def unlike(found: Dump, wanted: Dump, loose: Collection[bytes] = ()) -> str:
    """The differences of a dump from the wanted one; empty if there are none.

    The time of a directory may be the new or the old one: an object is moved into it from the work
    directory by one call, and the time is set by another.
    """
    lines = []
    for path in sorted(found.keys() | wanted.keys()):
        a, b = found.get(path), wanted.get(path)
        if a and b and a[_KIND] == b[_KIND]:
            a, b = _comparable(path, a, b, loose)
        if a != b:
            lines += [f"   is     {_text(path, a)}", f"   not    {_text(path, b)}"]
    return "\n".join(lines)


def _comparable(
    path: bytes, found: Fields, wanted: Fields, loose: Collection[bytes]
) -> tuple[Fields, Fields]:
    if path in loose or (found[_KIND] == b"d" and found[_TIME] == NOW):
        wanted = (*wanted[:_TIME], found[_TIME], *wanted[_TIME + 1 :])
    return found, wanted


def _text(path: bytes, fields: Fields | None) -> str:
    return b" ".join((path, *(fields or (b"(absent)",)))).decode()
