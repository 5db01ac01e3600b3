"""What the C extension offers; native/*.h say what it means underneath."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, final

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
    """One member of an archive, as the tar says it (struct sequence, native/index/index.h)."""

    kind: str  # "file", "dir", "symlink", "hardlink", "char", "block", "fifo"; "socket", "whiteout"
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

INDEX_BYTES_MAX: int  # native/index/index.h: nbytes of one LayerIndex, and of all of an image

@final
class LayerIndex:
    """A scanned archive. Raises FormatError, OSError, MemoryError."""

    @staticmethod
    def scan(fd: int, offset: int, length: int) -> LayerIndex: ...  # releases the GIL
    @staticmethod
    def load(fd: int, name: bytes = b"", /) -> LayerIndex: ...  # FormatError: damaged, foreign
    def save(self, fd: int, name: bytes = b"", /) -> None: ...  # is loaded by that name only
    def drop_entries(self) -> None: ...  # members go; what trees point into stays
    def __len__(self) -> int: ...
    def member(self, i: int) -> Member: ...
    @property
    def archive_bytes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...  # memory of the arrays
    @property
    def oddities(self) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        """What is shown otherwise than the archive says it, each as (how many members, the path of
        the first): `..` that would have left the root; owners that are no ids, shown as 0."""

def open_layer_root(path: str | bytes | PathLike[str], /) -> int: ...

MARKS_TRUSTED: int  # native/dir/dirmarks.h
MARKS_USER: int
MARKS_OWNER: int
MARKS_NAMES: int
MARKS_UPPER: int
MARKS_ROOTS_WORD: int

def marks_said(fd: int, /) -> int: ...
def scan_directory(fd: int, obeyed: int, /) -> tuple[LayerIndex, int, bytes, int, bytes]:
    """A directory as a layer (native/dir/dirscan.h), obeying these marks; how many of its
    directories may not be read, and one of them; how many objects have a user's marks that were not
    obeyed, and one of them.

    Raises FormatError; OSError whose filename is the name at fault, in the layer.
    """

@final
class Scanner:
    """The sans-I/O scanner: feed the archive's bytes in order, then finish()."""

    def __init__(self) -> None: ...
    def feed(self, data: bytes | bytearray | memoryview) -> None: ...  # releases the GIL
    def finish(self) -> LayerIndex: ...
    @property
    def ended(self) -> bool: ...

