"""Law: keeps tars, indexes and facts in the cache directory, which several processes may share.

    layers/<diff_id hex>.tar    the tar of a layer that is not read in place, runs of zeros as holes
    archives/<identity>.tar     the contents of a compressed archive, likewise
    .../<same name>.json        the inode and the times that the tar had when it was written
    index/<diff_id hex>.idx     LayerIndex of that tar
    index/file-<identity>.idx   LayerIndex of a tar that was not hashed
    points/<digest hex>.pts     where a decoder can begin in that blob (native/packed/points.h)
    points/<digest hex>.zst     its sidecar: frames of zstd that were too large (reframe.py)
    points/<digest hex>.json    of the sidecar, as of a tar
    chunks/<diff_id hex>.sums   the SHA-256 of each chunk of that tar
    chunks/<diff_id hex>.data   chunks that were decompressed (native/packed/chunkfile.h)
    facts/<identity>.json       the Facts about one stretch of one file
    facts/<identity>.kind       "tar": this archive has no image, it is a root file system

A file appears under its name complete or not at all: it is written as `.tmp-*`, locked while its
writer lives, then renamed.  The next writer removes the files of dead writers.  filestate.py makes
the identities.  Facts are computed, never copied from a manifest, so an open without verification
cannot mislead one with it.

A kept file is used only if it is complete and belongs to its name.  An index has a checksum
(native/index/index.h), and so have the points and the small files (record.py).  These checksums
cover the name too, and are compared at each read.  A tar of gigabytes cannot be hashed at each
mount, nor can a sidecar.  It was hashed in the pass that wrote it, and is used while its size,
inode and times are those of that moment.  After a write to it, or in a copy of the cache, it is
made again.  `verify` finds bytes of it that a bad disk has changed.

The cache must be an own directory (NotPermitted).  So these checks are against damage, not against
another user.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from fusemount._native import CHUNK, FormatError, LayerIndex, Points
from fusemount.beneath import own_directory
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import translated
from fusemount.layer.filestate import TMP, kept_state
from fusemount.layer.tarpass import DIGEST_BYTES, Access
from fusemount.ownfile import is_abandoned, make_file, open_file
from fusemount.record import NOT_THERE, read_sealed, say_damaged, sealed

_VERSION = 1  # of the small files
_Kept = TypeVar("_Kept")
_DIRECTORIES = ("layers", "archives", "index", "points", "chunks", "facts")


@dataclass(frozen=True)
class Facts:
    """What a pass over one stretch of a file found out.  digest: of the bytes as they are stored;
    diff_id and archive_size: of the uncompressed tar.  digest is diff_id if it is not compressed.
    """

    digest: str
    diff_id: str
    archive_size: int


class ChunkDirectory:
    """A descriptor of the directory `chunks`, open as long as somebody has this object."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)


