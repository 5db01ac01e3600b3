"""Law: changes owner, mode, times, size and xattrs of nodes, first in the upper, then in the
tree."""

from __future__ import annotations

import stat
import time
from dataclasses import replace

from fusemount import _native
from fusemount.rootfs.harmless import CAPABILITY
from fusemount.rootfs.objectmarks import ACL_ACCESS, ACL_DEFAULT
from fusemount.rootfs.objects import Owner
from fusemount.rootfs.request import AttrChange, Caller
from fusemount.rootfs.writer import Writer, check_done, has_object


class Attributes:
    """Changes attributes of nodes. Raises OSError."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._tree, self._upper, self._copy = writer.tree, writer.upper, writer.copy

    def setattr(self, ino: int, change: AttrChange, caller: Caller) -> None:
        """chown, chmod, utimens and truncate, which the kernel has allowed.

        A change of size or owner removes set-id bits as it does for that caller elsewhere.
        """
        resized = False
        if not self._nothing_new(ino, change):
            resized = self._copy_up_for(ino, change)
        with self._writer.locked() as core:
            if resized and change.mtime_ns is None:
                # The copy-up has cut the file, so setattr sees no change of size that sets mtime.
                change = replace(change, mtime_ns=time.time_ns())
            # The copy-up could cut the file and then fail to end the metacopy.  The size is set
            # then, and a change of size would be declined because the data are still a layer's.
            if resized and self._tree.getattr(ino).meta:
                change = replace(change, size=None)
            try:
                if _set(core, ino, change, caller):
                    return
            except OSError:
                if not resized or change.mtime_ns is None:
                    raise
                # The file is cut already, which cannot be undone.
                self._tree.set_attr(ino, mtime_ns=change.mtime_ns)
                return
            self._copy.node(ino)
            if _set(core, ino, change, caller):
                return
            self._chown_chmod(ino, change, caller)
            rest = replace(change, mode=None, uid=None, gid=None)
            check_done(rest == AttrChange() or _set(core, ino, rest, caller))

    def _nothing_new(self, ino: int, change: AttrChange) -> bool:
        """Whether the kernel only sends back an mtime that we gave it (after unlink and link)."""
        return change == AttrChange(mtime_ns=change.mtime_ns) and change.mtime_ns in (
            None, self._tree.getattr(ino).mtime_ns)  # fmt: skip

    def _copy_up_for(self, ino: int, change: AttrChange) -> bool:
        """Copies up what the change needs, without the lock `change`. True if the copy-up has cut
        the file already."""
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
        """chown and chmod of an object that has an ACL, or whose owner is stored in an xattr."""
        now = self._tree.getattr(ino)
        mode = stat.S_IMODE(now.mode) if change.mode is None else change.mode
        chown = (change.uid, change.gid) != (None, None) and not stat.S_ISDIR(now.mode)
        if chown and change.mode is None:  # as chown(2) does
            ids = (caller.uid, caller.gid, caller.pid)
            mode &= ~_native.caller_loses(ids, mode, self._tree.shown(now.uid, now.gid)[1])
        uid = now.uid if change.uid is None else change.uid
        gid = now.gid if change.gid is None else change.gid
        with self._copy.object(ino) as (at, rest):
            if chown and self._tree.getxattr(ino, CAPABILITY) is not None:
                self._upper.remove_xattr(at, rest, CAPABILITY)
                self._tree.setxattr(ino, CAPABILITY, None)
            self._upper.give(at, rest, Owner(uid, gid, mode))
        # chmod changes the mask of an ACL.
        self._writer.refresh(ino, acls=self._tree.getxattr(ino, ACL_ACCESS) is not None)

    def setxattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Sets an xattr; None removes it (rules: native/upper/changexattr.h)."""
        with self._writer.locked() as core:
            if core.setxattr(ino, name, value):
                return
        self._writer.copy_data_if_needed(ino)
        with self._writer.locked() as core:
            if has_object(self._tree, ino):
                self._copy.node(ino)
            if core.setxattr(ino, name, value):
                return
            if has_object(self._tree, ino):
                self._store_xattr(ino, name, value)
            else:
                self._tree.setxattr(ino, name, value)

    def _store_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """In an upper that cannot store owners, where names of xattrs are stored otherwise."""
        with self._copy.object(ino) as (at, rest):
            if value is None:
                self._upper.remove_xattr(at, rest, name)
            else:
                self._upper.set_xattr(at, rest, name, value)
        if name in (ACL_ACCESS, ACL_DEFAULT):
            self._writer.refresh(ino, acls=True)  # the ACL changes the mode
        else:
            self._tree.setxattr(ino, name, value)
            self._writer.refresh(ino)


def _set(core: _native.UpperFiles, ino: int, c: AttrChange, caller: Caller) -> bool:
    ids, kill = (caller.uid, caller.gid, caller.pid), not _native.caller_keeps_set_id(caller.uid)
    return core.setattr(ino, c.mode, c.uid, c.gid, c.size, c.atime_ns, c.mtime_ns, ids, kill)


def same_owner(tree: _native.Tree, ino: int, caller: int) -> AttrChange:
    """The change that chown(2) with -1 and -1 makes.

    If the caller may chown the node, this is a chown to the present owner, which takes set-id bits
    and sets ctime.  Otherwise it is no change; nor is it one if the node was removed and has no
    object in the upper."""
    attr = tree.getattr(ino)
    if not has_object(tree, ino) or caller not in (0, tree.shown(attr.uid, attr.gid)[0]):
        return AttrChange()
    return AttrChange(uid=attr.uid, gid=attr.gid)


def without_set_id(tree: _native.Tree, ino: int, caller: Caller) -> AttrChange:
    """The change of mode for a SETATTR that sets nothing.

    The kernel sends such a SETATTR before a write that takes set-id bits.  The bits that this
    caller's write takes (native/upper/caller.h) must be taken now, because the kernel learns the
    new mode only from the answer."""
    now = tree.getattr(ino)
    group = tree.shown(now.uid, now.gid)[1]
    lost = _native.caller_loses((caller.uid, caller.gid, caller.pid), now.mode, group)
    return AttrChange(mode=stat.S_IMODE(now.mode) & ~lost) if lost else AttrChange()


def keep_ctime(tree: _native.Tree, ino: int, ctime_ns: int) -> None:
    """Gives a regular file the ctime that the kernel sends.

    With the writeback cache the kernel keeps the ctime of a file itself.  After it has dropped the
    inode and asks again, it must get the same ctime."""
    if stat.S_ISREG(tree.getattr(ino).mode):
        tree.set_attr(ino, ctime_ns=ctime_ns)
