"""Law: finishes what a process that died has left half done in an upper (loaded.py, Repairs), and
marks the upper as ours.

Users may have changed the upper since it was read: an object that they have taken away needs no
repair, and every other error names the object.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fusemount import _native
from fusemount.rootfs.bynames import BEGUN, IMGMOUNT
from fusemount.rootfs.copyup import CopyUp
from fusemount.rootfs.leases import LeaseBreaker
from fusemount.rootfs.loaded import Repairs
from fusemount.rootfs.names import changing
from fusemount.rootfs.objectmarks import OPAQUE, ORIGIN
from fusemount.rootfs.paths import some_path, upper_error
from fusemount.rootfs.prefixed import convert
from fusemount.rootfs.upper import Upper

_TAKEN_AWAY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_IN_ITS_PLACE = (errno.EIO, errno.EISDIR)  # a user has put another object at a name


class Repairer:
    """fits: the layers are certainly the upper's base; otherwise nothing is copied from them."""

    def __init__(
        self,
        tree: _native.Tree,
        upper: Upper,
        native: _native.UpperFiles,
        copy: CopyUp,
        leases: LeaseBreaker,
        *,
        fits: bool,
    ) -> None:
        self._tree, self._upper, self._native = tree, upper, native
        self._copy, self._leases, self._fits = copy, leases, fits

    def repair(self, repairs: Repairs) -> None:
        """Raises UpperError, NoSpace."""
        with changing(self._native):
            self._repair_locked(repairs)
        for ino in repairs.cut if self._fits else ():
            with self._naming(ino):
                self._leases.open_file(ino)
                self._copy.with_data(ino)

    def _repair_locked(self, repairs: Repairs) -> None:
        for found in repairs.prefixed:
            with self._naming(found.path):
                convert(self._upper, found)
        with self._naming(b""):
            if self._upper.mark(self._upper.fd, b".", IMGMOUNT) is None:
                self._upper.set_mark(self._upper.fd, b".", IMGMOUNT, BEGUN)
        for ino, missing in repairs.links if self._fits else ():
            with self._naming(ino):
                self._copy.complete_links(ino, missing)
        for parent, needless_whiteouts in repairs.needless_whiteouts.items():
            with self._naming(parent, _IN_ITS_PLACE):
                self._copy.remove_needless_whiteouts(parent, needless_whiteouts)
        for ino in repairs.unmerged:
            with self._naming(ino), self._copy.object(ino) as (fd, rest):
                self._upper.set_mark(fd, rest, OPAQUE, b"y")
                self._upper.remove_mark(fd, rest, ORIGIN)  # it may be of another directory
        for ino in repairs.files:
            with self._naming(ino):
                self._copy.restore_held(ino)
        for ino in repairs.times:
            with self._naming(ino):
                self._copy.restore_times(ino)

    @contextmanager
    def _naming(self, at: int | bytes, passed: tuple[int, ...] = ()) -> Iterator[None]:
        """Raises an OSError of the block as an error that names an object.

        at: the nodeid or the path of the object. passed: errors besides _TAKEN_AWAY after which
        the object is left as it is."""
        try:
            yield
        except OSError as error:
            if error.errno in (*_TAKEN_AWAY, *passed):
                return
            path = at if isinstance(at, bytes) else some_path(self._tree, at)
            raise upper_error(self._upper.path, path, error) from error
