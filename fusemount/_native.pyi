"""What the C extension offers; native/*.h say what it means underneath."""

from collections.abc import Iterable, Iterator
from os import PathLike
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

# linux
def mount(
    source: _Path, target: _Path, fstype: str, flags: int, data: str, /
) -> None: ...  # each of these is the system call of its name: OSError, GIL released
def umount2(target: _Path, flags: int, /) -> None: ...
def pivot_root(new_root: _Path, put_old: _Path, /) -> None: ...
def unshare(flags: int, /) -> None: ...
def setns(fd: int, nstype: int, /) -> None: ...
def syncfs(fd: int, /) -> None: ...
def set_pdeathsig(signal: int, /) -> None: ...
def set_dumpable(dumpable: bool, /) -> None: ...

_Path = str | bytes | PathLike[str]
MS_RDONLY: int
MS_NOSUID: int
MS_NODEV: int
MS_NOEXEC: int
MS_SYNCHRONOUS: int
MS_DIRSYNC: int
MS_NOATIME: int
MS_NODIRATIME: int
MS_RELATIME: int
MS_STRICTATIME: int
MS_BIND: int
MS_REC: int
MS_PRIVATE: int
MS_SLAVE: int
MS_REMOUNT: int
MNT_DETACH: int
MNT_FORCE: int
UMOUNT_NOFOLLOW: int
CLONE_NEWNS: int
CLONE_NEWPID: int
CLONE_NEWUSER: int
CLONE_NEWUTS: int
CLONE_NEWIPC: int
