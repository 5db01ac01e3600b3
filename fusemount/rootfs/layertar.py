"""Law: changes become a layer's tar (OCI image-spec, layer.md); the same upper, the same bytes.

    deleted         an empty file .wh.NAME
    opaque          an empty file .wh..wh..opq as the directory's first member
    changed, added  the whole object, since a layer cannot say "these attributes only"
    hardlinks       the first name whole, the others links to it

Directories stand before what is in them, with their attributes, also where those did not change: a
reader that unpacks each layer alone would make them up.  Contents are read through the RootFs, from
wherever they are, and holes are not read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from fusemount import tar
from fusemount._native import Attr
from fusemount.errors import ImgmountError
from fusemount.rootfs.changes import CHANGED, DELETED, Change
from fusemount.rootfs.view import RootFs

WHITEOUT, OPAQUE = b".wh.", b".wh..wh..opq"
NOT_OURS = frozenset((b"security.selinux",))  # the host's policy put it there
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
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
) -> Iterator[bytes]:
    """The tar in pieces of about 1 MiB. changes: of compare(), in its order.

    newest_s: later times become this one.  warn: told of what no layer can hold (sockets).
    Raises ImgmountError for what cannot be read, or shrank or went while it was.
    """
    yield from _joined(_LayerTar(rootfs, warn, newest_s).pieces(changes))


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
    def __init__(self, rootfs: RootFs, warn: Callable[[str], None], newest_s: int | None) -> None:
        self._rootfs, self._warn = rootfs, warn
        self._newest = None if newest_s is None else newest_s * 10**9
        self._first_names: dict[int, bytes] = {}

    def pieces(self, changes: Sequence[Change]) -> Iterator[bytes]:
        for change in changes:
            directory, _, name = change.path.rpartition(b"/")
            if change.kind == DELETED:
                if not change.hidden:
                    yield _mark(directory, WHITEOUT + name)
                continue
            if name.startswith(WHITEOUT):
                raise ImgmountError(
                    f"/{os.fsdecode(change.path)}: a name that begins with .wh. cannot be in a "
                    "layer, where it would delete something"
                )
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
            yield from contents(self._rootfs, attr, change.path)
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


# ---- contents ---------------------------------------------------------------------------------


def contents(rootfs: RootFs, attr: Attr, path: bytes) -> Iterator[bytes]:
    """Exactly attr.size bytes of a file, in pieces. Raises ImgmountError, which names path."""
    at = 0
    where = f"/{os.fsdecode(path)}"
    try:
        for start, length in data_runs(rootfs, attr):
            yield from _zeros(start - at)
            at = start
            while at < start + length:
                piece = rootfs.read(attr.ino, at, min(_PIECE, start + length - at))
                if not piece:
                    raise EOFError
                yield piece
                at += len(piece)
    except EOFError:
        raise ImgmountError(f"{where}: shrank while it was read") from None
    except FileNotFoundError:
        raise ImgmountError(f"{where}: was taken away while it was read") from None
    except OSError as error:
        raise ImgmountError(f"{where}: cannot be read: {error.strerror or error}") from error
    yield from _zeros(attr.size - at)


def _zeros(count: int) -> Iterator[bytes]:
    for at in range(0, count, _PIECE):
        yield _ZEROS[: min(_PIECE, count - at)]


def data_runs(rootfs: RootFs, attr: Attr) -> Iterator[tuple[int, int]]:
    """(offset, length) of a file's data, between holes. Raises EOFError where it ends too early."""
    if rootfs.native is None or not attr.upper or attr.meta:
        for start, length in rootfs.tree.extents(attr.ino):
            if start < attr.size:
                yield start, min(length, attr.size - start)
        return
    fd = rootfs.native.pin(attr.ino)
    try:
        end = 0
        while end < attr.size:
            start = _next_data(fd, end)
            if start >= attr.size:
                break
            end = min(os.lseek(fd, start, os.SEEK_HOLE), attr.size)
            yield start, end - start
        if os.fstat(fd).st_size < attr.size:
            raise EOFError
    finally:
        rootfs.native.unpin(attr.ino)


def _next_data(fd: int, offset: int) -> int:
    """Where data begin; beyond any file where only a hole follows."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return 2**63
