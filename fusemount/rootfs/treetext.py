r"""Law: the text form of a tree, one line a name, for tests and bug reports.

A line is 13 fields with one space between:

    path type mode uid gid size mtime nlink rdev target xattrs digest layer

    path    from "/", byte-exact
    type    f file, d directory, l symlink, c b p s device, fifo, socket,
            h a further name of an inode: target is its first name, the fields 3 to 9 and 11 to 13
            are those of the inode
    mode    four or five octal digits, 07777
    size    bytes; of a symlink its target's length; of anything else 0
    mtime   seconds.nanoseconds, the seconds floored (-1.999999999 is one ns before 1970)
    nlink   visible names; directories 2 + subdirectories
    rdev    major:minor, or "-"
    target  of a symlink, or of a further name its first one; else "-"
    xattrs  name=value,name=value, by name, or "-"; "," and "=" are escaped inside
    digest  sha256:<hex> of a file's contents with --digest; else "-"
    layer   number of the layer it came from, bottom 0; "-" if it came from none

A byte outside printable ASCII, a space, a backslash, and a field that is only "-" are written \xNN.
Lines are sorted by path, component by component; "first name" is in that order.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import chain

from fusemount import _native
from fusemount.budget import Holes
from fusemount.escape import escape, format_xattrs
from fusemount.rootfs.contents import contents
from fusemount.rootfs.paths import LINE_PATH_BYTES_MAX, check_length
from fusemount.rootfs.view import RootFs
from fusemount.settings import UNPACK_LIMIT, UnpackLimit

_TYPES = {
    stat.S_IFREG: b"f",
    stat.S_IFDIR: b"d",
    stat.S_IFLNK: b"l",
    stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
    stat.S_IFIFO: b"p",
    stat.S_IFSOCK: b"s",
}
_RUN = 1 << 16  # names sorted at once: Python handles signals in between


def format_line(
    path: bytes, kind: bytes, st: _native.Attr | os.stat_result, **rest: bytes
) -> bytes:
    """One line from the result of stat(2); rest: the fields target, xattrs, digest, layer."""
    ids: tuple[int, int, int, int]
    if isinstance(st, os.stat_result):
        ids = (st.st_uid, st.st_gid, st.st_nlink, st.st_rdev)
        mode, size, mtime = st.st_mode, st.st_size, st.st_mtime_ns
    else:
        ids = (st.uid, st.gid, st.nlink, st.rdev)
        mode, size, mtime = st.mode, st.size, st.mtime_ns
    uid, gid, nlink, rdev = ids
    device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    fields = (
        escape(path),
        kind,
        b"%04o" % stat.S_IMODE(mode),
        b"%d" % uid,
        b"%d" % gid,
        b"%d" % (size if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else 0),
        b"%d.%09d" % divmod(mtime, 10**9),
        b"%d" % nlink,
        b"%d:%d" % (os.major(rdev), os.minor(rdev)) if device else b"-",
        rest.get("target", b"-"),
        rest.get("xattrs", b"-"),
        rest.get("digest", b"-"),
        rest.get("layer", b"-"),
    )
    return b" ".join(fields)


class _Dump:
    def __init__(self, rootfs: RootFs, digest: bool, holes: Holes) -> None:
        self._rootfs, self._digest, self._holes = rootfs, digest, holes
        self._first_names: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}  # of files with several names, each hashed once

    def lines(self, ino: int, path: bytes) -> Iterator[bytes]:
        todo = [(ino, path, b"")]
        while todo:
            ino, directory, name = todo.pop()
            path = directory + b"/" + name if name else directory
            check_length(path, LINE_PATH_BYTES_MAX)
            attr = self._rootfs.getattr(ino)
            yield self._line(attr, path or b"/")
            if stat.S_ISDIR(attr.mode):
                todo.extend((child, path, name) for name, child in self._children(ino))

    def _children(self, ino: int) -> Iterable[tuple[bytes, int]]:
        """Sorted by name, the last first."""
        runs, cookie = [], 0
        while rows := self._rootfs.tree.readdir(ino, cookie, _RUN):
            runs.append(sorted(((name, child) for name, child, _ in rows), reverse=True))
            cookie = rows[-1][2]
        return heapq.merge(*runs, reverse=True) if len(runs) > 1 else chain.from_iterable(runs)

    def _line(self, attr: _native.Attr, path: bytes) -> bytes:
        tree = self._rootfs.tree
        kind, target = _TYPES[stat.S_IFMT(attr.mode)], b"-"
        if stat.S_ISLNK(attr.mode):
            target = escape(tree.readlink(attr.ino))
        if attr.nlink > 1 and not stat.S_ISDIR(attr.mode):
            first = self._first_names.setdefault(attr.ino, path)
            if first != path:
                kind, target = b"h", escape(first)
        return format_line(
            path,
            kind,
            attr,
            target=target,
            xattrs=format_xattrs(tree.xattrs(attr.ino)),
            digest=self._contents(attr, path) if self._digest and stat.S_ISREG(attr.mode) else b"-",
            layer=b"%d" % attr.layer if attr.layer >= 0 else b"-",
        )

    def _contents(self, attr: _native.Attr, path: bytes) -> bytes:
        known = self._digests.get(attr.ino)
        if known is not None:
            return known
        digest = hashlib.sha256()
        for piece in contents(self._rootfs, attr, path, self._holes):
            digest.update(piece)
        found = b"sha256:" + digest.hexdigest().encode()
        if attr.nlink > 1:
            self._digests[attr.ino] = found
        return found


def dump_lines(
    rootfs: RootFs,
    path: bytes = b"/",
    digest: bool = False,
    limit: UnpackLimit = UNPACK_LIMIT,
) -> Iterator[bytes]:
    """The lines for path and all below it, without line ends.

    path is resolved inside the root, a symlink at its end not followed.
    limit: of the zeros that are hashed for holes, all files together.
    Raises FileNotFoundError, NotADirectoryError, OSError (ELOOP); ImgmountError for a file that
    cannot be read or a path beyond its limit (paths.py), MalformedImage beyond the limit of zeros.
    """
    ino = rootfs.tree.resolve(path, False)
    yield from _Dump(rootfs, digest, Holes(limit)).lines(
        ino, b"/" + path.strip(b"/") if path.strip(b"/") else b""
    )
