"""Law: one served mount from its first request to its end, on trio; knows no image.

A session ends in one of three ways, and each leaves nothing mounted:
  - somebody unmounts: the kernel writes back what is dirty, then says so on the descriptor;
  - SIGTERM or SIGINT: we flush, unmount, and where the mount is busy detach it and flush again;
  - the same signal once more: no more waiting (a flush can hang on a dead disk).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount import _native
from fusemount.beneath import fd_path
from fusemount.daemon.channel import FuseChannel
from fusemount.daemon.log import LOGGER
from fusemount.daemon.mountid import detach, mount_of, mount_root
from fusemount.daemon.mountinfo import mounts
from fusemount.daemon.mountpoint import unmount
from fusemount.errors import ImgmountError

if TYPE_CHECKING:
    import trio

# channel, ready, stop: serves until the mount is gone or stop is set; calls ready once.
Serve = Callable[[FuseChannel, Callable[[], None], "trio.Event"], Awaitable[None]]

# Runs beside serving until it is cancelled, at the end.  What it raises ends the session.
Service = Callable[[], Awaitable[None]]

# Requests in flight after a busy mount was detached get this long to be answered.
DRAIN_SECONDS = 5.0

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_session(
    channel: FuseChannel,
    serve: Serve,
    ready: Callable[[], None],
    services: Sequence[Service] = (),
) -> None:
    """Serves until the end. Raises what serve raises.

    Afterwards the signals that end a session are ignored: what follows is cleaning up.
    """
    import trio

    try:
        trio.run(_session, channel, serve, ready, services)
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


async def _session(
    channel: FuseChannel, serve: Serve, ready: Callable[[], None], services: Sequence[Service]
) -> None:
    import trio

    stop = trio.Event()
    with trio.open_signal_receiver(*ENDING) as signals:
        async with trio.open_nursery() as nursery:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # if they waited for us
            nursery.start_soon(_end_on_signal, signals, channel, stop)
            for service in services:
                nursery.start_soon(service)
            await serve(channel, ready, stop)
            nursery.cancel_scope.cancel()


async def _end_on_signal(
    signals: AsyncIterator[int], channel: FuseChannel, stop: trio.Event
) -> None:
    import trio

    async with trio.open_nursery() as nursery:
        leaving = False
        async for number in signals:
            LOGGER.info("%s: unmounting %s", signal.Signals(number).name, channel.mountpoint)
            if leaving:
                stop.set()
            else:
                nursery.start_soon(_leave, channel, stop)
            leaving = True


async def _leave(channel: FuseChannel, stop: trio.Event) -> None:
    """Flushes and unmounts from a thread, since serving must go on meanwhile; then stops."""
    import trio

    try:
        await trio.to_thread.run_sync(_flush_and_unmount, channel, abandon_on_cancel=True)
    except (ImgmountError, OSError) as error:
        LOGGER.error("%s", error)
    finally:
        stop.set()


def flush_for(channel: FuseChannel, seconds: float) -> None:
    """Flushes and unmounts, from a thread that is left alone when it takes longer. Never raises.

    Where there is no thread to be had it is done here, for then little was written.
    """

    def work() -> None:
        try:
            _flush_and_unmount(channel)
        except (ImgmountError, OSError) as error:
            LOGGER.error("%s", error)

    worker = threading.Thread(target=work, daemon=True)
    try:
        worker.start()
    except RuntimeError:
        work()
    else:
        worker.join(seconds)


def _flush_and_unmount(channel: FuseChannel) -> None:
    """Takes away every mount of ours that can be reached: the mountpoint (wherever it was moved
    to) and bind mounts of its parts, which would be dead without us."""
    for entry in reversed(mounts()):
        if entry.device == channel.device:
            with suppress(FileNotFoundError), mount_root(entry.mountpoint) as place:
                if channel.serves(place):  # else another one stands on it, or in its place
                    _take_away(entry.mountpoint, place)
    # The last descriptor of a mount that nobody uses has ended it, when all was written.
    if channel.connected:
        LOGGER.warning("%s: busy: detached from under its users", channel.mountpoint)
        _drain(channel)


def _take_away(target: Path, place: int) -> None:
    """place: a descriptor of the mount at that path, which keeps it from being another's."""
    # This descriptor keeps it reachable for the second flush, after nobody new can come.
    fd = os.open(fd_path(place), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _native.syncfs(fd)
        if os.geteuid() == 0:
            detach(place)
        else:
            unmount(target, mount_of(place), lazy=True)  # see FuseChannel.discard
        _native.syncfs(fd)
    finally:
        os.close(fd)


def _drain(channel: FuseChannel) -> None:
    """Waits until the kernel has no request open: FUSE's syncfs does not wait for writeback."""
    minor = channel.device.rpartition(":")[2]
    waiting = Path(f"/sys/fs/fuse/connections/{minor}/waiting")
    deadline = time.monotonic() + DRAIN_SECONDS
    try:
        while time.monotonic() < deadline and int(waiting.read_text()) > 0:
            time.sleep(0.02)
    except (OSError, ValueError):
        time.sleep(0.5)  # no fusectl file system here; a guess is better than none
