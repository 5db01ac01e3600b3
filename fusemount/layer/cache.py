"""Law: what the cache directory keeps, and how it gets there so that processes can share it.

    layers/<diff_id hex>.tar    a compressed layer's tar, runs of zeros as holes
    archives/<identity>.tar     what a compressed archive holds, likewise
    .../<same name>.json        which inode in which state that tar is
    index/<diff_id hex>.idx     LayerIndex of that tar
    index/file-<identity>.idx   LayerIndex of a tar that nobody has hashed
    facts/<identity>.json       what was found out about the bytes at one place of one file
    facts/<identity>.kind       "tar": this archive holds no image, it is a root file system

A file appears under its name whole or not at all: it is written as `.tmp-*`, locked while its
writer lives, then renamed.  What a dead writer left is swept by the next one.  An identity names
a stretch of one state of one file: device, inode, size, mtime, ctime, offset, length.  Facts are
computed, never copied from a manifest, so an unverified open cannot mislead a verified one.

Nothing kept is believed unless it is whole, and of the name that it has.  An index has a checksum
(native/index/index.h), the small files have one (record.py), both of the name too: they are
compared whenever they are read.  A tar of gigabytes cannot be
hashed at each mount: it was, in the pass that wrote it, and is used while it is the very file that
was written then, in size, inode and times; after any write to it, or a copy of the cache, it is
made again.  What a disk changes by itself in a tar, `verify` finds.  The directories must be ours
(NotPermitted), so all of this is against damage, not against who could write there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from fusemount._native import FormatError, LayerIndex, fs_type
from fusemount.beneath import fd_path, own_directory
from fusemount.budget import check_room
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, NoSpace
from fusemount.ownfile import make_file, open_file
from fusemount.record import NOT_THERE, read_sealed, say_damaged, sealed

TMP = ".tmp-"
HOLE = 1 << 16  # a run of zeros is looked for in pieces of this size
_ZEROS = bytes(HOLE)
_THIS_PROCESS = os.urandom(16)
# linux/magic.h: ext2 to ext4, XFS, btrfs, F2FS; bcachefs and ZFS by their own headers
_CTIME_IS_THE_KERNELS = frozenset(
    (0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E, 0x2FC12FC1)
)
_TMPFS = 0x01021994  # its ctime is the kernel's, but no store through mmap(2) changes it
_VERSION = 1  # of the small files
_DIRECTORIES = ("layers", "archives", "index", "facts")
_CLOCK_TICK_NS = 20_000_000  # a kernel's file clock ticks every 1 to 10 ms


@dataclass(frozen=True)
class Facts:
    """What the bytes of one stretch are.  digest: of the bytes as they stand; diff_id and
    archive_size: of the uncompressed tar; the same digest where it stands uncompressed."""

    digest: str
    diff_id: str
    archive_size: int


def identity(fd: int, offset: int, length: int) -> str:
    """Names the state of a stretch of a file; changes whenever the file is written to.

    Where inode numbers and ctime come from an image or a server (FUSE, squashfs, NFS …), another
    file may have them all alike tomorrow, and on tmpfs stores through mmap(2) change no time: there
    the name is good for this process only, and what is kept under it is swept as a leftover.

    This is no guard against another user who can write to the file (docs/security.md, "Files of
    others"): the contents are read in place, after they were verified too; and root can set back
    the clock.
    """
    st = os.fstat(fd)
    parts = (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, offset, length)
    if fs_type(fd) in _CTIME_IS_THE_KERNELS:
        return hashlib.sha256(repr(parts).encode()).hexdigest()
    return TMP + hashlib.sha256(repr((*parts, _THIS_PROCESS)).encode()).hexdigest()


def lasting(fd: int, key: str) -> str:
    """The name for what is found out about a file's state from now on: its identity, or one that is
    good for this process alone, where somebody has the file open for writing.

    A store through a mapping changes the times only at the first write to a page since the page was
    last written back, so who has written already can write unseen. Who opens the file later cannot:
    their first write to each page is seen. A lease says which of the two holds (fcntl(2)); to ask,
    one must be root or the file's owner. Others believe the file's owner.
    """
    if key.startswith(TMP) or not _is_being_written(fd):
        return key
    return TMP + hashlib.sha256(key.encode() + _THIS_PROCESS).hexdigest()


def _is_being_written(fd: int) -> bool:
    """Also through a mapping whose descriptor is closed. False where that cannot be told."""
    try:
        again = os.open(fd_path(fd), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Who opens it for writing in this moment makes the kernel send a signal, by default SIGIO,
        # which would end us; SIGURG is ignored.
        fcntl.fcntl(again, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(again)
    return False


def _state(fd: int) -> bytes:
    """What tells a file from every other, and from itself after a write.  Where ctime and inode
    numbers are another's (identity() says where), only size and mtime last."""
    st = os.fstat(fd)
    told = [st.st_size, st.st_mtime_ns]
    if fs_type(fd) in _CTIME_IS_THE_KERNELS | {_TMPFS}:  # nobody maps what is ours
        told += [st.st_ino, st.st_ctime_ns]
    return json.dumps(told).encode()


def await_new_ctime(fd: int) -> None:
    """Waits until a write from now on would change the file's identity.

    A file written to within the last tick of the clock could change again without a new ctime.
    """
    age = time.time_ns() - os.fstat(fd).st_ctime_ns
    if 0 <= age < _CLOCK_TICK_NS:
        time.sleep((_CLOCK_TICK_NS - age) / 1e9)


class Cache:
    """The cache directory.  Losing anything in it costs time only.

    Raises NotPermitted where another user could have put something into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in (root, *(root / name for name in _DIRECTORIES)):
            with suppress(OSError):  # not there, or root's, and nothing of it can be read
                os.close(own_directory(path, make=False))

    def layer_path(self, diff_id: str) -> Path:
        return self.root / "layers" / f"{Digest(diff_id).hex}.tar"

    def archive_path(self, key: str) -> Path:
        return self.root / "archives" / f"{key}.tar"

    def index_path(self, diff_id: str | None, key: str) -> Path:
        mark = TMP if key.startswith(TMP) else ""
        name = f"{mark}file-{key}.idx" if diff_id is None else f"{Digest(diff_id).hex}.idx"
        return self.root / "index" / name

    def facts_path(self, key: str) -> Path:
        return self.root / "facts" / f"{key}.json"

    def facts(self, key: str) -> Facts | None:
        data = read_sealed(self.facts_path(key), _VERSION, f"facts/{key}")
        return None if data is None else Facts(**json.loads(data))

    def keep_facts(self, key: str, facts: Facts) -> None:
        data = json.dumps(asdict(facts)).encode()
        self._keep_small(self.facts_path(key), data, f"facts/{key}")

    def _keep_small(self, path: Path, data: bytes, key: str) -> None:
        with self.replacing(path) as fd:
            os.write(fd, sealed(data, _VERSION, key))

    def kind(self, key: str) -> str:
        path = self.root / "facts" / f"{key}.kind"
        return (read_sealed(path, _VERSION, f"kind/{key}") or b"").decode("ascii")

    def keep_kind(self, key: str, kind: str) -> None:
        path = self.root / "facts" / f"{key}.kind"
        self._keep_small(path, kind.encode("ascii"), f"kind/{key}")

    def open_tar(self, path: Path, size: int | None = None) -> int:
        """A descriptor of a kept tar; -1 where it is not there as it was written."""
        try:
            fd = open_file(path)
        except NOT_THERE:
            return -1
        except OSError as error:
            say_damaged(path, error)
            return -1
        data = read_sealed(path.with_suffix(".json"), _VERSION, _tar_key(path))
        if size in (None, os.fstat(fd).st_size) and data == _state(fd):
            return fd
        os.close(fd)
        say_damaged(path, "not the file that was written, or changed since")
        return -1

    def record_tar(self, path: Path, fd: int) -> None:
        """fd is the whole tar that now stands at path.  Raises NoSpace, ImgmountError."""
        self._keep_small(path.with_suffix(".json"), _state(fd), _tar_key(path))

    def drop(self, made: Iterable[Path]) -> None:
        """Takes kept tars away; who has one open reads on."""
        for path in made:
            with suppress(OSError):
                path.unlink()
            with suppress(OSError):
                path.with_suffix(".json").unlink()

    def index(self, path: Path) -> LayerIndex | None:
        """The index kept at path, None where there is none or it is damaged or another's."""
        try:
            fd = open_file(path)
        except NOT_THERE:
            return None
        except OSError as error:
            say_damaged(path, error)
            return None
        try:
            return LayerIndex.load(fd, path.name.encode())
        except (FormatError, OSError) as error:
            say_damaged(path, error)
            return None
        finally:
            os.close(fd)

    def keep_index(self, path: Path, index: LayerIndex) -> None:
        with self.replacing(path) as fd:
            index.save(fd, path.name.encode())

    @contextmanager
    def replacing(self, path: Path, durable: bool = False) -> Iterator[int]:
        """A descriptor to write to; path holds what was written once the block ends well.

        Raises NoSpace when the disk is full, ImgmountError for its other errors.
        """
        with _translated(path), self._temporary(path.parent) as (temporary, fd):
            yield fd
            if durable:
                os.fsync(fd)
            os.rename(temporary, path)

    @contextmanager
    def temporary(self, directory: str) -> Iterator[tuple[Path, int]]:
        """A locked `.tmp-*` file in a directory of the cache; gone afterwards unless renamed."""
        parent = self.root / directory
        with _translated(parent), self._temporary(parent) as found:
            yield found

    @contextmanager
    def _temporary(self, directory: Path) -> Iterator[tuple[Path, int]]:
        os.close(own_directory(self.root, mode=0o700))
        os.close(own_directory(directory, mode=0o700))
        _sweep(directory)
        path = directory / f"{TMP}{os.getpid()}-{os.urandom(8).hex()}"
        fd = -1
        try:  # the file is there before its number is: a signal may come in between
            fd = make_file(path, 0o600, os.O_RDWR)
            with suppress(OSError):  # a file system without locks: nothing is swept there either
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield path, fd
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
            if fd >= 0:
                os.close(fd)


def _tar_key(path: Path) -> str:
    """Of a kept tar's state: layers/<hex>, archives/<identity>."""
    return f"{path.parent.name}/{path.stem}"


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the cache at {path}: {os.strerror(error.errno)}") from error
        raise ImgmountError(f"{path}: {error.strerror or error}") from error


def _sweep(directory: Path) -> None:
    """Removes temporary files whose writer is dead: nobody holds their lock."""
    for path in directory.glob(TMP + "*"):
        try:
            fd = open_file(path, os.O_RDWR)
        except OSError:
            continue
        try:
            # a writer between creating and locking its file is younger than this
            old = time.time() - os.fstat(fd).st_mtime > 60
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if old:
                path.unlink()
        except OSError:
            pass
        finally:
            os.close(fd)


class SparseWriter:
    """Writes a stream to a descriptor with runs of zeros as holes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = 0

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        for start, stop in _data_runs(piece):
            check_room(self._fd, stop - start)
            at = start
            while at < stop:
                at += os.pwrite(self._fd, view[at:stop], self.size + at)
        self.size += len(piece)

    def finish(self) -> None:
        """Must be called: the end may be a hole."""
        os.ftruncate(self._fd, self.size)


def _data_runs(piece: bytes) -> Iterable[tuple[int, int]]:
    """The stretches of piece that are not all zero, joined where they touch."""
    start = None
    for at in range(0, len(piece), HOLE):
        part = piece[at : at + HOLE]
        if part == _ZEROS[: len(part)]:
            if start is not None:
                yield start, at
                start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, len(piece)
