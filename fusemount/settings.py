"""Law: every setting is a field of a frozen dataclass, filled once by the command line.

Only the command line (cli/) reads the environment.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from fusemount.dataclass import dataclass


@dataclass(frozen=True)
class Directories:
    """Where things are kept.

    cache: what can be made again (indexes, decompressed layers, verdicts).
    state: what a user would miss (upper directories of mounts made without `--upper`).
    runtime: one record a living mount, and its upper's lock; gone after a boot.
    roots_runtime: root's own, where users see what root has locked.
    store: the root of the image store (`--root`).
    """

    cache: Path
    state: Path
    runtime: Path
    store: Path = Path("/var/lib/imgmount")
    roots_runtime: Path = Path("/run/imgmount")

    @property
    def lock_places(self) -> tuple[Path, ...]:
        """Of uppers (rootfs/upperlock.py): ours, where locks are taken, and root's."""
        others = () if self.runtime == self.roots_runtime else (self.roots_runtime,)
        return (self.runtime, *others)


@dataclass(frozen=True)
class Platform:
    """`os/architecture[/variant]` in Go's words (OCI image-spec, image-index.md "platform")."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)


IdRange = tuple[int, int, int]  # first on disk, first shown, how many


@dataclass(frozen=True)
class Owners:
    """Who is shown as the owner of what stands in directory layers and upper.

    Ids in no range are shown as 65534, and stored as that when they are given; without ranges they
    are what they are.  squash_uid, squash_gid: all are shown as that one; -1: no.
    """

    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    squash_uid: int = -1
    squash_gid: int = -1


RATIO_FROM = 1 << 30  # bytes: below, zeros that compress well are nothing to worry about


@dataclass(frozen=True)
class UnpackLimit:
    """What the compressed bytes of strangers may become; zeros count, though they take no disk.

    size: bytes.  ratio: so many times the compressed bytes, from RATIO_FROM on; 0: any, as where a
    user has named a size (gzip reaches 1,032, zstd more than 10,000, and layers of files about 10).
    """

    size: int = 64 << 30
    ratio: int = 1000

    def most(self, packed: int) -> int:
        """Bytes that `packed` compressed ones may become."""
        return min(self.size, max(RATIO_FROM, self.ratio * packed)) if self.ratio else self.size


UNPACK_LIMIT = UnpackLimit()
UNLIMITED = UnpackLimit((1 << 63) - 1, 0)  # of our own bytes


@dataclass(frozen=True)
class UserMarks:
    """What the caller says of marks in `user.`; layer/marks.py says what holds otherwise.

    overlay: marks are `user.overlay.*` (overlayfs' userxattr), in layers and upper, and owners
    stand in `user.` too.  owners: layers keep owners in user.containers.override_stat.
    """

    overlay: bool = False
    owners: bool | None = None


@dataclass(frozen=True)
class ImageOptions:
    """How an image is chosen and read.

    unpack: what an image, and the archive around it, may unpack to.
    platform: None is the machine's own.  platform_required: the user named it, so an image
    that has only another one is an error (else also an error, but the message says --platform).
    verify: hash config, blobs and layers.  marks: of unpacked layers, and of an upper over them.
    """

    platform: Platform | None = None
    verify: bool = True
    unpack: UnpackLimit = UNPACK_LIMIT
    marks: UserMarks = UserMarks()


@dataclass(frozen=True)
class MountOptions:
    """What `imgmount IMAGE MOUNTPOINT` was asked for; docs/options.md explains each.

    fastpath: requests are answered by threads of C, and by Python only where those decline.
    threads: how many of them (1..64); None: the number of CPUs decides.
    push: they put small files into the page cache ahead of a reader.
    overlay: asked for as overlayfs is, by lowerdir=; the upper's root is then the root's state.
    metacopy: changed attributes bring up no data.  redirect: directories of the layers are renamed
    by a mark.  volatile: what is written need not last if the machine fails.
    owners: how ids are shown, and stored.  static_nlink: directories show one link.  xattrs: False:
    requests for them are refused.  ignored: words of -o that nobody knows, for the log.
    follow_symlink_parents: None is as the upper records it, else no.
    rebase: the upper shall belong to this image from here on, whichever it belonged to.
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
    ignored: tuple[str, ...] = ()
    kernel_options: tuple[str, ...] = field(default=())