class Cache:
    """The cache directory.  If a file of it is lost, only time is lost.

    Raises NotPermitted if another user could have written to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in (root, *(root / name for name in _DIRECTORIES)):
            with suppress(OSError):  # missing, or root's and not readable: then it is not used
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
        """A descriptor of a kept tar; -1 if it is missing, or changed since it was written."""
        try:
            fd = open_file(path)
        except NOT_THERE:
            return -1
        except OSError as error:
            say_damaged(path, error)
            return -1
        data = read_sealed(path.with_suffix(".json"), _VERSION, _tar_key(path))
        if size in (None, os.fstat(fd).st_size) and data == kept_state(fd):
            return fd
        os.close(fd)
        say_damaged(path, "not the file that was written, or changed since")
        return -1

    def record_tar(self, path: Path, fd: int) -> None:
        """Records the state of the tar at path, which is complete; fd is its descriptor.

        Raises NoSpace, ImgmountError.
        """
        self._keep_small(path.with_suffix(".json"), kept_state(fd), _tar_key(path))

    def drop(self, made: Iterable[Path]) -> None:
        """Removes kept tars. A process that has one open can still read it."""
        for path in made:
            with suppress(OSError):
                path.unlink()
            with suppress(OSError):
                path.with_suffix(".json").unlink()

    def index(self, path: Path) -> LayerIndex | None:
        """The index kept at path; None if it is missing, damaged, or belongs to another name."""
        return _loaded(path, LayerIndex.load)

    def points_path(self, digest: str) -> Path:
        return self.root / "points" / f"{Digest(digest).hex}.pts"

    def sums_path(self, diff_id: str) -> Path:
        return self.root / "chunks" / f"{Digest(diff_id).hex}.sums"

    def access(self, facts: Facts) -> Access | None:
        """What was kept to read this layer in place; None if it is not all there."""
        sums = self.sums(facts.diff_id)
        points = None if sums is None else self.points(facts.digest)
        if sums is None or points is None:
            return None
        if len(sums) != -(-points.tar_bytes // CHUNK) * DIGEST_BYTES:
            say_damaged(self.sums_path(facts.diff_id), "of another tar")
            return None
        return Access(points, sums)

    def sums(self, diff_id: str) -> bytes | None:
        return read_sealed(self.sums_path(diff_id), _VERSION, f"chunks/{diff_id}")

    def points(self, digest: str) -> Points | None:
        return _loaded(self.points_path(digest), Points.load)

    def keep_access(self, facts: Facts, access: Access, sidecar: Path | None) -> Access:
        """sidecar: a temporary file of this cache, which gets its name.  Returns what to use from
        now on: of points in a file, the states are not in memory.

        The points are kept last.  A process that dies before has left none (`forget_points`), so
        the next opening makes a pass, which removes the temporary file of the dead one.
        """
        path = self.points_path(facts.digest)
        sums = self.sums_path(facts.diff_id)
        self._keep_small(sums, access.digests, f"chunks/{facts.diff_id}")
        if sidecar is not None:
            whole = open_file(sidecar)
            try:
                with translated(path, full=f"the cache at {path}"):
                    # It is believed later by its size and times: with holes after a power cut, all
                    # that it is to give would be EIO from then on.
                    os.fsync(whole)
                    os.rename(sidecar, path.with_suffix(".zst"))
                self.record_tar(path.with_suffix(".zst"), whole)
            finally:
                os.close(whole)
        with self.replacing(path) as fd:
            access.points.save(fd, path.name.encode())
        return self.access(facts) or access

    def forget_points(self, digest: str) -> None:
        """To call before a pass keeps anything."""
        with suppress(OSError):
            self.points_path(digest).unlink()

    def open_sidecar(self, digest: str, size: int | None = None) -> int:
        """-1: there is none, or it has changed since it was written."""
        return self.open_tar(self.points_path(digest).with_suffix(".zst"), size)

    @property
    def chunks(self) -> Path:
        """The directory of the chunk cache (chunkcache.py)."""
        return self.root / "chunks"

    def open_chunks(self) -> ChunkDirectory | None:
        """The directory of the chunk cache; None: it cannot be written to, which the log says."""
        path = self.chunks
        try:
            os.close(own_directory(self.root, mode=0o700))
            directory = ChunkDirectory(own_directory(path, mode=0o700))
        except OSError as error:
            _log_unkept(path, error)
            return None
        try:
            os.close(
                os.open(
                    ".",
                    os.O_WRONLY | os.O_TMPFILE | os.O_NOFOLLOW,
                    0o600,
                    dir_fd=directory.fileno(),
                )
            )
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                _log_unkept(path, error)
                return None
        return directory

    def chunks_name(self, diff_id: str) -> str:
        """The name of a tar's file of chunks in that directory."""
        return f"{Digest(diff_id).hex}.data"

    def keep_index(self, path: Path, index: LayerIndex) -> None:
        with self.replacing(path) as fd:
            index.save(fd, path.name.encode())

    @contextmanager
    def replacing(self, path: Path, durable: bool = False) -> Iterator[int]:
        """A descriptor to write to. If the block ends without an error, path becomes that file.

        Raises NoSpace if the disk is full, ImgmountError for other errors.
        """
        with (
            translated(path, full=f"the cache at {path}"),
            self._temporary(path.parent) as (temporary, fd),
        ):
            yield fd
            if durable:
                os.fsync(fd)
            os.rename(temporary, path)

    @contextmanager
    def temporary(self, directory: str) -> Iterator[tuple[Path, int]]:
        """A locked `.tmp-*` file in a directory of the cache, removed afterwards unless renamed."""
        parent = self.root / directory
        with translated(parent, full=f"the cache at {parent}"), self._temporary(parent) as found:
            yield found

    @contextmanager
    def _temporary(self, directory: Path) -> Iterator[tuple[Path, int]]:
        os.close(own_directory(self.root, mode=0o700))
        os.close(own_directory(directory, mode=0o700))
        _sweep(directory)
        path = directory / f"{TMP}{os.getpid()}-{os.urandom(8).hex()}"
        fd = -1
        try:  # a signal may come when the file is made and fd is not set yet
            fd = make_file(path, 0o600, os.O_RDWR)
            with suppress(OSError):  # a file system without locks, where _sweep removes nothing
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield path, fd
        finally:
            with suppress(OSError):  # renamed; or a disk that fails, where _sweep tries again
                path.unlink()
            if fd >= 0:
                os.close(fd)


def _loaded(path: Path, load: Callable[[int, bytes], _Kept]) -> _Kept | None:
    """What load() makes of the file; None if it is missing, damaged, or belongs to another name."""
    try:
        fd = open_file(path)
    except NOT_THERE:
        return None
    except OSError as error:
        say_damaged(path, error)
        return None
    try:
        return load(fd, path.name.encode())
    except (FormatError, OSError) as error:
        say_damaged(path, error)
        return None
    finally:
        os.close(fd)


def _log_unkept(path: Path, error: OSError) -> None:
    import logging

    logging.getLogger("imgmount").warning(
        "%s: %s: what is decompressed cannot be kept, so reading takes longer",
        path,
        error.strerror,
    )  # fmt: skip


def _tar_key(path: Path) -> str:
    """The name that the checksum of a tar's state covers: layers/<hex>, archives/<identity>."""
    return f"{path.parent.name}/{path.stem}"


def _sweep(directory: Path) -> None:
    """Removes temporary files whose writer is dead: their lock is free."""
    for path in directory.glob(TMP + "*"):
        try:
            fd = open_file(path, os.O_RDWR)
        except OSError:
            continue
        try:
            if is_abandoned(fd):
                path.unlink()
        except OSError:
            pass
        finally:
            os.close(fd)
