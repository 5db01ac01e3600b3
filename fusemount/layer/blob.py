"""Law: describes a layer that is a tar: as an image stores it (LayerBlob), or open (OpenLayer)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from fusemount._native import LayerIndex, Packed
from fusemount.beneath import to_read
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, ImgmountError

Rebuild = Callable[["OpenLayer"], LayerIndex]

_PIECE = 1 << 20  # bytes that are read from a compressed tar at once


class BlobFile:
    """A regular file that is opened when its descriptor is first used.

    An OCI layout may have 500 layers; few of them need a descriptor at the same time.  close() may
    be called twice; a later use opens the file again.
    one_of_many: each layer has a file of its own, so release() closes the file.  An archive of
    several layers stays open instead, so that all its layers are read from one state of the file.
    open_it: opens the file, given flags; for a path whose symlinks must not be followed.
    """

    def __init__(
        self, path: Path, one_of_many: bool = False, open_it: Callable[[int], int] | None = None
    ) -> None:
        self.path = path
        self._one_of_many = one_of_many
        self._open = open_it or (lambda flags: os.open(path, flags))
        self._fd = -1

    @property
    def fd(self) -> int:
        """Raises ImageNotFound: missing, or no regular file; ImgmountError: not readable."""
        if self._fd < 0:
            try:
                self._fd = to_read(self._open(os.O_PATH | os.O_CLOEXEC))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ImageNotFound(f"{self.path}: {error.strerror}") from None
            except OSError as error:
                link = "a symlink where none may be, or a loop of them"
                why = link if error.errno == errno.ELOOP else error.strerror
                if error.errno == errno.EINVAL:
                    raise ImageNotFound(f"{self.path}: {why}") from None
                raise ImgmountError(f"{self.path}: {why}") from error
        return self._fd

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def release(self) -> None:
        """Call it when the descriptor is not needed for now (see one_of_many)."""
        if self._one_of_many:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def measured(file: BlobFile, offset: int, size: int) -> tuple[str, int]:
    """(what these bytes of the file are on the disk, how many of them are there at most).

    For Budget.announce(): bytes that have several names are the same bytes, and holes are none.
    """
    st = os.fstat(file.fd)
    try:
        hole = os.lseek(file.fd, offset, os.SEEK_HOLE)
    except OSError:  # offset is at the end of the file
        hole = st.st_size
    file.release()
    there = size if hole >= offset + size else min(size, st.st_blocks * 512)
    return f"{st.st_dev} {st.st_ino} {offset} {size}", there


@dataclass(frozen=True)
class LayerBlob:
    """A layer as the image stores it, perhaps compressed.

    diff_id, digest: as config and manifest claim, None if they claim none.
    The blob is size bytes of file, from offset; none of them has been read.
    media_type: as the manifest claims, else ""; readers go by the magic of the bytes.
    description: for messages, like "ubuntu.tar: layer 2 of 3 (blobs/sha256/ab12...)".
    """

    diff_id: Digest | None
    digest: Digest | None
    media_type: str
    file: BlobFile
    offset: int
    size: int
    description: str

    @property
    def fd(self) -> int:
        """The descriptor of file; valid until file is closed."""
        return self.file.fd


@dataclass(frozen=True)
class Tar:
    """Where an uncompressed tar can be read: as fd, offset, size and packed of an OpenLayer."""

    fd: int
    offset: int
    size: int
    packed: Packed | None = None

    def pieces(self) -> Iterator[bytes]:
        """All of it; fewer bytes if the file was cut.  Raises OSError."""
        at = 0
        while at < self.size:
            size = min(_PIECE, self.size - at)
            if self.packed is None:
                piece = os.pread(self.fd, size, self.offset + at)
            else:
                piece = self.packed.read(at, size)
            if not piece:
                return
            yield piece
            at += len(piece)


@dataclass(frozen=True)
class OpenLayer:
    """A layer whose uncompressed tar can be read at any place.

    fd, offset: pread(fd, n, offset + o) returns n bytes from byte o of the tar on; of a compressed
    tar that is read in place, fd is -1, and packed.read(o, n) returns them.

    diff_id: computed from the bytes if they were verified or decompressed, else as claimed.
    size: of the whole tar, bytes after its end marker included.
    rebuild: for an index from the cache: scans this layer again, and keeps the new index instead.
    fd belongs to this object: close() it (also a context manager).
    """

    diff_id: Digest | None
    index: LayerIndex
    fd: int
    offset: int
    size: int
    description: str
    rebuild: Rebuild | None = None
    packed: Packed | None = None

    def rescan(self) -> LayerIndex | None:
        """A new index; None if the index is new.  Raises MalformedImage, ImgmountError."""
        return None if self.rebuild is None else self.rebuild(self)

    @property
    def tar(self) -> Tar:
        return Tar(self.fd, self.offset, self.size, self.packed)

    def share(self) -> OpenLayer:
        """The same layer, to be closed by itself."""
        if self.packed is not None:
            return replace(self, packed=self.packed.share())
        return replace(self, fd=os.dup(self.fd))

    def close(self) -> None:
        if self.packed is not None:
            self.packed.close()
        else:
            os.close(self.fd)

    def __enter__(self) -> OpenLayer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