@final
class Attr:
    """Attributes of a node (struct sequence). layer is -1 for what no layer gave."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    layer: int
    upper: bool
    blocks: int
    inode: int  # st_ino; ino is the nodeid
    meta: bool  # upper, with its attributes alone: the data are the layer's
    generation: int  # of the nodeid: 32 bits

@final
class Tree:
    """The merged tree (native/tree/tree.h). Methods raise OSError: ESTALE for a nodeid that is
    gone, ENOTDIR, and what they name."""

    def __init__(self) -> None: ...
    def add_layer(
        self, index: LayerIndex, fd: int, offset: int, follow_symlink_parents: bool = False
    ) -> None: ...  # FormatError; releases the GIL
    def set_static_nlink(self) -> None: ...
    def set_owners(
        self,
        uids: Sequence[tuple[int, int, int]],  # (first stored, first shown, count)
        gids: Sequence[tuple[int, int, int]],
        squash_uid: int,  # all are shown as that one; -1: no
        squash_gid: int,
        /,
    ) -> None: ...
    # native/tree/idmap.h; all ids here, but those of shown and stored, are stored ones
    def shown(self, uid: int, gid: int, /) -> tuple[int, int]: ...
    def stored(self, uid: int, gid: int, /) -> tuple[int, int]: ...
    def seal(self) -> None: ...
    def set_generation(self, generation: int, /) -> None: ...  # of what the layers gave; 32 bits
    def check(self) -> None: ...  # OSError EUCLEAN with the broken invariant
    @property
    def nodes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def lookup(self, parent: int, name: bytes, /) -> int: ...
    def resolve(self, path: bytes, follow: bool = True, /) -> int: ...
    def getattr(self, ino: int, /) -> Attr: ...
    def readdir(self, ino: int, cookie: int, count: int, /) -> list[tuple[bytes, int, int]]: ...
    def names(self, ino: int, count: int = ..., /) -> list[tuple[int, bytes]]: ...
    def is_lower_name(self, parent: int, name: bytes, /) -> bool: ...
    def readlink(self, ino: int, /) -> bytes: ...
    def read(self, ino: int, offset: int, size: int, /) -> bytes: ...
    def copy_data(self, ino: int, fd: int, limit: int, /) -> None: ...
    def next_data(self, ino: int, offset: int, /) -> tuple[int, int] | None: ...
    def xattrs(self, ino: int, /) -> dict[bytes, bytes]: ...
    def getxattr(self, ino: int, name: bytes, /) -> bytes | None: ...
    def setxattr(self, ino: int, name: bytes, value: bytes | None, /) -> None: ...
    def ctimes(self) -> list[tuple[int, int]]: ...  # of the upper's objects: (st_ino there, ns)
    def new_node(
        self,
        mode: int,
        uid: int,
        gid: int,
        rdev: int,
        size: int,
        mtime_ns: int,
        atime_ns: int,
        ctime_ns: int,
        target: bytes | None = None,
        inode: int = 0,  # the upper object's, from which st_ino is made
        upper: bool = True,  # False: in memory alone
    ) -> int: ...
    def set_attr(
        self,
        ino: int,
        *,
        mode: int = ...,
        uid: int = ...,
        gid: int = ...,
        size: int = ...,
        mtime_ns: int = ...,
        atime_ns: int = ...,
        ctime_ns: int = ...,
        upper: bool = ...,
        blocks: int = ...,
        meta: bool = ...,
        object: int = ...,  # st_ino of the upper's; 0: not known
    ) -> None: ...
    def add_name(self, parent: int, name: bytes, ino: int, lower: bool = False, /) -> None: ...
    def drop_name(self, parent: int, name: bytes, mark: bool = True, /) -> None: ...
    def drop_children(self, ino: int, /) -> None: ...
    def share_data(self, ino: int, source: int, /) -> None: ...
    def set_opaque(self, ino: int, /) -> None: ...
    def move(self, parent: int, name: bytes, to: int, new_name: bytes, /) -> None: ...
    def exchange(self, parent: int, name: bytes, to: int, new_name: bytes, /) -> None: ...
    def remember(self, ino: int, count: int = 1, /) -> None: ...
    def forget(self, ino: int, count: int, /) -> None: ...

@final
class UpperFiles:
    """The objects of an upper by node, and the changes that one system call completes
    (native/upper/upperdir.h, native/upper/change.h). Methods raise OSError and release the GIL.

    What is declined, None or False, was not even begun.  lock must be held for it all, save pin,
    forget, write and sync; between moving and moved nothing here may be called.
    """

    def __init__(
        self,
        tree: Tree,
        upper_fd: int,
        work_fd: int,  # -1: the upper is only looked at
        *,
        read_only: bool,
        owners: bool,
        max_fds: int,
        no_sync: bool,
        inodes_last: bool,  # an object of the upper has one st_ino as long as it is
        harmless_files: bool,  # native/upper/harmless.h
        harmless_devices: bool,
    ) -> None: ...
    def close(self) -> None: ...
    def reserve(self, on: bool, /) -> None: ...
    def lock(self) -> None: ...
    def unlock(self) -> None: ...
    def moving(self) -> None: ...
    def moved(self) -> None: ...
    def pin(self, ino: int, /) -> int: ...
    def object(self, ino: int, /) -> int: ...  # O_PATH, to be closed; EIO: another is in its place
    def unpin(self, ino: int, /) -> None: ...
    def forget(self, ino: int, count: int, /) -> None: ...
    def make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int,
        uid: int,
        gid: int,
        umask: int,
        target: bytes,
        /,
    ) -> int | None: ...
    def unlink(self, parent: int, name: bytes, /) -> bool: ...
    def rmdir(self, parent: int, name: bytes, /) -> bool: ...
    def link(self, ino: int, parent: int, name: bytes, /) -> bool: ...
    def rename(self, parent: int, name: bytes, to: int, new_name: bytes, flags: int, /) -> bool: ...
    def setattr(
        self,
        ino: int,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        size: int | None,
        atime_ns: int | None,
        mtime_ns: int | None,
        caller: tuple[int, int, int],
        kill: bool,
        /,
    ) -> bool: ...
    def write(self, ino: int, offset: int, data: bytes, /) -> int | None: ...
    def sync(self, ino: int, data_only: bool, /) -> None: ...

@final
class FastPath:
    """Answers the kernel on threads without the GIL (native/fast/fastpath.h), from its making until
    stop(). Descriptors are borrowed; -1: none. Raises OSError."""

    def __new__(
        cls,
        tree: Tree,
        upper: UpperFiles | None,
        stats: Stats,
        *,
        device_fd: int,
        relay_fd: int,
        log_fd: int,
        end_fd: int,
        upper_fd: int,
        threads: int,
        spin_us: int,
        default_permissions: bool,
        push: bool,
        no_xattrs: bool,
    ) -> FastPath: ...
    def stop(self) -> None: ...  # releases the GIL

@final
class Stats:
    """Counters (native/base/stats.h); adding is lock-free, also from C threads without the GIL."""

    def __init__(self) -> None: ...
    def add(self, opcode: int, door: int, ns: int, failed: bool, bytes: int, /) -> None: ...
    @staticmethod
    def now() -> int: ...  # CLOCK_MONOTONIC, ns
    @staticmethod
    def percentile(buckets: list[int], p: float, /) -> int: ...  # ns; of a snapshot's buckets
    # {"ops": {"LOOKUP": {"native": {"count", "errors", "bytes", "total_ns", "mean_ns", "p50_ns",
    #                                "p90_ns", "p99_ns", "max_ns", "buckets": [40 counts]},
    #                     "python": {...}}}, "prepared", "pushed_files", "pushed_bytes",
    #  "push_misses", "wakeups", "spins", "malformed"}; what was not asked is not there.
    def snapshot(self) -> dict[str, Any]: ...

DOOR_NATIVE: int
DOOR_PYTHON: int

# native/base/beneath.h; callers use fusemount/beneath.py
def open_beneath(dir_fd: int, path: _Path, flags: int, mode: int, /) -> int: ...
def open_in_root(root_fd: int, path: _Path, flags: int, mode: int, /) -> int: ...
def beneath_step_by_step(on: bool, /) -> None: ...  # for tests: as if openat2 were not there
def renameat2(from_fd: int, source: bytes, to_fd: int, target: bytes, flags: int, /) -> None: ...

# linux
def mount(
    source: _Path, target: _Path, fstype: str, flags: int, data: str, /
) -> None: ...  # each of these is the system call of its name: OSError, GIL released
def mount_setattr(target: _Path, flags: int, attr_set: int, /) -> None: ...
def clone_mount(fd: int, /) -> int: ...  # O_PATH; nothing is mounted in it, now or later
def mount_of(fd: int, /) -> tuple[int, int, int]: ...  # (major, minor, unique mount ID or 0)
def umount2(target: _Path, flags: int, /) -> None: ...
def pivot_root(new_root: _Path, put_old: _Path, /) -> None: ...
def unshare(flags: int, /) -> None: ...
def setns(fd: int, nstype: int, /) -> None: ...
def syncfs(fd: int, /) -> None: ...
def caller_keeps_set_id(uid: int, /) -> bool: ...
def caller_loses(caller: tuple[int, int, int], mode: int, gid: int, /) -> int: ...
def fallocate(fd: int, mode: int, offset: int, length: int, /) -> None: ...
def set_pdeathsig(signal: int, /) -> None: ...
def set_dumpable(on: bool, /) -> None: ...
def close_from(first: int, /) -> None: ...

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
MOUNT_ATTR_RDONLY: int
AT_RECURSIVE: int
MNT_DETACH: int
MNT_FORCE: int
UMOUNT_NOFOLLOW: int
CLONE_NEWNS: int
CLONE_NEWPID: int
CLONE_NEWUSER: int
CLONE_NEWUTS: int
CLONE_NEWIPC: int

def fs_type(fd: int, /) -> int: ...
