"""Law: a medium that an image is written to, an archive or a layout's directory, appears whole or
not at all.

An archive is written beside its place and renamed at the end; a blob's header, which has to tell
its size and digest, is written when the blob has ended.  In a layout blobs come first, each renamed
to its digest, and index.json last.  What an error leaves is taken away again.  The same calls give
the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from fusemount import tar
from fusemount.codec import PIECE
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, NoSpace

Naming = Callable[[Digest], str]


def blob_path(digest: Digest) -> str:
    """As a layout has it (image-layout.md)."""
    return f"blobs/sha256/{digest.hex}"


class Blob:
    """Bytes on their way into a medium, hashed as they pass."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._at = fd, offset
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, self._at)
            self._at += done
            self.size += done
            view = view[done:]

    @property
    def digest(self) -> Digest:
        return Digest("sha256:" + self._hash.hexdigest())


class Output(Protocol):
    """A blob's bytes stand under the name that their digest gives them, once its block ended well;
    a name that is there already is not written again.  finish() makes all of it appear; leave()
    without it takes it away.  All raise NoSpace and ImgmountError."""

    def blob(self, naming: Naming = ...) -> AbstractContextManager[Blob]: ...
    def document(self, name: str, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def leave(self) -> None: ...


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """The one translator of the medium's errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{path}: {os.strerror(error.errno)}") from error
        raise ImgmountError(f"{path}: cannot be written: {error.strerror or error}") from error


def _temporary(path: Path) -> tuple[Path, int]:
    """A new file beside path, with the permissions that a new file gets."""
    name = path.with_name(f".{path.name[:200]}.{os.getpid()}-{os.urandom(4).hex()}")
    return name, os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


class ArchiveOutput:
    """A tar; of a symlink it is the target that is replaced, and nothing but a file is."""

    def __init__(self, path: Path) -> None:
        self._path = path = Path(os.path.realpath(path))
        self._names: set[str] = set()
        self._at = 0
        with translated(path):
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                raise OSError(errno.EEXIST, "it is there and no regular file")
            self._temporary, self._fd = _temporary(path)

    @contextmanager
    def blob(self, naming: Naming = blob_path) -> Iterator[Blob]:
        with translated(self._path):
            blob = Blob(self._fd, self._at + tar.BLOCK)
            yield blob
            name = naming(blob.digest)
            if name in self._names:  # the next one is written over it
                return
            self._names.add(name)
            self._head(name, blob.size)

    def document(self, name: str, data: bytes) -> None:
        with self.blob(lambda _: name) as blob:
            blob.write(data)

    def _head(self, name: str, size: int) -> None:
        _write(self._fd, tar.one_block(name.encode(), size), self._at)
        self._at += tar.BLOCK + size
        _write(self._fd, tar.padding(size), self._at)
        self._at += len(tar.padding(size))

    def finish(self) -> None:
        with translated(self._path):
            _write(self._fd, tar.END, self._at)
            os.ftruncate(self._fd, self._at + len(tar.END))
            os.fsync(self._fd)
            os.rename(self._temporary, self._path)

    def leave(self) -> None:
        os.close(self._fd)
        with suppress(OSError):  # renamed, when all went well
            self._temporary.unlink()


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(fd, data, at)
        data, at = data[done:], at + done


class StreamOutput(ArchiveOutput):
    """A tar for a pipe: made in a file without a name below `spool`, then copied to fd at once."""

    def __init__(self, spool: Path, fd: int) -> None:
        self._path, self._to = spool, fd
        self._names, self._at = set(), 0
        with translated(spool):
            self._file = tempfile.TemporaryFile(dir=spool)
            self._fd = self._file.fileno()

    def finish(self) -> None:
        with translated(self._path):
            _write(self._fd, tar.END, self._at)
            size = self._at + len(tar.END)
            os.ftruncate(self._fd, size)
        at = 0
        while at < size:  # a reader that is gone is not the spool's error
            data = memoryview(os.pread(self._fd, PIECE, at))
            while data:
                done = os.write(self._to, data)
                data, at = data[done:], at + done

    def leave(self) -> None:
        self._file.close()


class PlainOutput:
    """One file, as a context manager: it is there, whole, once the block ended well."""

    def __init__(self, path: Path) -> None:
        self._path = path = Path(os.path.realpath(path))
        with translated(path):
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                raise OSError(errno.EEXIST, "it is there and no regular file")
            self._temporary, self._fd = _temporary(path)
        self._at = 0

    def write(self, data: bytes) -> None:
        with translated(self._path):
            _write(self._fd, data, self._at)
        self._at += len(data)

    def __enter__(self) -> PlainOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with translated(self._path):
                    os.fsync(self._fd)
                    os.rename(self._temporary, self._path)
        finally:
            os.close(self._fd)
            with suppress(OSError):  # renamed, when all went well
                self._temporary.unlink()


class LayoutOutput:
    """An OCI layout's directory, new or one that is there: then its other images stay.

    A new one is a layout once it has its oci-layout, which comes last.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: list[Path] = []
        self._marker = b""
        with translated(path):
            try:
                if path.is_dir() and not (path / "oci-layout").exists():
                    self._check_free(path)
                for directory in (path, path / "blobs", path / "blobs" / "sha256"):
                    self._directory(directory)
            except OSError:
                self.leave()
                raise

    @staticmethod
    def _check_free(path: Path) -> None:
        """Nothing is in it, or what was left when a layout's writer was killed."""
        names = set(os.listdir(path)) - {"blobs", "index.json"}
        if any(not name.startswith(".") for name in names):
            raise OSError(errno.EEXIST, "it is there and no OCI layout")

    def _directory(self, path: Path) -> None:
        try:
            path.mkdir()
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            self._made.append(path)

    @contextmanager
    def blob(self, naming: Naming = blob_path) -> Iterator[Blob]:
        with translated(self._path):
            with self._appearing(self._path / "blobs" / "sha256" / "blob") as (temporary, fd):
                blob = Blob(fd, 0)
                yield blob
                path = self._path / naming(blob.digest)
                there = path.exists()
                if there and path.stat().st_size == blob.size:
                    return
                os.fsync(fd)
                self._made += [] if there else [path]  # one that was cut off is made whole
                os.rename(temporary, path)

    @contextmanager
    def _appearing(self, path: Path) -> Iterator[tuple[Path, int]]:
        temporary, fd = _temporary(path)
        try:
            yield temporary, fd
        finally:
            os.close(fd)
            with suppress(OSError):  # renamed, when all went well: then nothing may fail any more
                temporary.unlink()

    def document(self, name: str, data: bytes) -> None:
        """Replaces one of that name; oci-layout, which never changes, waits for the end."""
        if name == "oci-layout":
            self._marker = data
        else:
            self._replace(name, data)

    def _replace(self, name: str, data: bytes) -> None:
        path = self._path / name
        with translated(self._path), self._appearing(path) as (temporary, fd):
            _write(fd, data, 0)
            os.fsync(fd)
            if not path.exists():
                self._made.append(path)
            os.rename(temporary, path)

    def there(self, name: str) -> bytes | None:
        """A document of the layout, None: not there."""
        with translated(self._path):
            try:
                return (self._path / name).read_bytes()
            except FileNotFoundError:
                return None

    def finish(self) -> None:
        if self._marker and not (self._path / "oci-layout").exists():
            self._replace("oci-layout", self._marker)
        self._made.clear()

    def leave(self) -> None:
        for path in reversed(self._made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
