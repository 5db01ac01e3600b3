"""Law: owner, mode, times, size and xattrs of nodes change here, first in the upper, then in the
tree."""

from __future__ import annotations

import errno
import stat
import time
from dataclasses import replace

from fusemount import _native
from fusemount.rootfs.harmless import CAPABILITY
from fusemount.rootfs.objects import ACL_ACCESS, ACL_DEFAULT, Owner
from fusemount.rootfs.request import AttrChange, Caller
from fusemount.rootfs.writer import Writer, check_done, fail, has_object


class Attributes:
    """Raises OSError."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._tree, self._upper, self._copy = writer.tree, writer.upper, writer.copy

    def setattr(self, ino: int, change: AttrChange, caller: Caller) -> None:
        """chown, chmod, utimens and truncate, which the kernel has allowed.

        A change of size or owner takes set-id bits as it does for that caller.
        """
        resized = False
        if not self._nothing_new(ino, change):
            resized = self._copy_up_for(ino, change)
        with self._writer.locked() as core:
            if resized and change.mtime_ns is None:
                # only so much was copied, so that nothing is cut off any more
                change = replace(change, mtime_ns=time.time_ns())
            if resized and self._tree.getattr(ino).meta:  # cut, but the layers have its data still
                change = replace(change, size=None)
            try:
                if _set(core, ino, change, caller):
                    return
            except OSError:
                if not resized or change.mtime_ns is None:
                    raise
                # it is cut already, which cannot be taken back
                self._tree.set_attr(ino, mtime_ns=change.mtime_ns)
                return
            self._copy.node(ino)
            if _set(core, ino, change, caller):
                return
            self._chown_chmod(ino, change, caller)
            rest = replace(change, mode=None, uid=None, gid=None)
            check_done(rest == AttrChange() or _set(core, ino, rest, caller))

    def _nothing_new(self, ino: int, change: AttrChange) -> bool:
        """The kernel's word of an mtime that it had from us (after unlink and link)."""
        return change == AttrChange(mtime_ns=change.mtime_ns) and change.mtime_ns in (
            None, self._tree.getattr(ino).mtime_ns)  # fmt: skip

    def _copy_up_for(self, ino: int, change: AttrChange) -> bool:
        """Before the lock. True when a file came up shorter than it was."""
        if change.size is None:
            self._writer.copy_data_if_needed(ino)
            return False
        attr = self._tree.getattr(ino)
        if not stat.S_ISREG(attr.mode) or not self._copy.bytes_in_layers(ino):
            return False
        mtime = time.time_ns() if change.mtime_ns is None else change.mtime_ns
        self._copy.with_data(ino, change.size, mtime if change.size < attr.size else None)
        return self._tree.getattr(ino).size == change.size < attr.size

    def _chown_chmod(self, ino: int, change: AttrChange, caller: Caller) -> None:
        """chown and chmod of what has an ACL, or where owners are kept beside the object."""
        now = self._tree.getattr(ino)
        mode = stat.S_IMODE(now.mode) if change.mode is None else change.mode
        chown = (change.uid, change.gid) != (None, None) and not stat.S_ISDIR(now.mode)
        if chown and change.mode is None:  # as chown(2) does
            who = (caller.uid, caller.gid, caller.pid)
            mode &= ~_native.caller_loses(who, mode, self._tree.shown(now.uid, now.gid)[1])
        uid = now.uid if change.uid is None else change.uid
        gid = now.gid if change.gid is None else change.gid
        with self._copy.object(ino) as (at, rest):
            if chown and self._tree.getxattr(ino, CAPABILITY) is not None:
                self._upper.remove_xattr(at, rest, CAPABILITY)
                self._tree.setxattr(ino, CAPABILITY, None)
            self._upper.give(at, rest, Owner(uid, gid, mode))
        # chmod changes an ACL's mask
        self._writer.refresh(ino, acls=self._tree.getxattr(ino, ACL_ACCESS) is not None)

    def setxattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Sets an xattr; None removes it (ENODATA when it is not there, but for an ACL that is
        not there: to remove it is to have the mode alone, as on ext4)."""
        absent = value is None and self._tree.getxattr(ino, name) is None
        if absent and name in (ACL_ACCESS, ACL_DEFAULT):
            return
        self._writer.copy_data_if_needed(ino)
        with self._writer.locked():
            if value is None and self._tree.getxattr(ino, name) is None:
                if name in (ACL_ACCESS, ACL_DEFAULT):
                    return  # as other file systems have it, whose set_acl removes what is not there
                fail(errno.ENODATA)
            if has_object(self._tree, ino):
                self._copy.node(ino)
                self._store_xattr(ino, name, value)
            else:
                self._tree.setxattr(ino, name, value)

    def _store_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        with self._copy.object(ino) as (at, rest):
            if value is None:
                self._upper.remove_xattr(at, rest, name)
            else:
                self._upper.set_xattr(at, rest, name, value)
        if name in (ACL_ACCESS, ACL_DEFAULT):
            self._writer.refresh(ino, acls=True)  # an ACL and the mode are one thing
        else:
            self._tree.setxattr(ino, name, value)
            self._writer.refresh(ino)


def _set(core: _native.UpperFiles, ino: int, c: AttrChange, caller: Caller) -> bool:
    who, kill = (caller.uid, caller.gid, caller.pid), not _native.caller_keeps_set_id(caller.uid)
    return core.setattr(ino, c.mode, c.uid, c.gid, c.size, c.atime_ns, c.mtime_ns, who, kill)


def same_owner(tree: _native.Tree, ino: int, caller: int) -> AttrChange:
    """What chown(2) to nobody is to do: as one to the owner it has (set-id bits, ctime), if
    the caller may; nothing to what the upper does not have."""
    attr = tree.getattr(ino)
    if not has_object(tree, ino) or caller not in (0, tree.shown(attr.uid, attr.gid)[0]):
        return AttrChange()
    return AttrChange(uid=attr.uid, gid=attr.gid)


def without_set_id(tree: _native.Tree, ino: int, caller: Caller) -> AttrChange:
    """What a write, which the kernel is about to send, takes before."""
    now = tree.getattr(ino)
    group = tree.shown(now.uid, now.gid)[1]
    lost = _native.caller_loses((caller.uid, caller.gid, caller.pid), now.mode, group)
    return AttrChange(mode=stat.S_IMODE(now.mode) & ~lost) if lost else AttrChange()


def keep_ctime(tree: _native.Tree, ino: int, ctime_ns: int) -> None:
    """The kernel's word of a file's ctime: it caches writes and keeps that time itself, so what
    it asks for after it dropped the inode must be what it had."""
    if stat.S_ISREG(tree.getattr(ino).mode):
        tree.set_attr(ino, ctime_ns=ctime_ns)
