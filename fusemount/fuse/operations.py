"""Law: pyfuse3's handlers.  Each translates a request, calls one method of the view, and answers.

The view makes each operation one step for all others.  A method that copies much data runs in a
thread (`_call`), so that other requests go on.  All errors pass `_answering`: OSError becomes
FUSEError; any other exception is a bug, is logged with its traceback, and is answered with EIO.

Handles: `fh` is the nodeid, so no table of handles is needed.  The kernel may keep names and
attributes for ever (entry and attribute timeouts), because only this process changes them.

Numbers: pyfuse3 has one number for nodeid and st_ino.  If it is the only door, it gives the kernel
st_ino, which stays the same over remounts, and `Numbers` finds the node.  Behind the fast path,
which replaces st_ino in the answers, it gives the nodeid.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import pyfuse3
import trio

from fusemount import _native
from fusemount.fuse.numbers import Numbers
from fusemount.rootfs import AttrChange, Caller, RootFs

log = logging.getLogger(__name__)

_FOREVER = 86400 * 365
_BATCH = 128  # directory entries read from the tree at once
_BLOCK = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM_SECONDS = 0.05
_AT_ONCE = 1 << 20  # bytes: copying fewer takes less time than starting a thread
_UNKNOWN = 1 << 62
# Parameters of handlers that are the kernel's number of a node.
_NUMBERS = frozenset(
    ("inode", "parent_inode", "new_parent_inode", "parent_inode_old", "parent_inode_new", "fh")
)
_F = TypeVar("_F", bound=Callable[..., Awaitable[Any]])
_T = TypeVar("_T")


def _answering(handler: _F) -> _F:
    names = enumerate(inspect.signature(handler).parameters)
    numbers = [i for i, name in names if name in _NUMBERS]

    @functools.wraps(handler)
    async def answer(*given: Any) -> Any:
        args = list(given)
        for i in numbers:
            args[i] = given[0].numbers.node(given[i])
        try:
            try:
                return await handler(*args)
            except OSError as e:
                if e.errno not in _FULL or args[0].behind_fast_path:
                    raise
                # The kernel sends FORGET after a file's removal, which may free space: try again.
                await trio.sleep(_ROOM_SECONDS)
                return await handler(*args)
        except OSError as e:
            raise pyfuse3.FUSEError(e.errno or errno.EIO) from None
        except (pyfuse3.FUSEError, trio.Cancelled):
            raise
        except Exception:
            log.exception("%s failed", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return cast(_F, answer)


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask, ctx.pid)


def _allowed_mode(mode: int, gid: int, ctx: pyfuse3.RequestContext) -> int:
    """The mode that chmod(2) would set for this caller.

    Where the kernel removes set-id bits itself, it does not remove set-gid without group execution
    from callers outside the file's group (fs/fuse/dir.c, fuse_setattr); chmod(2) would."""
    if mode & stat.S_IXGRP or ctx.uid == 0:
        return mode
    return mode & ~(_native.caller_loses((ctx.uid, ctx.gid, ctx.pid), mode, gid) & stat.S_ISGID)


