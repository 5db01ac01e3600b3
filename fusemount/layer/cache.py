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

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from fusemount._native import FormatError, LayerIndex
from fusemount.beneath import own_directory
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import of_os_error
from fusemount.layer.filestate import TMP, kept_state
from fusemount.ownfile import is_abandoned, make_file, open_file
from fusemount.record import NOT_THERE, read_sealed, say_damaged, sealed

_VERSION = 1  # of the small files
_DIRECTORIES = ("layers", "archives", "index", "facts")


@dataclass(frozen=True)
class Facts:
    """What the bytes of one stretch are.  digest: of the bytes as they stand; diff_id and
    archive_size: of the uncompressed tar; the same digest where it stands uncompressed."""

    digest: str
    diff_id: str
    archive_size: int


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
        if size in (None, os.fstat(fd).st_size) and data == kept_state(fd):
            return fd
        os.close(fd)
        say_damaged(path, "not the file that was written, or changed since")
        return -1

    def record_tar(self, path: Path, fd: int) -> None:
        """fd is the whole tar that now stands at path.  Raises NoSpace, ImgmountError."""
        self._keep_small(path.with_suffix(".json"), kept_state(fd), _tar_key(path))

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
        raise of_os_error(error, f"the cache at {path}", str(path)) from error


def _sweep(directory: Path) -> None:
    """Removes temporary files whose writer is dead: nobody holds their lock."""
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
