"""Law: the upper directory on disk, in overlayfs' own format; this module knows no tree.

Format (kernel: Documentation/filesystems/overlayfs.rst, fs/overlayfs/overlayfs.h):

    whiteout        character device 0:0, or an empty file with xattr <P>whiteout when the
                    directory says <P>opaque = "x"
    opaque          directory with <P>opaque = "y"
    redirect        directory with <P>redirect = "/path/in/the/layers" or "name beside it"
    metacopy        file with <P>metacopy: its attributes alone; its data are the layers', at
                    <P>redirect or at its own path
    escape          a user's own xattr <P>NAME is stored as <P>overlay.NAME
    ours            the root's <P>imgmount = "1": used before; <P>imgmount.base: base.py

and marks of our own, which overlayfs hides and passes over:

    <P>imgmount             on the root: this upper was begun
    <P>imgmount.origin      "path/in/the/layers" of what was copied up, so that it is the same inode
                            at the next mount; not on symlinks and devices where <P> is user's
    <P>imgmount.volatile    on the root: the boot in which nothing was synced; beside it the work
                            directory has overlayfs' own incompat/volatile
    <P>imgmount.times       "atime mtime" in ns: the directory's, while a copy-up comes into it
    <P>imgmount.held        "mode atime mtime capability" (octal, ns, ns, hex or "-"): the file's,
                            while its data come
    <P>imgmount.special     "char-MAJOR-MINOR": what an empty file stands for, since a device 0:0
                            would be a whiteout

<P> is `trusted.overlay.` or `user.overlay.`: uppermarks.py says which.
Where files cannot be given away (no CAP_CHOWN, an id the user namespace lacks), owner and mode
stand in `user.containers.override_stat` = "uid:gid:0mode", as fuse-overlayfs and podman keep
them; devices that cannot be made are empty files with "uid:gid:0mode:char-MAJOR-MINOR" or "block-…"
there.

Crash rule: what takes more than one step is made in the work directory and comes into the upper by
one rename; the work directory's leftovers mean nothing and are removed at the next start.

Whoever can write to a directory of the upper may swap what is in it at any time. So an object is
(its own descriptor, b""), which native/upperdir.h gives and has checked; or (a directory's
descriptor, one name), which is not followed: of what is only read, and of the work directory, which
is ours alone.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from fusemount import _native
from fusemount.beneath import (
    by_root,
    fd_path,
    make_dirs_in_root,
    name_in,
    open_beneath,
    own_directory,
)
from fusemount.dataclass import dataclass
from fusemount.errors import UpperError
from fusemount.rootfs.ctimes import Ctimes, read_ctimes, write_ctimes
from fusemount.rootfs.removal import remove_tree
from fusemount.rootfs.upperlock import UpperLocks
from fusemount.rootfs.uppermarks import (
    ROOTS_WORD,
    TRUSTED,
    USER,
    has_prefixed_names,
    prefixes,
    remember,
)
from fusemount.rootfs.upperplace import check_apart, open_dir, open_work, usable, without_mounts

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
OVERRIDE_STAT = b"user.containers.override_stat"
_ESCAPED_OVERRIDE = b"imgmount.override_stat"  # a user's own, which must not say who owns a file
ACL_ACCESS, ACL_DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
CAPABILITY = b"security.capability"
OPAQUE, REDIRECT, METACOPY = b"opaque", b"redirect", b"metacopy"
ORIGIN, TIMES, HELD = b"imgmount.origin", b"imgmount.times", b"imgmount.held"
SPECIAL, VOLATILE = b"imgmount.special", b"imgmount.volatile"
_INCOMPAT = "incompat/volatile"
_OVERRIDE = re.compile(
    rb"(\d{1,10}):(\d{1,10}):([0-7]{1,6})(?::((?:char|block)-\d{1,10}-\d{1,10}))?(?::|$)"
)
_SPECIAL = re.compile(rb"(char|block)-(\d{1,10})-(\d{1,10})")
_ID_MAX = 2**32 - 2
_KINDS = {b"char": stat.S_IFCHR, b"block": stat.S_IFBLK}
# f_type of file systems whose st_ino may be another after the inode has left the cache:
# linux/magic.h, FUSE_SUPER_MAGIC and OVERLAYFS_SUPER_MAGIC.
_FLEETING_INODES = (0x65735546, 0x794C7630)
_LONG_MARK = 256  # bytes
_CANNOT_OWN = (errno.EPERM, errno.EINVAL)


@dataclass(frozen=True)
class Owner:
    """Who owns an object and how it may be used; mode is the 07777 part."""

    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Held:
    """What the mark `held` says of a file; the mode is the 07777 part."""

    mode: int
    atime_ns: int
    mtime_ns: int
    capability: bytes | None


def format_held(held: Held) -> bytes:
    capability = b"-" if held.capability is None else held.capability.hex().encode()
    return b"%o %d %d %s" % (held.mode, held.atime_ns, held.mtime_ns, capability)


_HELD = re.compile(rb"([0-7]{1,4}) (-?\d{1,20}) (-?\d{1,20}) (-|(?:[0-9a-f]{2}){1,64})")
_TIMES = re.compile(rb"(-?\d{1,20}) (-?\d{1,20})")


def parse_held(text: bytes | None) -> Held | None:
    """None for a mark that is not there, or that nobody of us wrote."""
    parts = _HELD.fullmatch(text or b"")
    if not parts:
        return None
    capability = None if parts[4] == b"-" else bytes.fromhex(parts[4].decode())
    return Held(int(parts[1], 8), int(parts[2]), int(parts[3]), capability)


def parse_times(text: bytes | None) -> tuple[int, int] | None:
    """(atime, mtime) in ns of the mark `times`; None likewise."""
    parts = _TIMES.fullmatch(text or b"")
    return (int(parts[1]), int(parts[2])) if parts else None


def _boot() -> bytes:
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


class Upper:
    """One upper directory and its work directory, locked for this process.

    Raises UpperError when it cannot be used, NotPermitted for a work directory that others can
    write to; every method raises OSError as the system does.
    inodes_last: an object has one st_ino as long as it is.
    """

    def __init__(
        self,
        upper: Path,
        work: Path | None,
        *,
        at: int | None = None,
        work_above: int | None = None,
        live: bool = False,
        volatile: bool = False,
        userxattr: bool = False,
        lock_places: Sequence[Path] = (),
    ) -> None:
        """work None: the upper is only looked at; nothing is made, written or swept.

        at: a descriptor of the upper, whatever stands at its path by now; work_above: of the
        directory that work is in, likewise.  Both stay the caller's.
        live: a mount may be writing to it meanwhile, so it is not locked, and what is listed may be
        gone when it is looked at.
        volatile: nothing will be synced; what was so before the machine last started is refused.
        userxattr: <P> is `user.overlay.`, whoever we are.  lock_places: upperlock.py.
        """
        self.path, self.work_path, self.live = upper, work, live
        self._userxattr, self._opens_all = userxattr, userxattr and by_root()
        self._serial = count(1)
        self.inodes_last, self.ctimes = False, Ctimes()
        self.fd = self.work_fd = self._lock_fd = -1
        self._locks = UpperLocks(upper, lock_places, alone=work is not None)
        self.prefixed = False  # names `.wh.` are marks (prefixed.py)
        try:
            self._open(upper, work, at, work_above, volatile)
        except BaseException:
            self.close()
            raise

    def _open(
        self,
        upper: Path,
        work: Path | None,
        at: int | None,
        work_above: int | None,
        volatile: bool,
    ) -> None:
        if work is None:
            self.fd = open_dir(upper, at)
            (self.fd,) = without_mounts(upper, self.fd)
            if not self.live:
                self._lock()
            self.prefix = prefixes(self.fd, upper, self._userxattr)[-1]
            self.prefixed = has_prefixed_names(self.fd)
            return
        check_apart(upper, work)
        self.fd = open_dir(upper, at, make=True)
        with usable(work):
            inside = None if work_above is None else (work_above, work.name)
            self._lock_fd = own_directory(work, inside=inside, by_descriptor=True)
        self.fd, self._lock_fd = without_mounts(upper, self.fd, self._lock_fd)
        self._lock()
        # As the kernel's: only the directory `work` in the user's is ours to sweep.
        with usable(work / "work"):
            self.work_fd = open_work(work / "work", self._lock_fd)
            self._locks.take_work(self._lock_fd, self.work_fd)
        if os.fstat(self.fd).st_dev != os.fstat(self.work_fd).st_dev:
            raise UpperError(f"{work}: not on the file system of {upper}")
        self.prefix = self._probe_prefix()
        self.prefixed = has_prefixed_names(self.fd)
        if not self.privileged:
            remember(self.fd)
        self.inodes_last = _native.fs_type(self.fd) not in _FLEETING_INODES
        if self.inodes_last:
            self.ctimes = read_ctimes(self._lock_fd)
        self._end_volatile(work / "work" / _INCOMPAT)
        for left in os.listdir(self.work_fd):
            self.discard(os.fsencode(left))
        if volatile:
            self.set_mark(self.fd, b".", VOLATILE, _boot())
            os.close(make_dirs_in_root(self.work_fd, _INCOMPAT))

    def _end_volatile(self, incompat: Path) -> None:
        """What a volatile mount wrote is whole while the machine has not failed since: then it is
        synced, and volatile no more (Documentation/filesystems/overlayfs.rst, "Volatile mount")."""
        try:
            os.close(open_beneath(self.work_fd, _INCOMPAT, os.O_PATH))
        except FileNotFoundError:
            self.remove_mark(self.fd, b".", VOLATILE)
            return
        if self.mark(self.fd, b".", VOLATILE) != _boot():
            raise UpperError(
                f"{self.path}: was mounted volatile when the machine stopped, so it may be "
                f"damaged; to use it all the same remove {incompat}"
            )
        _native.syncfs(self.fd)
        self.remove_mark(self.fd, b".", VOLATILE)

    def _lock(self) -> None:
        with usable(self.path):
            self._locks.take(self.fd)

    def _probe_prefix(self) -> bytes:
        for prefix in prefixes(self.fd, self.path, self._userxattr):
            try:
                os.setxattr(self.work_fd, prefix + b"probe", b"")
                os.removexattr(self.work_fd, prefix + b"probe")
            except OSError as e:
                reason = e
            else:
                return prefix
        kinds = "trusted. xattrs (see -o userxattr)" if prefix == TRUSTED else "xattrs"
        raise UpperError(f"{self.path}: its file system keeps no {kinds}: {reason.strerror}")

    def keep_ctimes(self, told: list[tuple[int, int]]) -> None:
        """For the next mount; without room for them it tells the objects' own."""
        if self.inodes_last and (told or self.ctimes.told):
            with suppress(OSError):
                write_ctimes(self._lock_fd, told)

    def close(self) -> None:
        self._locks.close()
        for fd in (self.fd, self.work_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.work_fd = self._lock_fd = -1

    # ---- places ---------------------------------------------------------------------------

    def temporary(self) -> bytes:
        """A name in the work directory that nothing has. Any thread may ask."""
        return b"#%d" % next(self._serial)

    @property
    def privileged(self) -> bool:
        """Files can be given away, and devices made."""
        return self.prefix == TRUSTED

    @staticmethod
    def _name_of(fd: int, path: bytes) -> bytes:
        """An object for calls that take no descriptor: to be followed if path is empty."""
        return name_in(fd, path) if path else fd_path(fd)

    # ---- xattrs ---------------------------------------------------------------------------

    def encode(self, name: bytes) -> bytes:
        """The name under which a user's xattr is stored."""
        if name.startswith(self.prefix):
            return self.prefix + b"overlay." + name[len(self.prefix) :]
        if name == OVERRIDE_STAT and self.prefix == USER:
            return self.prefix + _ESCAPED_OVERRIDE
        return name

    def decode(self, name: bytes) -> bytes | None:
        """The user's name of a stored xattr; None for those that are overlayfs' or ours."""
        if self.prefix == USER and name in (OVERRIDE_STAT, ROOTS_WORD):
            return None
        if name.startswith(self.prefix):
            rest = name[len(self.prefix) :]
            if rest == _ESCAPED_OVERRIDE:
                return OVERRIDE_STAT
            return self.prefix + rest[8:] if rest.startswith(b"overlay.") else None
        return name

    def raw_xattr(self, fd: int, path: bytes, name: bytes) -> bytes | None:
        try:
            return os.getxattr(self._name_of(fd, path), name, follow_symlinks=not path)
        except OSError as e:
            if e.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                return None
            raise

    def stored(self, fd: int, path: bytes) -> dict[bytes, bytes]:
        """All xattrs of an object, as they are stored; not what goes while they are read."""
        listed = os.listxattr(self._name_of(fd, path), follow_symlinks=not path)
        found = ((name, self.raw_xattr(fd, path, name)) for name in map(os.fsencode, listed))
        return {name: value for name, value in found if value is not None}

    def users(self, stored: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Those that are the user's, under their own names."""
        named = ((self.decode(name), value) for name, value in stored.items())
        return {name: value for name, value in named if name is not None}

    def xattrs(self, fd: int, path: bytes) -> dict[bytes, bytes]:
        """The user's xattrs of an object, under their own names."""
        return self.users(self.stored(fd, path))

    def set_xattr(self, fd: int, path: bytes, name: bytes, value: bytes) -> None:
        place = self._name_of(fd, path)
        os.setxattr(place, self.encode(name), value, follow_symlinks=not path)

    def remove_xattr(self, fd: int, path: bytes, name: bytes) -> None:
        os.removexattr(self._name_of(fd, path), self.encode(name), follow_symlinks=not path)

    def set_mark(self, fd: int, path: bytes, mark: bytes, value: bytes) -> None:
        """Sets <P>mark (opaque, redirect)."""
        place = self._name_of(fd, path)
        os.setxattr(place, self.prefix + mark, value, follow_symlinks=not path)

    def try_mark(self, fd: int, path: bytes, mark: bytes, value: bytes) -> None:
        """The same, unless such an object cannot have it: user xattrs are for files and
        directories, and a long path may find no room among others (ext4 has one block for all)."""
        try:
            self.set_mark(fd, path, mark, value)
        except OSError as e:
            long = len(value) > _LONG_MARK and e.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
            cannot = not self.privileged and e.errno in (errno.EPERM, errno.EOPNOTSUPP)
            if not long and not cannot:
                raise

    def remove_mark(self, fd: int, path: bytes, mark: bytes) -> None:
        """Takes a mark away that may not be there."""
        try:
            os.removexattr(self._name_of(fd, path), self.prefix + mark, follow_symlinks=not path)
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise

    def mark(self, fd: int, path: bytes, mark: bytes) -> bytes | None:
        return self.raw_xattr(fd, path, self.prefix + mark)

    # ---- times ----------------------------------------------------------------------------

    def mark_times(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """A directory is about to be changed in a way that does not show."""
        self.set_mark(fd, path, TIMES, b"%d %d" % (atime_ns, mtime_ns))

    def settle_times(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """It was, and looks as it did."""
        self.set_times(fd, path, atime_ns, mtime_ns)
        self.remove_mark(fd, path, TIMES)

    def set_times(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        place = self._name_of(fd, path)
        os.utime(place, ns=(atime_ns, mtime_ns), follow_symlinks=not path)

    # ---- owners ---------------------------------------------------------------------------

    def owner(self, fd: int, path: bytes, st: os.stat_result) -> Owner:
        """Owner and mode of an object, from where they are kept."""
        kept = None
        if not self.privileged and not stat.S_ISLNK(st.st_mode):
            kept = self.raw_xattr(fd, path, OVERRIDE_STAT)
        return self.owner_of(st, {OVERRIDE_STAT: kept} if kept else {})

    def owner_of(self, st: os.stat_result, stored: dict[bytes, bytes]) -> Owner:
        """The same, where the xattrs are known."""
        kept = b"" if self.privileged else stored.get(OVERRIDE_STAT, b"")
        if parts := _OVERRIDE.match(kept):
            uid, gid, mode = int(parts[1]), int(parts[2]), int(parts[3], 8)
            if max(uid, gid) <= _ID_MAX:
                return Owner(uid, gid, mode & 0o7777)
        return Owner(st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode))

    def kind_of(self, st: os.stat_result, stored: dict[bytes, bytes]) -> tuple[int, int]:
        """(S_IFMT, dev_t) of what an object is, or stands for."""
        if stat.S_ISREG(st.st_mode) and not st.st_size:
            kept = stored.get(self.prefix + SPECIAL)
            if kept is None and not self.privileged:
                parts = _OVERRIDE.match(stored.get(OVERRIDE_STAT, b""))
                kept = parts and parts.group(4)
            if kept and (parts := _SPECIAL.fullmatch(kept)):
                major, minor = int(parts[2]), int(parts[3])
                if major < 1 << 12 and minor < 1 << 20:  # Linux' dev_t
                    return _KINDS[parts[1]], os.makedev(major, minor)
        return stat.S_IFMT(st.st_mode), st.st_rdev

    def make_node(self, fd: int, name: bytes, mode: int, rdev: int) -> None:
        """mknod(2) in the work directory, of what the system or overlayfs will not have too."""
        stands_for = stat.S_ISCHR(mode) and rdev == 0  # a whiteout to overlayfs
        if not stands_for:
            try:
                os.mknod(name, mode, rdev, dir_fd=fd)
                return
            except PermissionError:
                if self.privileged or not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
                    raise
        os.mknod(name, stat.S_IFREG | stat.S_IMODE(mode), dir_fd=fd)
        word = b"char" if stat.S_ISCHR(mode) else b"block"
        value = b"%s-%d-%d" % (word, os.major(rdev), os.minor(rdev))
        if stands_for:
            self.set_mark(fd, name, SPECIAL, value)
        else:
            # give() puts owner and mode before it
            self._set_override(fd, name, b"0:0:0600:" + value)

    def _set_override(self, fd: int, path: bytes, value: bytes) -> None:
        place = self._name_of(fd, path)
        os.setxattr(place, OVERRIDE_STAT, value, follow_symlinks=not path)

    def _chmod(self, fd: int, path: bytes, mode: int) -> None:
        os.chmod(self._name_of(fd, path), mode, follow_symlinks=not path)

    def give(self, fd: int, path: bytes, owner: Owner) -> None:
        """chown and chmod, in that order since chown drops set-id bits; kept beside the object
        where the system does not let it go."""
        place, follow = self._name_of(fd, path), not path
        st = os.stat(place, follow_symlinks=follow)
        link = stat.S_ISLNK(st.st_mode)
        override = False
        if (st.st_uid, st.st_gid) != (owner.uid, owner.gid):
            try:
                os.chown(place, owner.uid, owner.gid, follow_symlinks=follow)
            except OSError as e:
                if e.errno not in _CANNOT_OWN or self.privileged:
                    raise
                override = True
        if link:
            return
        if not self.privileged:
            self._give_unprivileged(fd, path, owner, st, override)
        else:
            self._chmod(fd, path, owner.mode)

    def _give_unprivileged(
        self, fd: int, path: bytes, owner: Owner, st: os.stat_result, override: bool
    ) -> None:
        # The daemon must be able to open what it serves, so its own rights stay on the object.
        mine = 0 if self._opens_all else 0o700 if stat.S_ISDIR(st.st_mode) else 0o600
        self._chmod(fd, path, (owner.mode & ~0o6000 if override else owner.mode) | mine)
        before = self.raw_xattr(fd, path, OVERRIDE_STAT)
        parts = _OVERRIDE.match(before or b"")
        special = b":" + parts[4] if parts and parts[4] else b""
        if override or special or owner.mode & mine != mine:
            kept = b"%d:%d:0%o%s" % (owner.uid, owner.gid, owner.mode, special)
            self._set_override(fd, path, kept)
        elif before is not None:
            os.removexattr(self._name_of(fd, path), OVERRIDE_STAT, follow_symlinks=not path)

    # ---- whiteouts and removal ------------------------------------------------------------

    def is_whiteout(self, st: os.stat_result, stored: dict[bytes, bytes]) -> bool:
        if stat.S_ISCHR(st.st_mode):
            return st.st_rdev == 0
        if stat.S_ISREG(st.st_mode) and st.st_size == 0:
            return self.prefix + b"whiteout" in stored
        return False

    def make_opaque(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """A directory that holds all it shows is marked so, and its whiteouts go."""
        self.mark_times(fd, path, atime_ns, mtime_ns)
        self.set_mark(fd, path, OPAQUE, b"y")
        self.remove_mark(fd, path, REDIRECT)
        here = open_beneath(fd, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in map(os.fsencode, os.listdir(here)):
                st = os.stat(name, dir_fd=here, follow_symlinks=False)
                whiteout = stat.S_ISCHR(st.st_mode) and st.st_rdev == 0
                if stat.S_ISREG(st.st_mode) and st.st_size == 0:
                    whiteout = self.mark(here, name, b"whiteout") is not None
                if whiteout:
                    os.unlink(name, dir_fd=here)
        finally:
            os.close(here)
        self.settle_times(fd, path, atime_ns, mtime_ns)

    @contextmanager
    def _whiteout(self) -> Iterator[bytes]:
        """A whiteout in the work directory, under a name that is free again after an error."""
        name = self.temporary()
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=self.work_fd)
        try:
            yield name
        except OSError:
            self.leave(name)
            raise

    def whiteout(self, fd: int, name: bytes) -> None:
        """Puts a whiteout where nothing is, or in place of a non-directory."""
        with self._whiteout() as made:
            os.rename(made, name, src_dir_fd=self.work_fd, dst_dir_fd=fd)

    def replace_dir_by_whiteout(self, fd: int, name: bytes) -> bytes:
        """In one step; returns the directory's name in the work directory."""
        with self._whiteout() as made:
            _native.renameat2(self.work_fd, made, fd, name, RENAME_EXCHANGE)
        return made

    def take_out(self, fd: int, name: bytes) -> bytes:
        """Moves an object into the work directory; returns its name there."""
        left = self.temporary()
        os.rename(name, left, src_dir_fd=fd, dst_dir_fd=self.work_fd)
        return left

    def link_in(self, staged: bytes, fd: int, name: bytes) -> None:
        """Gives an object of the work directory a name where nothing is, or what a copy-up left
        that failed and could not be undone."""
        work = self.work_fd
        try:
            os.link(staged, name, src_dir_fd=work, dst_dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise
            spare = self.temporary()
            os.link(staged, spare, src_dir_fd=work, dst_dir_fd=work, follow_symlinks=False)
            try:
                os.rename(spare, name, src_dir_fd=work, dst_dir_fd=fd)
            except OSError:
                self.leave(spare)
                raise

    def put_in(self, staged: bytes, fd: int, name: bytes) -> None:
        """Moves an object from the work directory to where nothing is, or a whiteout."""
        if stat.S_ISDIR(os.stat(staged, dir_fd=self.work_fd, follow_symlinks=False).st_mode):
            self._put_dir_in(staged, fd, name)
        else:
            os.rename(staged, name, src_dir_fd=self.work_fd, dst_dir_fd=fd)

    def _put_dir_in(self, name: bytes, fd: int, rest: bytes) -> None:
        try:
            _native.renameat2(self.work_fd, name, fd, rest, RENAME_NOREPLACE)
        except FileExistsError:  # a whiteout, which rename(2) would not replace by a directory
            _native.renameat2(self.work_fd, name, fd, rest, RENAME_EXCHANGE)
            self.leave(name)

    def leave(self, name: bytes) -> None:
        """Removes what an operation that is done has left in the work directory, if it can: the
        operation is done all the same, and the next start removes the rest."""
        with suppress(OSError):
            self.discard(name)

    def discard(self, name: bytes) -> None:
        """Removes an object of the work directory, with all below it."""
        remove_tree(self.work_fd, name)
