"""Law: writes an archive or a layout's directory so that it appears complete or not at all.

An archive is written under a temporary name and renamed at the end.  A blob's header has its size
and digest, so it is written after the blob.  In a layout, each blob is renamed to its digest, and
index.json is written last.  After an error, everything that was made is removed.  The same calls
give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from fusemount import tar
from fusemount.codec import PIECE
from fusemount.digest import Digest
from fusemount.errors import translated
from fusemount.image.fields import DOCUMENT_BYTES_MAX
from fusemount.sources.newfile import (
    NewFile,
    Replacing,
    open_directory,
    open_file,
    read_file,
    status,
)
from fusemount.walk import open_parent

Naming = Callable[[Digest], str]


def blob_path(digest: Digest) -> str:
    """The path of a blob in a layout (image-layout.md)."""
    return f"blobs/sha256/{digest.hex}"


class Blob:
    """A blob that is being written, and hashed meanwhile."""

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
    """An archive or layout that is being written.

    blob(): the blob gets the name that `naming` makes of its digest, when the block ends without an
    error.  A name that exists already is not written again.  finish(): everything appears.
    leave(): closes the files; without finish(), what was made is removed.
    All raise NoSpace, ImgmountError.
    """

    def blob(self, naming: Naming = ...) -> AbstractContextManager[Blob]: ...
    def document(self, name: str, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def leave(self) -> None: ...


def _written(path: Path) -> AbstractContextManager[None]:
    """Raises OSErrors of the block as NoSpace or ImgmountError."""
    return translated(f"{path}: cannot be written", full=str(path))


class ArchiveOutput:
    """A tar.  It replaces a regular file or nothing; a symlink's target, not the symlink."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: set[str] = set()
        self._at = 0
        with _written(path):
            self._new = Replacing(path)
        self._fd = self._new.fd

    @contextmanager
    def blob(self, naming: Naming = blob_path) -> Iterator[Blob]:
        with _written(self._path):
            blob = Blob(self._fd, self._at + tar.BLOCK)
            yield blob
            name = naming(blob.digest)
            if name in self._names:  # the next blob is written over this one
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
        with _written(self._path):
            _write(self._fd, tar.END, self._at)
            os.ftruncate(self._fd, self._at + len(tar.END))
            self._new.appear()

    def leave(self) -> None:
        self._new.close()


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(fd, data, at)
        data, at = data[done:], at + done


class StreamOutput(ArchiveOutput):
    """A tar for a pipe: made in an unnamed file in `spool`, then copied to fd at the end."""

    def __init__(self, spool: Path, fd: int) -> None:
        self._path, self._to = spool, fd
        self._names, self._at = set(), 0
        with _written(spool):
            self._file = tempfile.TemporaryFile(dir=spool)
            self._fd = self._file.fileno()

    def finish(self) -> None:
        with _written(self._path):
            _write(self._fd, tar.END, self._at)
            size = self._at + len(tar.END)
            os.ftruncate(self._fd, size)
        at = 0
        while at < size:  # not translated: EPIPE is no error of the spool
            data = memoryview(os.pread(self._fd, PIECE, at))
            while data:
                done = os.write(self._to, data)
                data, at = data[done:], at + done

    def leave(self) -> None:
        self._file.close()


class PlainOutput:
    """One file, as a context manager.  It appears, complete, if the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _written(path):
            self._new = Replacing(path)
        self._at = 0

    def write(self, data: bytes) -> None:
        with _written(self._path):
            _write(self._new.fd, data, self._at)
        self._at += len(data)

    def __enter__(self) -> PlainOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with _written(self._path):
                    self._new.appear()
        finally:
            self._new.close()


class LayoutOutput:
    """An OCI layout's directory, new or existing; other images in an existing one stay.

    oci-layout, which makes a new directory a layout, is written last.  Directories are opened only
    once, so a user who may rename them cannot make us write elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fds: list[int] = []
        self._made: list[tuple[int, str, os.stat_result | None]] = []  # None: a directory
        self._marker = b""
        with _written(path):
            try:
                above, name = open_parent(path)
                self._fds.append(above)
                self._top = self._directory(above, name)
                self._check_free()
                self._blobs = self._directory(self._directory(self._top, "blobs"), "sha256")
            except BaseException:
                self.leave()
                raise

    def _check_free(self) -> None:
        """Raises OSError unless it is a layout, empty, or left by a writer that was killed."""
        if status(self._top, "oci-layout") is not None:
            return
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._top)
        try:
            names = set(os.listdir(fd)) - {"blobs", "index.json"}
        finally:
            os.close(fd)
        if any(not name.startswith(".") for name in names):
            raise OSError(errno.EEXIST, "it is there and no OCI layout")

    def _directory(self, dir_fd: int, name: str) -> int:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=dir_fd)
            self._made.append((dir_fd, name, None))
        fd = open_directory(dir_fd, name)
        self._fds.append(fd)
        return fd

    @contextmanager
    def blob(self, naming: Naming = blob_path) -> Iterator[Blob]:
        with _written(self._path), NewFile(self._blobs, "blob") as new:
            blob = Blob(new.fd, 0)
            yield blob
            name = posixpath.basename(naming(blob.digest))
            if not self._has(name, blob):  # a file that was cut off is replaced
                self._appear(new, self._blobs, name)

    def _has(self, name: str, blob: Blob) -> bool:
        """Whether the file has exactly these bytes: another user may have put others there."""
        st = status(self._blobs, name)
        if st is None or not stat.S_ISREG(st.st_mode) or st.st_size != blob.size:
            return False
        found, left = hashlib.sha256(), blob.size
        with open(open_file(self._blobs, name), "rb", buffering=0) as file:
            while piece := file.read(min(PIECE, left)):
                found.update(piece)
                left -= len(piece)
        return left == 0 and blob.digest == "sha256:" + found.hexdigest()

    def _appear(self, new: NewFile, dir_fd: int, name: str) -> None:
        there = status(dir_fd, name) is not None
        new.appear(name)
        if not there:
            self._made.append((dir_fd, name, os.fstat(new.fd)))

    def document(self, name: str, data: bytes) -> None:
        """Replaces the document of that name; oci-layout is written only by finish()."""
        if name == "oci-layout":
            self._marker = data
        else:
            self._replace(name, data)

    def _replace(self, name: str, data: bytes) -> None:
        with _written(self._path), NewFile(self._top, name) as new:
            _write(new.fd, data, 0)
            self._appear(new, self._top, name)

    def existing_document(self, name: str) -> bytes | None:
        """A document that the layout has already; None if it is missing."""
        with _written(self._path):
            try:
                return read_file(self._top, name, DOCUMENT_BYTES_MAX)
            except FileNotFoundError:
                return None

    def finish(self) -> None:
        if self._marker and status(self._top, "oci-layout") is None:
            self._replace("oci-layout", self._marker)
        self._made.clear()

    def leave(self) -> None:
        """Removes what was made, unless the name leads to another file by now."""
        for dir_fd, name, made in reversed(self._made):
            with suppress(OSError):
                if made is None:
                    os.rmdir(name, dir_fd=dir_fd)
                elif os.path.samestat(made, os.stat(name, dir_fd=dir_fd, follow_symlinks=False)):
                    os.unlink(name, dir_fd=dir_fd)
        self._made.clear()
        while self._fds:
            os.close(self._fds.pop())
