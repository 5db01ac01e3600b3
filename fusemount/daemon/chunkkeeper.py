"""Law: keeps the chunk cache within its size while a mount is served.

The core tells by an eventfd that it has kept another 64 MiB.  Then the chunks that were read are
marked as used, and those of all mounts that were not used for the longest time are removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fusemount._native import Packed, stop_decoding_ahead
from fusemount.daemon.log import LOGGER
from fusemount.dataclass import dataclass
from fusemount.layer.chunkcache import evict


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
            await trio.lowlevel.wait_readable(self.event)
            os.eventfd_read(self.event)
            await trio.to_thread.run_sync(self._keep)

    def _keep(self) -> None:
        now = int(time.time())
        for packed in self.packed:
            packed.note_used(now)
        try:
            freed = evict(self.directory, self.limit)
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
        yield ChunkKeeper(packed, directory, limit, event)
    finally:
        for each in packed:
            each.tell(-1)
        stop_decoding_ahead()  # its threads may still be about to write to the eventfd
        os.close(event)
