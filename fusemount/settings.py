"""Law: every setting is a field of a frozen dataclass, which the command line fills once.

Only the command line (cli/) reads the environment.
"""

from __future__ import annotations

import enum
from dataclasses import field
from pathlib import Path

from fusemount.dataclass import dataclass


@dataclass(frozen=True)
class Directories:
    """The directories in which files are kept.

    cache: files that can be made again (indexes, decompressed layers, facts).
    state: files that a user would miss (upper directories of mounts made without `--upper`).
    runtime: a record of each mount that runs, and the lock of its upper; empty after a boot.
    roots_runtime: root's runtime directory, where users see which uppers root has locked.
    store: the root of the image store (`--root`).
    """

    cache: Path
    state: Path
    runtime: Path
    store: Path = Path("/var/lib/imgmount")
    roots_runtime: Path = Path("/run/imgmount")

    @property
    def lock_directories(self) -> tuple[Path, ...]:
        """Directories of upper locks (rootfs/upperlock.py): our own, where locks are taken, and
        root's."""
        others = () if self.runtime == self.roots_runtime else (self.roots_runtime,)
        return (self.runtime, *others)


@dataclass(frozen=True)
class Platform:
    """`os/architecture[/variant]`, named as in Go (OCI image-spec, image-index.md "platform")."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)


IdRange = tuple[int, int, int]  # first on disk, first shown, how many


@dataclass(frozen=True)
class Owners:
    """How owners of objects in directory layers and the upper are shown.

    An id in no range is shown as 65534, and stored as 65534; without ranges ids are not changed.
    squash_uid, squash_gid: every object is shown with this id; -1: no.
    """

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    squash_uid: int = -1
    squash_gid: int = -1


RATIO_FROM = 1 << 30  # bytes; the ratio does not limit an image that unpacks to less


@dataclass(frozen=True)
class UnpackLimit:
    """The limit of bytes that untrusted compressed bytes may unpack to; zeros of holes count too.

    size: bytes.  ratio: limits the unpacked bytes beyond RATIO_FROM to so many times the compressed
    ones; 0: no such limit, if the user has given a size.  (gzip reaches 1,032, zstd more than
    10,000; ordinary layers have about 10.)
    """

    size: int = 64 << 30
    ratio: int = 1000

    def most(self, packed: int) -> int:
        """The limit for `packed` compressed bytes."""
        return min(self.size, max(RATIO_FROM, self.ratio * packed)) if self.ratio else self.size


UNPACK_LIMIT = UnpackLimit()
UNLIMITED = UnpackLimit((1 << 63) - 1, 0)  # for bytes that were checked or that we wrote


@dataclass(frozen=True)
class UserMarks:
    """How the user wants marks in `user.` to be used; layer/marks.py has the default.

    overlay: marks are `user.overlay.*` (overlayfs' userxattr), in layers and upper, and owners
    are in `user.` too.  owners: owners of layers are in user.containers.override_stat.
    """

    overlay: bool = False
    owners: bool | None = None


class Unpacking(enum.Enum):
    """Whether compressed layers are decompressed as a whole; the value is a word of -o unpack=."""

    AUTO = "auto"  # only xz and bzip2, which cannot be read in place
    ALWAYS = "always"
    NEVER = "never"  # an image that needs it is refused


@dataclass(frozen=True)
class ImageOptions:
    """How an image is chosen and read.

    unpack: the limit for the image and the archive around it.
    platform: None is the machine's own.
    verify: check the hashes of config, blobs and layers.  unpacking: of compressed layers.
    marks: of unpacked layers, and of an upper over them.
    """

    platform: Platform | None = None
    verify: bool = True
    unpack: UnpackLimit = UNPACK_LIMIT
    unpacking: Unpacking = Unpacking.AUTO
    marks: UserMarks = UserMarks()


@dataclass(frozen=True)
class MountOptions:
    """What `imgmount IMAGE MOUNTPOINT` was asked for; docs/options.md explains each.

    fastpath: threads of C answer requests; Python answers only those that they decline.
    threads: how many threads (1..64); None: the number of CPUs decides.
    push: the threads push small files into the page cache before they are read.
    overlay: the command line is overlayfs' (lowerdir=); the upper's root then gives the attributes
    of the root.
    metacopy: a change of attributes copies no data up.  redirect: directories of the layers are
    renamed by a mark.  volatile: nothing is synced, and may be lost if the machine fails.
    owners: how ids are shown and stored.  static_nlink: directories show one link.  xattrs: False:
    requests for xattrs are refused.  ignored: unknown options of -o, for the log.
    follow_symlink_parents: None: as the upper records it, or no.
    rebase: the upper shall belong to this image from now on, even if it belonged to another.
    cache_size: the limit in bytes for decompressed chunks of all layers; None: the default.
    """

    read_only: bool = False
    upper: Path | None = None
    work: Path | None = None
    keep: bool = False
    follow_symlink_parents: bool | None = None
    allow_other: bool | None = None
    default_permissions: bool = True
    suid: bool = False
    dev: bool = False
    foreground: bool = False
    debug: bool = False
    log: Path | None = None
    fastpath: bool = True
    threads: int | None = None
    push: bool = True
    overlay: bool = False
    metacopy: bool | None = None
    redirect: bool | None = None
    volatile: bool = False
    owners: Owners = Owners()
    rebase: bool = False
    static_nlink: bool = False
    xattrs: bool = True
    cache_size: int | None = None
    ignored: tuple[str, ...] = ()
    kernel_options: tuple[str, ...] = field(default=())
