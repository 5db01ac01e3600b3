"""Law: who may change a store, and what may not go: locks of the kernel's, gone with their process.

ROOT/lock (flock) is held, always for a short time,

    exclusively   by who changes index.json, and by who takes away what no name leads to
    shared        by who starts to rely on blobs that may have no name, and while a small file
                  stands under a temporary name beside its own: a collector takes such names away

A lease is a file in ROOT/leases, locked as long as its process lives, with the digests that it
relies on: a mount's layers, the blobs that a pull found there or has brought.  What a living lease
lists is not taken away; a lease without its lock means nothing and is removed.

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
from fusemount.store.layout import Layout, flocked, names_in, translated

MOUNT = "mount"


@dataclass(frozen=True)
class Holder:
    """Whose lease it is.  kind: MOUNT, or the verb at work; what: an image; where: a mountpoint."""

    kind: str
    pid: int
    what: str
    where: str = ""


@dataclass(frozen=True)
class Held:
    holder: Holder
    digests: frozenset[Digest]


@contextmanager
def locked(layout: Layout, *, exclusive: bool) -> Iterator[None]:
    """Waits for it; a process that has it waits for itself.  Raises NoSpace, ImgmountError."""
    with translated(layout.lock):
        # Where others can make names (/tmp), a root that was missing may be theirs by now.
        os.close(own_directory(layout.root, make=False))
        with flocked(layout.lock, exclusive=exclusive):
            yield


class Lease:
    """A context manager; a child that is forked shares it, and it lives until both are gone.

    Raises NoSpace, ImgmountError.
    """

    def __init__(self, layout: Layout, holder: Holder) -> None:
        self._layout = layout
        self._path = layout.leases / f"{os.getpid()}-{os.urandom(8).hex()}"
        with locked(layout, exclusive=False), translated(self._path):
            self._fd = make_file(self._path, 0o600, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                self._append(json.dumps(asdict(holder)).encode() + b"\n")
            except OSError:
                self.end()
                raise

    def hold(self, digests: Iterable[Digest]) -> None:
        """From now on they stay, if they are there: look after this call."""
        with locked(self._layout, exclusive=False), translated(self._path):
            self._append("".join(f"{digest}\n" for digest in digests).encode())

    def _append(self, data: bytes) -> None:
        """All of it or nothing: others read it."""
        before = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def leave(self) -> None:
        """Gives up the descriptor, not the lease: a forked child goes on with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def end(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # without its lock it means nothing
                self._path.unlink()
        self.leave()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class NoLease:
    """Of a store that cannot be written to."""

    def hold(self, digests: Iterable[Digest]) -> None:
        pass

    def __enter__(self) -> NoLease:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def living(layout: Layout) -> list[Held]:
    """All that processes rely on; what dead ones left is removed.  Under the exclusive lock."""
    found = []
    with translated(layout.leases):
        for name in names_in(layout.leases):
            held = _read(layout.leases / name)
            if held is not None:
                found.append(held)
    return found


def _read(path: Path) -> Held | None:
    try:
        fd = open_file(path)
    except FileNotFoundError:  # it has just ended
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        with suppress(OSError):
            path.unlink()  # no file, no lease
        return None
    try:
        if not lock_if_free(fd, fcntl.LOCK_SH):
            return _parsed(fd, path.name)
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(fd)


def _parsed(fd: int, name: str) -> Held:
    """Of a damaged one what can be read."""
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
    return Held(holder, frozenset(digests))
