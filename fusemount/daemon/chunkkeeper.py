"""Law: keeps the chunk cache within its size while a mount is served, or a command reads layers.

The core tells by an eventfd that it has kept another 64 MiB, or that the cache is full.  Then the
chunks that were read are marked as used, and those of all mounts that were not used for the longest
time are removed.  A mount that only reads what is kept already marks it each NOTE_SECONDS and at
its end, so that the keepers of other mounts leave these chunks.  A read itself writes nothing.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fusemount._native import Packed, stop_decoding_ahead
from fusemount.daemon.log import LOGGER
from fusemount.dataclass import dataclass
from fusemount.layer.chunkcache import evict, size

NOTE_SECONDS = 300  # a chunk counts as used at most so much earlier than it was


@dataclass(frozen=True)
class ChunkKeeper:
    """packed: the compressed layers of the mount.  directory: of their chunks.  limit: bytes; None:
    the default.  event: the eventfd."""

    packed: Sequence[Packed]
    directory: Path
    limit: int | None
    event: int

    async def keep(self) -> None:
        """Runs until it is cancelled."""
        import trio

        while True:
            with trio.move_on_after(NOTE_SECONDS) as waiting:
                await trio.lowlevel.wait_readable(self.event)
            if waiting.cancelled_caught:
                await trio.to_thread.run_sync(self.note)
                continue
            os.eventfd_read(self.event)
            await trio.to_thread.run_sync(self._keep)

    def keep_until(self, over: threading.Event) -> None:
        """The same for a thread; to be told by the eventfd too when it is over."""
        told = select.poll()  # select(2) has no descriptors over 1023
        told.register(self.event, select.POLLIN)
        while True:
            told.poll()
            ends = over.is_set()
            os.eventfd_read(self.event)
            self._keep()
            if ends:
                return

    def note(self) -> None:
        """Writes into the cache when chunks were read."""
        now = int(time.time())
        for packed in self.packed:
            packed.note_used(now)

    def _keep(self) -> None:
        self.note()
        limit = self.limit
        try:
            if errno.EDQUOT in [packed.failed() for packed in self.packed]:
                full = size(self.directory)  # a quota, of which statvfs(2) tells nothing
                limit = full - 1 if limit is None else min(limit, full - 1)
            freed = evict(self.directory, limit)
        except OSError as error:
            LOGGER.warning("%s: %s", self.directory, error.strerror)
        else:
            if freed:
                LOGGER.debug("%s: %d bytes of chunks removed", self.directory, freed)


@contextmanager
def keeping(
    packed: Sequence[Packed], directory: Path, limit: int | None
) -> Iterator[ChunkKeeper | None]:
    """None: the mount has no compressed layers."""
    if not packed:
        yield None
        return
    event = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # it looks once at the start
    try:
        for each in packed:
            each.tell(event)
        keeper = ChunkKeeper(packed, directory, limit, event)
        yield keeper
        keeper.note()
    finally:
        for each in packed:
            each.tell(-1)
        stop_decoding_ahead()  # its threads may still be about to write to the eventfd
        os.close(event)


@contextmanager
def keeping_beside(packed: Sequence[Packed | None], directory: Path) -> Iterator[None]:
    """For a command, which serves nothing: a thread keeps the cache within its default size.

    packed: None stands for a layer that is not read in place."""
    with keeping([each for each in packed if each is not None], directory, None) as keeper:
        if keeper is None:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=keeper.keep_until, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            os.eventfd_write(keeper.event, 1)
            thread.join()
