"""Law: copies an archive from a pipe, or a compressed one, to an unnamed file, to read it there.

The file is in the store's ingest/.  The kernel removes it when its descriptor is closed.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fusemount.beneath import fd_path
from fusemount.budget import Budget
from fusemount.codec import decompress, recognise
from fusemount.compression import Compression
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage
from fusemount.layer import BlobFile, measured
from fusemount.layer.beside import Beside
from fusemount.layer.decode import compression_at, scan
from fusemount.layer.progress import Progress, reported
from fusemount.layer.sparse import SparseWriter
from fusemount.sources.medium import Archive, Directory, Medium
from fusemount.store import Store
from fusemount.store.layout import store_errors


@contextmanager
def medium_at(store: Store, path: Path, progress: Progress, budget: Budget) -> Iterator[Medium]:
    """The medium at a path: a file, a pipe or a layout's directory.

    budget: limits the bytes from a pipe, and what a compressed archive unpacks to.
    Raises ImageNotFound, MalformedImage, NoSpace, ImgmountError.
    """
    if path.is_dir():
        directory = Directory(path)
        try:
            yield directory
        finally:
            directory.close()
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ImageNotFound(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise ImgmountError(f"{path}: {error.strerror}") from error
    try:
        with medium_of(store, fd, str(path), progress, budget) as medium:
            yield medium
    finally:
        os.close(fd)


@contextmanager
def medium_of(
    store: Store, fd: int, label: str, progress: Progress, budget: Budget
) -> Iterator[Medium]:
    """The archive at a descriptor, from its offset on.  The caller closes the descriptor."""
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    with ExitStack() as undo:
        from_the_start = regular and os.lseek(fd, 0, os.SEEK_CUR) == 0
        size = os.fstat(fd).st_size if regular else 0
        if from_the_start and compression_at(fd, 0, size, label) is Compression.NONE:
            yield _archive(fd, label, undo)
            return
        with (
            reported(progress, f"reading {label}", size) as advance,
            store_errors(store.layout.ingest),
        ):
            spool = undo.enter_context(tempfile.TemporaryFile(dir=store.layout.ingest))
            _fill(spool.fileno(), fd, label, advance, budget)
        yield _archive(spool.fileno(), label, undo)


def _archive(fd: int, label: str, undo: ExitStack) -> Archive:
    size = os.fstat(fd).st_size
    if size == 0:
        raise MalformedImage(f"{label}: nothing is in it")
    index = scan(fd, 0, size, label)
    file = BlobFile(Path(os.fsdecode(fd_path(fd))))
    undo.callback(file.close)
    return Archive(label, file, index)


def _fill(spool: int, fd: int, label: str, advance: Callable[[int], None], budget: Budget) -> None:
    st = os.fstat(fd)
    size = st.st_size if stat.S_ISREG(st.st_mode) else None
    taken = 0

    def next_piece(n: int) -> bytes:
        try:
            data = os.read(fd, n)
        except OSError as error:
            raise ImgmountError(f"{label}: {error.strerror}") from error
        nonlocal taken
        taken += len(data)
        advance(len(data))
        return data

    compression, read = recognise(next_piece)
    plain = compression is Compression.NONE  # a plain pipe spends nothing, but has the same limit
    of = Budget(budget.limit) if plain else budget
    if size is not None:
        file = BlobFile(Path(os.fsdecode(fd_path(fd))))
        of.announce(dict([measured(file, 0, size)]))
        file.close()
    writer = SparseWriter(spool)
    with Beside(writer.write) as beside:
        for piece in decompress(read, compression, label, of, size):
            beside.put(piece)
    if not plain:
        budget.enclose(taken)
    writer.finish()
