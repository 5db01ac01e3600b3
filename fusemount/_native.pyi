"""What the C extension offers; native/*.h say what it means underneath."""

from collections.abc import Iterable, Iterator
from typing import final

class FormatError(ValueError):
    """An archive or index that breaks its format or passes a limit.

    message says what; member names the archive member at hand (may be empty); offset is the
    byte offset in the (uncompressed) archive.
    """

    message: str
    member: bytes
    offset: int

@final
class Member:
    """One member of an archive, as the tar says it (struct sequence, native/index.h)."""

    kind: str  # "file", "dir", "symlink", "hardlink", "char", "block", "fifo"
    path: bytes  # normalised, b"" is the root
    link: bytes  # symlink target as written; hardlink target normalised
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    rdev: tuple[int, int]
    header_offset: int
    extents: tuple[tuple[int, int, int], ...]  # (file offset, length, archive offset)
    xattrs: tuple[tuple[bytes, bytes], ...]
    sparse: bool

@final
class LayerIndex:
    """A scanned archive. Immutable. Raises FormatError, OSError, MemoryError."""

    @staticmethod
    def scan(fd: int, offset: int, length: int) -> LayerIndex: ...  # releases the GIL
    @staticmethod
    def load(fd: int) -> LayerIndex: ...  # maps the file; FormatError when damaged or foreign
    def save(self, fd: int) -> None: ...
    def __len__(self) -> int: ...
    def member(self, i: int) -> Member: ...
    @property
    def archive_bytes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...  # memory of the arrays

@final
class Scanner:
    """The sans-I/O scanner: feed the archive's bytes in order, then finish()."""

    def __init__(self) -> None: ...
    def feed(self, data: bytes | bytearray | memoryview) -> None: ...  # releases the GIL
    def finish(self) -> LayerIndex: ...
    @property
    def ended(self) -> bool: ...
