"""Law: decides who may change a store, and which blobs must stay, by locks of the kernel.

The kernel drops a lock when its process ends, so a killed process keeps nothing locked.

ROOT/lock (flock) is taken, always for a short time,

    exclusively   to change index.json, and to delete files that no name leads to
    shared        to start relying on blobs that may have no name, and to write a small file under a
                  temporary name beside its own: the collector deletes such names (collection.py)

A lease is a file in ROOT/leases that its process keeps locked while it lives.  It lists the digests
that the process relies on: a mount's layers, or the blobs that a pull found in the store or has
brought.  Blobs in a locked lease are not deleted.  A lease without its lock is void and is removed.

    {"kind":"mount","pid":4711,"what":"docker.io/library/ubuntu:22.04","where":"/mnt/root"}
    sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
    …
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.ownfile import lock_if_free, make_file, open_file
from fusemount.store.layout import Layout, flocked, names_in, store_errors

MOUNT = "mount"


@dataclass(frozen=True)
class Holder:
    """Which process has a lease.

    kind: MOUNT, or the verb that runs.  what: an image.  where: a mountpoint.
    """

    kind: str
    pid: int
    what: str
    where: str = ""


@dataclass(frozen=True)
class LiveLease:
    """A lease whose process lives."""

    holder: Holder
    digests: frozenset[Digest]


@contextmanager
def locked(layout: Layout, *, exclusive: bool) -> Iterator[None]:
    """Waits for ROOT/lock.  A process that has the lock already would wait for ever.

    Raises NoSpace, ImgmountError.
    """
    with store_errors(layout.lock):
        # If other users can make names beside it (/tmp), they may have made the missing root.
        os.close(own_directory(layout.root, make=False))
        with flocked(layout.lock, exclusive=exclusive):
            yield


class Lease:
    """A context manager.  A forked child shares the lease, which lives until both have ended.

    Raises NoSpace, ImgmountError.
    """

    def __init__(self, layout: Layout, holder: Holder) -> None:
        self._layout = layout
        self._path = layout.leases / f"{os.getpid()}-{os.urandom(8).hex()}"
        with locked(layout, exclusive=False), store_errors(self._path):
            self._fd = make_file(self._path, 0o600, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                self._append(json.dumps(asdict(holder)).encode() + b"\n")
            except OSError:
                self.end()
                raise

    def hold(self, digests: Iterable[Digest]) -> None:
        """These blobs stay from now on.  The caller must check after this call that they exist."""
        with locked(self._layout, exclusive=False), store_errors(self._path):
            self._append("".join(f"{digest}\n" for digest in digests).encode())

    def _append(self, data: bytes) -> None:
        """Writes all of data or nothing, because other processes read the file."""
        before = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def leave(self) -> None:
        """Closes the descriptor without ending the lease, which a forked child still has."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def end(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # without its lock it is void
                self._path.unlink()
        self.leave()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class NoLease:
    """Stands in for a lease if the store cannot be written to."""

    def hold(self, digests: Iterable[Digest]) -> None:
        pass

    def __enter__(self) -> NoLease:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def live_leases(layout: Layout) -> list[LiveLease]:
    """All leases whose process lives; the others are removed.  Under the exclusive lock."""
    found = []
    with store_errors(layout.leases):
        for name in names_in(layout.leases):
            held = _read(layout.leases / name)
            if held is not None:
                found.append(held)
    return found


def _read(path: Path) -> LiveLease | None:
    try:
        fd = open_file(path)
    except FileNotFoundError:  # its process has just ended it
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with suppress(OSError):
            path.unlink()  # no regular file, so no lease
        return None
    try:
        if not lock_if_free(fd, fcntl.LOCK_SH):
            return _parsed(fd, path.name)
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(fd)


def _parsed(fd: int, name: str) -> LiveLease:
    """The lease, or as much of a damaged one as can be read."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    head, *lines = data.decode("utf-8", "replace").split("\n")
    try:
        holder = Holder(**json.loads(head))
    except (ValueError, TypeError):
        holder = Holder("unknown", 0, f"the lease {name}")
    digests = set()
    for line in lines:
        with suppress(ValueError):
            digests.add(Digest(line))
    return LiveLease(holder, frozenset(digests))
