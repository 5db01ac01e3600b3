"""Law: reads and changes one object of an upper on disk: xattrs, marks, times, owner, and the kind
of object that it stands for.

Format (kernel: Documentation/filesystems/overlayfs.rst, fs/overlayfs/overlayfs.h):

    whiteout        character device 0:0, or an empty file with xattr <P>whiteout when the
                    directory says <P>opaque = "x"
    opaque          directory with <P>opaque = "y"
    redirect        directory with <P>redirect = "/path/in/the/layers" or "name beside it"
    metacopy        file with <P>metacopy: it has attributes only; its data are in the layers, at
                    <P>redirect or at its own path
    escape          a user's own xattr <P>NAME is stored as <P>overlay.NAME

and marks of our own, which overlayfs hides and ignores:

    <P>imgmount             on the root, "1": this upper was mounted before; "2": and directories
                            that were copied up have a mark (bynames.py)
    <P>imgmount.base        on the root: base.py
    <P>imgmount.origin      "path/in/the/layers" of an object that was copied up, so that it has the
                            same inode number at the next mount; not on symlinks and devices if <P>
                            is user's
    <P>imgmount.volatile    on the root: the ID of the boot in which nothing was synced; the work
                            directory then also has overlayfs' own mark incompat/volatile
    <P>imgmount.times       "atime mtime" in ns: the directory's real times, while an object is
                            copied up into it
    <P>imgmount.held        "mode atime mtime capability" (octal, ns, ns, hex or "-"): the file's
                            real ones, while its data are copied
    <P>imgmount.special     "char-MAJOR-MINOR": the device that an empty file stands for; used for a
                            device 0:0, which would be a whiteout, and where devices are harmless
    <P>imgmount.set_id      "4000", "2000" or "6000": set-id bits of an object that is no directory,
                            in addition to those of its mode
    <P>imgmount.capability  the value of its security.capability, if it has no real one

The last two, and `special` for devices other than 0:0, are written by mounts that keep their upper
harmless (harmless.py).  All mounts understand them.

<P> is `trusted.overlay.` or `user.overlay.` (uppermarks.py chooses).  If files cannot be given away
(no CAP_CHOWN, or an id that the user namespace lacks), `user.containers.override_stat` contains
owner and mode as "uid:gid:0mode", as fuse-overlayfs and podman write it.  A device that cannot be
made is an empty file with "uid:gid:0mode:char-MAJOR-MINOR" or "…:block-MAJOR-MINOR" there.

An untrusted user who can write to a directory of the upper may exchange objects in it at any time.
So methods take an object in one of two forms.  (its own descriptor, b""): native/upper/upperdir.h
returns such a descriptor and has checked it.  (a directory's descriptor, one name), which is not
followed if it is a symlink: only for reading, and for the work directory, which only we can change.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from fusemount.dataclass import dataclass
from fusemount.rootfs.harmless import SET_ID, SET_ID_BITS, format_bits, parse_bits
from fusemount.rootfs.objectmarks import OVERRIDE_STAT, ObjectMarks

SPECIAL = b"imgmount.special"
_OVERRIDE = re.compile(
    rb"(\d{1,10}):(\d{1,10}):([0-7]{1,6})(?::((?:char|block)-\d{1,10}-\d{1,10}))?(?::|$)"
)
_SPECIAL = re.compile(rb"(char|block)-(\d{1,10})-(\d{1,10})")
_ID_MAX = 2**32 - 2
_KINDS = {b"char": stat.S_IFCHR, b"block": stat.S_IFBLK}
_CANNOT_OWN = (errno.EPERM, errno.EINVAL)


@dataclass(frozen=True)
class Owner:
    """Who owns an object and how it may be used; mode is the 07777 part."""

    uid: int
    gid: int
    mode: int


def _special(override: bytes | None) -> bytes:
    """ ":char-MAJOR-MINOR" or ":block-MAJOR-MINOR" of a stored owner, if the object is a device."""
    parts = _OVERRIDE.match(override or b"")
    return b":" + parts[4] if parts and parts[4] else b""


class Objects(ObjectMarks):
    """Operations on one object of an upper; Upper, a subclass, opens the upper.

    Every method raises OSError of its system calls.
    """

    opens_all = False  # we may open an object even if its mode forbids it

    def owner(self, fd: int, path: bytes, st: os.stat_result) -> Owner:
        """Owner and mode of an object, from its inode or from the xattr that has them."""
        name = self.prefix + SET_ID if self.privileged else OVERRIDE_STAT
        has_none = stat.S_ISDIR(st.st_mode) and self.privileged
        kept = None
        if not has_none and not stat.S_ISLNK(st.st_mode):
            kept = self.raw_xattr(fd, path, name)
        return self.owner_of(st, {name: kept} if kept else {})

    def owner_of(self, st: os.stat_result, stored: dict[bytes, bytes]) -> Owner:
        """As owner(), from xattrs that were read already."""
        kept = b"" if self.privileged else stored.get(OVERRIDE_STAT, b"")
        if parts := _OVERRIDE.match(kept):
            uid, gid, mode = int(parts[1]), int(parts[2]), int(parts[3], 8)
            if max(uid, gid) <= _ID_MAX:
                return Owner(uid, gid, mode & 0o7777)
        bits = 0
        if self.privileged and not stat.S_ISDIR(st.st_mode):
            bits = parse_bits(stored.get(self.prefix + SET_ID))
        return Owner(st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode) | bits)

    def kind_of(self, st: os.stat_result, stored: dict[bytes, bytes]) -> tuple[int, int]:
        """(S_IFMT, dev_t) of an object, or of the device that an empty file stands for."""
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
        """mknod(2) in the work directory, also of devices that the system or overlayfs does not
        allow; these become empty files with a mark.  give() sets set-id bits."""
        device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        whiteout = stat.S_ISCHR(mode) and rdev == 0
        mode &= ~SET_ID_BITS
        if not whiteout and not (device and self.harmless.devices):
            try:
                os.mknod(name, mode, rdev, dir_fd=fd)
                return
            except PermissionError:
                if self.privileged or not device:
                    raise
        os.mknod(name, stat.S_IFREG | stat.S_IMODE(mode), dir_fd=fd)
        word = b"char" if stat.S_ISCHR(mode) else b"block"
        value = b"%s-%d-%d" % (word, os.major(rdev), os.minor(rdev))
        if whiteout or self.privileged:
            self.set_mark(fd, name, SPECIAL, value)
        else:
            # give() replaces this owner and mode
            self._set_override(fd, name, b"0:0:0600:" + value)

    def _set_override(self, fd: int, path: bytes, value: bytes) -> None:
        target = self._name_of(fd, path)
        os.setxattr(target, OVERRIDE_STAT, value, follow_symlinks=not path)

    def _chmod(self, fd: int, path: bytes, mode: int) -> None:
        os.chmod(self._name_of(fd, path), mode, follow_symlinks=not path)

    def give(self, fd: int, path: bytes, owner: Owner) -> None:
        """chown and chmod, in this order because chown drops set-id bits.  Where the system does
        not allow the chown, owner and mode are stored in an xattr."""
        target, follow = self._name_of(fd, path), not path
        st = os.stat(target, follow_symlinks=follow)
        link, directory = stat.S_ISLNK(st.st_mode), stat.S_ISDIR(st.st_mode)
        marked = self.privileged and not link and not directory
        had = parse_bits(self.mark(fd, path, SET_ID)) if marked else 0
        override = False
        if (st.st_uid, st.st_gid) != (owner.uid, owner.gid):
            try:
                if had:
                    self._set_bits(fd, path, 0)
                os.chown(target, owner.uid, owner.gid, follow_symlinks=follow)
            except OSError as e:
                if e.errno not in _CANNOT_OWN or self.privileged:
                    if had:
                        self._set_bits(fd, path, had)
                    raise
                override = True
            else:
                had = 0
        if link:
            return
        if not self.privileged:
            self._give_unprivileged(fd, path, owner, st, override)
        elif not marked:
            self._chmod(fd, path, owner.mode)
        else:
            self._chmod_marked(fd, path, owner.mode, stat.S_IMODE(st.st_mode), had)

    def mark_bits(self, fd: int, path: bytes, st: os.stat_result, bits: int) -> None:
        """Stores set-id bits in a mark; the object still has them."""
        if self.privileged:
            self._set_bits(fd, path, self.owner(fd, path, st).mode & SET_ID_BITS | bits)
        else:
            self._keep_override(fd, path, self.owner(fd, path, st))

    def _set_bits(self, fd: int, path: bytes, bits: int) -> None:
        if bits:
            self.set_mark(fd, path, SET_ID, format_bits(bits))
        else:
            self.remove_mark(fd, path, SET_ID)

    def _chmod_marked(self, fd: int, path: bytes, mode: int, was: int, had: int) -> None:
        """chmod of an object whose set-id bits are, or shall be, in a mark.

        The order is: bits that the mark loses, the real mode, bits that the mark gains.
        native/upper/harmless.h does the same.  was: the real mode.  had: the bits in the mark.
        """
        bits = mode & SET_ID_BITS if self.harmless.files else 0
        if had & ~bits:
            self._set_bits(fd, path, had & bits)
        try:
            self._chmod(fd, path, mode & ~bits)
            if bits & ~had:
                self._set_bits(fd, path, bits)
        except OSError:
            with suppress(OSError):
                self._chmod(fd, path, was)
                self._set_bits(fd, path, had)
            raise

    def _give_unprivileged(
        self, fd: int, path: bytes, owner: Owner, st: os.stat_result, override: bool
    ) -> None:
        # The daemon must be able to open the object, so the bits for its owner stay set.
        mine = 0 if self.opens_all else 0o700 if stat.S_ISDIR(st.st_mode) else 0o600
        if self.harmless.files and stat.S_ISREG(st.st_mode) and owner.mode & SET_ID_BITS:
            override = True
        self._chmod(fd, path, (owner.mode & ~0o6000 if override else owner.mode) | mine)
        before = self.raw_xattr(fd, path, OVERRIDE_STAT)
        if override or _special(before) or owner.mode & mine != mine:
            self._keep_override(fd, path, owner)
        elif before is not None:
            os.removexattr(self._name_of(fd, path), OVERRIDE_STAT, follow_symlinks=not path)

    def _keep_override(self, fd: int, path: bytes, owner: Owner) -> None:
        special = _special(self.raw_xattr(fd, path, OVERRIDE_STAT))
        kept = b"%d:%d:0%o%s" % (owner.uid, owner.gid, owner.mode, special)
        self._set_override(fd, path, kept)

    def is_whiteout(self, st: os.stat_result, stored: dict[bytes, bytes]) -> bool:
        if stat.S_ISCHR(st.st_mode):
            return st.st_rdev == 0
        if stat.S_ISREG(st.st_mode) and st.st_size == 0:
            return self.prefix + b"whiteout" in stored
        return False
