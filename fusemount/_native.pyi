"""The functions and types of the C extension.  The headers in native/ describe them in full."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Protocol, final

class HasFileno(Protocol):
    def fileno(self) -> int: ...

class FormatError(ValueError):
    """An archive or index that breaks its format or exceeds a limit.

    message: the reason; member: the name of the archive member (may be empty); offset: the byte
    offset in the (uncompressed) archive.
    """

    message: str
    member: bytes
    offset: int

@final
class Member:
    """One member of an archive, as the tar has it (struct sequence, native/index/index.h)."""

    kind: str  # "file", "dir", "symlink", "hardlink", "char", "block", "fifo"; "socket", "whiteout"
    path: bytes  # normalised, b"" is the root
    link: bytes  # symlink: the target as in the tar; hardlink: the target, normalised
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

INDEX_BYTES_MAX: int  # limit of nbytes of one LayerIndex, and of all of an image (index.h)

@final
class LayerIndex:
    """The index of an archive or a directory layer.  Raises FormatError, OSError, MemoryError."""

    @staticmethod
    def scan(fd: int, offset: int, length: int) -> LayerIndex: ...  # releases the GIL
    @staticmethod
    def load(fd: int, name: bytes = b"", /) -> LayerIndex: ...  # FormatError: damaged, not its own
    def save(self, fd: int, name: bytes = b"", /) -> None: ...  # load must be given the same name
    def drop_entries(self) -> None: ...  # frees the members; trees still work
    def __len__(self) -> int: ...
    def member(self, i: int) -> Member: ...
    @property
    def archive_bytes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...  # memory of the arrays
    @property
    def oddities(self) -> tuple[tuple[int, bytes], tuple[int, bytes], tuple[int, bytes]]:
        """Members that are not shown as the archive has them: first those with a `..` that would
        have left the root, then those with an owner that is no id, shown as 0, then those of a
        vendor's type, not shown.  Each is (the number of members, the path of the first)."""

def open_layer_root(path: str | bytes | PathLike[str], /) -> int: ...

MARKS_TRUSTED: int  # native/dir/dirmarks.h
MARKS_USER: int
MARKS_OWNER: int
MARKS_NAMES: int
MARKS_UPPER: int
MARKS_USERXATTR: int

def root_marks(fd: int, /) -> int: ...
def scan_directory(fd: int, obeyed: int, /) -> tuple[LayerIndex, int, bytes, int, bytes]:
    """Scans a directory layer (native/dir/dirscan.h).  obeyed: the kinds of marks, MARKS_*.

    Returns the index; the number of directories that may not be read, and the path of one; the
    number of objects with marks of the user that were not obeyed, and the path of one.
    Raises FormatError, and OSError whose filename is the path in the layer.
    """

@final
class Scanner:
    """Scans a tar without I/O: feed the archive's bytes in order, then call finish()."""

    def __init__(self) -> None: ...
    def feed(self, data: bytes | bytearray | memoryview) -> None: ...  # releases the GIL
    def finish(self) -> LayerIndex: ...
    @property
    def ended(self) -> bool: ...

# native/packed: compressed tars.  codec: "gzip" or "zstd".
CHUNK: int  # bytes of a chunk of a tar (native/packed/chunkfile.h)

@final
class BegunPoint:
    """An access point that Points.add() finishes."""

    @property
    def out(self) -> int: ...  # its offset in the tar

@final
class Unpacker:
    """A decoder of one stream that takes access points (native/packed/unpack.h)."""

    def __init__(self, codec: str) -> None: ...
    def feed(self, data: bytes) -> None: ...  # when next() has returned None
    def next(self, size: int, /) -> bytes | None: ...  # FormatError; None: feed more, or ended
    def take(self) -> list[BegunPoint]: ...  # in the order of their offsets
    def finish(self) -> None: ...  # no more comes.  FormatError if the stream is cut off
    @property
    def ended(self) -> bool: ...  # what was fed last goes on behind the end of the stream
    @property
    def bounds(self) -> int: ...  # members or frames that have ended
    @property
    def barren(self) -> bool: ...  # somewhere much input gives no output
    @property
    def taken(self) -> int: ...  # bytes of the stream that were decoded