class Operations(pyfuse3.Operations):
    """The handlers of one session.

    behind_fast_path: the fast path answers the kernel's OPEN itself.  An OPEN that comes here is
    the fast path's request to copy a file up: O_RDWR with its data, O_WRONLY only what a change of
    attributes needs.
    """

    supports_dot_lookup = True
    enable_writeback_cache = True

    def __init__(
        self, view: RootFs, *, acl: bool, ready: Callable[[], None], behind_fast_path: bool = False
    ) -> None:
        super().__init__()
        self.enable_acl = acl
        self._view = view
        self.behind_fast_path = behind_fast_path
        self.numbers = Numbers(only_door=not behind_fast_path)
        self._ready = ready

    def init(self) -> None:
        self._ready()

    async def _call(self, copies: int, function: Callable[..., _T], *args: Any) -> _T:
        """Calls a method of the view that copies `copies` bytes: in a thread if they are many."""
        if copies <= _AT_ONCE:
            return function(*args)
        return await trio.to_thread.run_sync(function, *args)

    def _copies(self, inode: int) -> int:
        """How many bytes a change of attributes or names copies."""
        return self._view.bytes_to_copy(inode) if self._view.needs_data(inode) else 0

    # ---- names ----------------------------------------------------------------------------

    def _entry(self, attr: _native.Attr) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(self.numbers.of(attr))
        entry.generation = attr.generation
        entry.entry_timeout = entry.attr_timeout = _FOREVER
        entry.st_mode = pyfuse3.ModeT(attr.mode)
        entry.st_nlink = attr.nlink
        entry.st_uid, entry.st_gid = self._view.tree.shown(attr.uid, attr.gid)
        entry.st_rdev = attr.rdev
        entry.st_size = attr.size
        entry.st_blocks = attr.blocks
        entry.st_atime_ns = attr.atime_ns
        entry.st_mtime_ns = attr.mtime_ns
        entry.st_ctime_ns = attr.ctime_ns
        return entry

    def _remembered(self, ino: int) -> pyfuse3.EntryAttributes:
        """The answer to a look-up: it counts one look-up of the node, until FORGET."""
        self._view.tree.remember(ino)
        attr = self._view.getattr(ino)
        self.numbers.remember(attr)
        return self._entry(attr)

    @_answering
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name == b".":
            return self._remembered(parent_inode)
        if name == b"..":
            names = self._view.tree.names(parent_inode)
            return self._remembered(names[0][0] if names else parent_inode)
        ino = self._view.lookup(parent_inode, name)
        if ino:
            return self._remembered(ino)
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = pyfuse3.InodeT(0)
        absent.entry_timeout = _FOREVER
        return absent

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, count in inode_list:
            ino = self.numbers.node(number)
            self._view.forget(ino, count)
            if not self._view.lives(ino):
                self.numbers.forget(number)

    @_answering
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._remembered(self._view.mknod(parent_inode, name, mode, rdev, _caller(ctx)))

    @_answering
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        mode = stat.S_IFDIR | mode & 0o7777
        return self._remembered(self._view.mknod(parent_inode, name, mode, 0, _caller(ctx)))

    @_answering
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        mode = stat.S_IFLNK | 0o777
        return self._remembered(self._view.mknod(parent_inode, name, mode, 0, _caller(ctx), target))

    @_answering
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        copies = self._copies(inode)
        await self._call(copies, self._view.link, inode, new_parent_inode, new_name)
        return self._remembered(inode)

    @_answering
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._view.unlink(parent_inode, name)

    @_answering
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._view.rmdir(parent_inode, name)

    @_answering
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        copies = 0 if self._view.metacopy else _UNKNOWN
        names = (parent_inode_old, name_old, parent_inode_new, name_new)
        await self._call(copies, self._view.rename, *names, flags, _caller(ctx))

    @_answering
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self._view.tree.readlink(inode)

    # ---- attributes -----------------------------------------------------------------------

    @_answering
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(self._view.getattr(inode))

    @_answering
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        uid, gid = self._view.tree.stored(attr.st_uid, attr.st_gid)
        change = AttrChange(
            mode=attr.st_mode & 0o7777 if fields.update_mode else None,
            uid=uid if fields.update_uid else None,
            gid=gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        now = self._view.getattr(inode)
        # chown(2) with -1 and -1 sends a ctime for a regular file and nothing for other objects.
        # A write that takes set-id bits may send nothing.
        if change == AttrChange() and (fields.update_ctime or not stat.S_ISREG(now.mode)):
            change = self._view.same_owner(inode, ctx.uid)
        elif change == AttrChange() and not _native.caller_keeps_set_id(ctx.uid):
            change = self._view.without_set_id(inode, _caller(ctx))
        elif change.mode is not None and not self.behind_fast_path:
            _, group = self._view.tree.shown(now.uid, now.gid)
            change = replace(change, mode=_allowed_mode(change.mode, group, ctx))
        if change != AttrChange():
            # pyfuse3 does not pass on the kernel's flag for this (FATTR_KILL_SUIDGID).
            resized = change.size is not None
            copies = self._view.bytes_to_copy(inode) if resized else self._copies(inode)
            await self._call(copies, self._view.setattr, inode, change, _caller(ctx))
        if fields.update_ctime:
            self._view.keep_ctime(inode, attr.st_ctime_ns)
        return self._entry(self._view.getattr(inode))

    @_answering
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        value = self._view.tree.getxattr(inode, name)
        if value is None:
            raise pyfuse3.FUSEError(_native.UpperFiles.no_such_xattr(name))
        return value

    @_answering
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        # The kernel lets only root read trusted.* xattrs; xattr(7): others do not see their names.
        names = list(self._view.tree.xattrs(inode))
        return names if ctx.uid == 0 else [n for n in names if not n.startswith(b"trusted.")]

    @_answering
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        await self._call(self._copies(inode), self._view.setxattr, inode, name, value)

    @_answering
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._call(self._copies(inode), self._view.setxattr, inode, name, None)

    @_answering
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        found = self._view.statfs()
        data.f_bsize = found.f_bsize if found else _BLOCK
        data.f_frsize = found.f_frsize if found else _BLOCK
        data.f_namemax = 255
        if found is None:
            data.f_files = self._view.tree.nodes
            return data
        data.f_blocks, data.f_bfree, data.f_bavail = found.f_blocks, found.f_bfree, found.f_bavail
        data.f_files, data.f_ffree, data.f_favail = found.f_files, found.f_ffree, found.f_favail
        return data

    # ---- files ----------------------------------------------------------------------------

    @_answering
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        copies = self._view.bytes_to_copy(inode)
        if self.behind_fast_path and flags & os.O_ACCMODE == os.O_RDWR:
            await self._call(copies, self._view.copy_up_data, inode)
        elif self.behind_fast_path and flags & os.O_ACCMODE == os.O_WRONLY:
            await self._call(self._copies(inode), self._view.copy_up, inode)
        copies = copies if flags & os.O_TRUNC else 0
        await self._call(copies, self._view.open, inode, flags, _caller(ctx))
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    @_answering
    async def create(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        ino = self._view.create(parent_inode, name, mode, _caller(ctx))
        info = pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(ino), keep_cache=True)
        return info, self._remembered(ino)

    @_answering
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return self._view.read(fh, off, size)

    @_answering
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._call(self._view.bytes_to_copy(fh), self._view.write, fh, off, buf)

    async def flush(self, fh: int) -> None:
        """Nothing is buffered: written data are in the upper already."""

    @_answering
    async def fsync(self, fh: int, datasync: bool) -> None:
        self._view.fsync(fh, datasync)

    async def release(self, fh: int) -> None:
        """Files have no handles."""

    # ---- directories ----------------------------------------------------------------------

    @_answering
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    @_answering
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        tree = self._view.tree
        names = tree.names(fh)
        dots = ((b".", fh), (b"..", names[0][0] if names else fh))
        for cookie, (name, ino) in enumerate(dots, start=1):
            if cookie > start_id and not pyfuse3.readdir_reply(
                token, pyfuse3.FileNameT(name), self._entry(tree.getattr(ino)), cookie
            ):
                return
        at = max(start_id, 2)
        while rows := tree.readdir(fh, at, _BATCH):
            for name, ino, at in rows:
                attr = tree.getattr(ino)
                if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), self._entry(attr), at):
                    return
                tree.remember(ino)
                self.numbers.remember(attr)

    async def releasedir(self, fh: int) -> None:
        """Directories have no handles."""

    @_answering
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._view.fsync(fh, datasync)

    @_answering
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        # Only sent without default_permissions; then only the user who mounted can send requests.
        return not mode & os.X_OK or bool(self._view.getattr(inode).mode & 0o111)
