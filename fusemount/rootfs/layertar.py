"""Law: writes changes as the tar of a layer (OCI image-spec, layer.md).  The same upper always
gives the same bytes.

    deleted         an empty file .wh.NAME
    opaque          an empty file .wh..wh..opq as the directory's first member
    changed, added  the complete object, because a layer cannot change attributes alone
    hardlinks       the first name as a file, the others as links to it

Directories come before what is in them, with their attributes, even if these did not change: a
reader that unpacks each layer by itself would otherwise invent them.  Holes are written as zeros,
because not every engine reads the sparse members of GNU and PAX (containers/storage refuses type
S).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from fusemount import tar
from fusemount._native import Attr
from fusemount.budget import Holes
from fusemount.errors import ImgmountError
from fusemount.rootfs.changes import CHANGED, DELETED, Change
from fusemount.rootfs.contents import contents
from fusemount.rootfs.view import RootFs
from fusemount.settings import UNPACK_LIMIT, UnpackLimit

WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"
NOT_OURS = frozenset((b"security.selinux",))  # the host's policy sets it
_PIECE = 1 << 20
_KINDS = {
    stat.S_IFREG: tar.FILE,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFIFO: tar.FIFO,
}


def layer_tar(
    rootfs: RootFs,
    changes: Sequence[Change],
    warn: Callable[[str], None],
    *,
    newest_s: int | None = None,
    limit: UnpackLimit = UNPACK_LIMIT,
) -> Iterator[bytes]:
    """The tar in pieces of about 1 MiB. changes: of compare(), in its order.

    newest_s: later times are written as this one.  warn: is called for each object that no layer
    can contain (sockets).  limit: of the zeros for holes, of all files together.
    Raises ImgmountError for a file that cannot be read, or that shrinks or is removed meanwhile;
    MalformedImage beyond the limit.
    """
    yield from _joined(_LayerTar(rootfs, warn, newest_s, Holes(limit)).pieces(changes))


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


class _LayerTar:
    def __init__(
        self, rootfs: RootFs, warn: Callable[[str], None], newest_s: int | None, holes: Holes
    ) -> None:
        self._rootfs, self._warn, self._holes = rootfs, warn, holes
        self._newest = None if newest_s is None else newest_s * 10**9
        self._first_names: dict[int, bytes] = {}

    def pieces(self, changes: Sequence[Change]) -> Iterator[bytes]:
        for change in changes:
            directory, _, name = change.path.rpartition(b"/")
            if change.kind == DELETED:
                if name.startswith(WHITEOUT) and not change.hidden:
                    raise ImgmountError(
                        f"/{os.fsdecode(change.path)}: no layer can say that a name that begins "
                        "with .wh. was deleted"
                    )
                if not change.hidden:
                    yield _mark(directory, WHITEOUT + name)
                continue
            if any(part.startswith(WHITEOUT) for part in change.path.split(b"/")):
                # Who can make a file in the mount can make such a name: so it is no error.
                if name.startswith(WHITEOUT):
                    self._warn(f"/{os.fsdecode(change.path)}: a name that begins with .wh., which "
                               "would delete something in a layer")  # fmt: skip
                continue
            yield from self._object(change, directory, name)
        yield tar.END

    def _object(self, change: Change, directory: bytes, name: bytes) -> Iterator[bytes]:
        attr = self._rootfs.getattr(change.ino)
        if stat.S_ISSOCK(attr.mode):
            self._warn(f"/{os.fsdecode(change.path)}: a socket, which no layer can hold")
            if change.kind == CHANGED:
                yield _mark(directory, WHITEOUT + name)
            return
        first = change.path
        if attr.nlink > 1 and not stat.S_ISDIR(attr.mode):
            first = self._first_names.setdefault(change.ino, change.path)
        if first != change.path:
            yield tar.header(self._member(change.path, attr, link_to=first))
            return
        yield tar.header(self._member(change.path, attr))
        if change.opaque:
            yield _mark(change.path, OPAQUE)
        if stat.S_ISREG(attr.mode):
            yield from contents(self._rootfs, attr, change.path, self._holes)
            yield tar.padding(attr.size)

    def _member(self, path: bytes, attr: Attr, link_to: bytes = b"") -> tar.Member:
        tree = self._rootfs.tree
        mtime = attr.mtime_ns if self._newest is None else min(attr.mtime_ns, self._newest)
        link = link_to
        if stat.S_ISLNK(attr.mode) and not link_to:
            link = tree.readlink(attr.ino)
        xattrs = tree.xattrs(attr.ino)
        return tar.Member(
            path=path or b".",
            kind=tar.HARDLINK if link_to else _KINDS[stat.S_IFMT(attr.mode)],
            mode=stat.S_IMODE(attr.mode),
            uid=attr.uid,
            gid=attr.gid,
            size=attr.size if stat.S_ISREG(attr.mode) and not link_to else 0,
            mtime_ns=mtime,
            link=link,
            rdev=(os.major(attr.rdev), os.minor(attr.rdev)),
            xattrs={k: v for k, v in xattrs.items() if k not in NOT_OURS and not link_to},
        )


def _mark(directory: bytes, name: bytes) -> bytes:
    path = directory + b"/" + name if directory else name
    return tar.header(tar.Member(path, tar.FILE, 0o600))