@final
class Points:
    """The access points of one blob (native/packed/points.h)."""

    def __init__(self, codec: str) -> None: ...
    def add(self, begun: BegunPoint, /) -> None: ...  # releases the GIL
    def add_frame(self, out: int, at: int, /) -> None: ...  # at: offset in the sidecar
    def end(self, blob_bytes: int, tar_bytes: int, sidecar_bytes: int = 0, /) -> None: ...
    @classmethod
    def load(cls, fd: int, name: bytes, /) -> Points: ...  # may duplicate fd.  FormatError
    def save(self, fd: int, name: bytes, /) -> None: ...
    def rows(self) -> list[tuple[int, int, int, bool]]:
        """(offset in the tar; in the blob, or in the sidecar; bytes of state; in the sidecar)"""
    @property
    def blob_bytes(self) -> int: ...
    @property
    def tar_bytes(self) -> int: ...
    @property
    def sidecar_bytes(self) -> int: ...
    @property
    def n_points(self) -> int: ...
    @property
    def pool_bytes(self) -> int: ...

@final
class Packed:
    """The bytes of a compressed tar (native/packed/packed.h).  Empties `points`, and duplicates the
    descriptors of blob and sidecar."""

    def __init__(
        self,
        points: Points,
        digests: bytes,  # the SHA-256 of each chunk
        blob_fd: int,
        blob_at: int,  # where the blob begins in it
        sidecar_fd: int,  # -1: none
        directory: HasFileno | None,  # of the chunk cache
        chunks_path: bytes,  # of the file: its last name is in the directory, the rest for the log
        name: bytes,  # of the layer, for the log
    ) -> None: ...
    def read(self, offset: int, size: int, /) -> bytes: ...  # EIO; releases the GIL
    def share(self) -> Packed: ...  # itself, which takes one more close()
    def close(self) -> None: ...  # its descriptors, at the last share; nobody may be reading
    def note_used(self, now: int, /) -> None: ...  # seconds since 1970
    def log_to(self, fd: int, /) -> None: ...  # lines about errors; -1: nowhere
    def tell(self, fd: int, /) -> None: ...  # an eventfd, for each 64 MiB kept; -1: none
    def failed(self) -> int: ...  # errno if the last chunk could not be kept; once, then 0
    def counts(self) -> dict[str, int]: ...
    @property
    def size(self) -> int: ...

def punch_chunk(fd: int, n: int, chunk: int, /) -> bool: ...  # one of n; False: it is in use
def stop_decoding_ahead() -> None: ...

@final
class Attr:
    """Attributes of a node (struct sequence).  layer: -1 for a node that is not from a layer."""

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
    meta: bool  # a metacopy in the upper: the data are in a layer
    generation: int  # of the nodeid: 32 bits

@final
class Tree:
    """The merged tree (native/tree/tree.h).  Methods raise OSError: ESTALE for a nodeid that does
    not exist any more, ENOTDIR, and the errors of the C function of the same name."""

    def __init__(self) -> None: ...
    def add_layer(
        self,
        index: LayerIndex,
        fd: int,
        offset: int,
        follow_symlink_parents: bool = False,
        packed: Packed | None = None,
    ) -> None: ...  # FormatError; releases the GIL
    def set_static_nlink(self) -> None: ...
    def set_owners(
        self,
        uids: Sequence[tuple[int, int, int]],  # (first stored, first shown, count)
        gids: Sequence[tuple[int, int, int]],
        squash_uid: int,  # all uids are shown as this one; -1: no squash
        squash_gid: int,
        /,
    ) -> None: ...
    # native/tree/idmap.h.  shown translates stored ids to shown ids, stored does the reverse; all
    # other ids of a Tree are stored ids.
    def shown(self, uid: int, gid: int, /) -> tuple[int, int]: ...
    def stored(self, uid: int, gid: int, /) -> tuple[int, int]: ...
    def seal(self) -> None: ...
    def set_generation(self, generation: int, /) -> None: ...  # of nodes from layers; 32 bits
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
    def hidden(self, ino: int, /) -> int: ...
    def readlink(self, ino: int, /) -> bytes: ...
    def read(self, ino: int, offset: int, size: int, /) -> bytes: ...
    def copy_data(self, ino: int, fd: int, limit: int, /) -> None: ...
    def next_data(self, ino: int, offset: int, /) -> tuple[int, int] | None: ...
    def xattrs(self, ino: int, /) -> dict[bytes, bytes]: ...
    def getxattr(self, ino: int, name: bytes, /) -> bytes | None: ...
    def setxattr(self, ino: int, name: bytes, value: bytes | None, /) -> None: ...
    def ctimes(self) -> list[tuple[int, int]]: ...  # of upper objects: (their st_ino, ns)
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
        inode: int = 0,  # inode number of the upper object, from which st_ino is made
        upper: bool = True,  # False: the node has no upper object
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
        object: int = ...,  # st_ino of the upper object; 0: not known
        born: int = ...,  # with object: born() of it
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
    """The objects of an upper by node, and changes that need one system call
    (native/upper/upperdir.h, native/upper/change.h).  Methods raise OSError and release the GIL.

    None or False means that the change was declined: nothing was changed.  The caller holds the
    lock for all methods except pin, forget, write and sync.  Between moving and moved, no method
    may be called.
    """

    def __init__(
        self,
        tree: Tree,
        upper_fd: int,
        work_fd: int,  # -1: the upper is only read
        *,
        read_only: bool,
        owners: bool,
        max_fds: int,
        no_sync: bool,
        inodes_last: bool,  # an upper object keeps its st_ino as long as it exists
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
    def object(self, ino: int, /) -> int: ...  # O_PATH, the caller closes it; EIO: it was replaced
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
    def setxattr(self, ino: int, name: bytes, value: bytes | None, /) -> bool: ...
    @staticmethod
    def no_such_xattr(name: bytes, /) -> int: ...
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
    """Threads that answer the kernel without the GIL (native/fast/fastpath.h), until stop().
    Descriptors are borrowed; -1: none.  Raises OSError."""

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
    """Counters (native/base/stats.h).  C threads add to them without a lock and without the GIL."""

    def __init__(self) -> None: ...
    def add(self, opcode: int, door: int, ns: int, failed: bool, bytes: int, /) -> None: ...
    @staticmethod
    def now() -> int: ...  # CLOCK_MONOTONIC, ns
    @staticmethod
    def percentile(buckets: list[int], p: float, /) -> int: ...  # ns; buckets: from a snapshot
    # {"ops": {"LOOKUP": {"native": {"count", "errors", "bytes", "total_ns", "mean_ns", "p50_ns",
    #                                "p90_ns", "p99_ns", "max_ns", "buckets": [40 counts]},
    #                     "python": {...}}}, "copy_up_waits", "pushed_files", "pushed_bytes",
    #  "push_misses", "wakeups", "spins", "malformed"}.  An opcode without requests is left out.
    def snapshot(self) -> dict[str, Any]: ...

DOOR_NATIVE: int
DOOR_PYTHON: int

# native/base/beneath.h; callers use fusemount/beneath.py
def open_beneath(dir_fd: int, path: _Path, flags: int, mode: int, /) -> int: ...
def open_in_root(root_fd: int, path: _Path, flags: int, mode: int, /) -> int: ...
def beneath_step_by_step(on: bool, /) -> None: ...  # for tests: as if there were no openat2
def renameat2(from_fd: int, source: bytes, to_fd: int, target: bytes, flags: int, /) -> None: ...

# Linux.  Most are the system call of their name; they raise OSError and release the GIL.
def mount(source: _Path, target: _Path, fstype: str, flags: int, data: str, /) -> None: ...
def mount_setattr(target: _Path, flags: int, attr_set: int, /) -> None: ...
def clone_mount(fd: int, /) -> int: ...  # O_PATH; it has no mounts in it (base/clonemount.h)
def born(fd: int, name: bytes, /) -> int: ...  # hashed time of birth; 0: not known
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
