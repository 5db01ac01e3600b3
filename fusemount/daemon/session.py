"""Law: runs the session of one served mount, from its first request to its end, on trio.

A session ends in one of three ways, and each leaves nothing mounted:
  - the mount is unmounted: the kernel writes back dirty pages, then ends the connection;
  - SIGTERM, SIGINT or SIGHUP: we flush and unmount; a busy mount we detach, and flush again;
  - a second signal: we end without waiting, because a flush can hang on a dead disk.
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
from fusemount.daemon.mountpoint import unmount
from fusemount.errors import ImgmountError
from fusemount.mountinfo import mounts

if TYPE_CHECKING:
    import trio

# channel, ready, stop: serves until the mount is gone or stop is set; calls ready once.
Serve = Callable[[FuseChannel, Callable[[], None], "trio.Event"], Awaitable[None]]

# Runs while the mount is served, and is cancelled at the end.  What it raises ends the session.
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

    Afterwards the signals that end a session are ignored: they must not interrupt the cleaning up.
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
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # serve_mount blocked them
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
    """Flushes and unmounts in a thread, because serving must go on meanwhile; then stops."""
    import trio

    try:
        await trio.to_thread.run_sync(_flush_and_unmount, channel, abandon_on_cancel=True)
    except (ImgmountError, OSError) as error:
        LOGGER.error("%s", error)
    finally:
        stop.set()


def flush_for(channel: FuseChannel, seconds: float) -> None:
    """Flushes and unmounts in a thread, and waits for it no longer than that. Never raises.

    If no thread can be started, this one does it, however long it takes.
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
    """Unmounts every mount of our file system in this namespace: the mountpoint, also if it was
    moved, and bind mounts of parts of it, which would be dead without the daemon."""
    for entry in reversed(mounts()):
        if entry.device == channel.device:
            with suppress(FileNotFoundError), mount_root(entry.mountpoint) as root:
                if channel.serves(root):  # else another mount is on top of it, or at its path
                    _unmount_flushed(entry.mountpoint, root)
    # A mount without users has ended by now: closing its last descriptor ended it.
    if channel.connected:
        LOGGER.warning("%s: busy: detached from under its users", channel.mountpoint)
        _drain(channel)


def _unmount_flushed(target: Path, root: int) -> None:
    """root: a descriptor of the mount at that path; while it is open, the mount is that one."""
    # With this descriptor the mount can be flushed again when no path leads to it any more.
    fd = os.open(fd_path(root), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _native.syncfs(fd)
        if os.geteuid() == 0:
            detach(root)
        else:
            unmount(target, mount_of(root), lazy=True)  # see FuseChannel.discard
        _native.syncfs(fd)
    finally:
        os.close(fd)


def _drain(channel: FuseChannel) -> None:
    """Waits until no request is open: syncfs(2) of FUSE does not wait for writeback."""
    minor = channel.device.rpartition(":")[2]
    waiting = Path(f"/sys/fs/fuse/connections/{minor}/waiting")
    deadline = time.monotonic() + DRAIN_SECONDS
    try:
        while time.monotonic() < deadline and int(waiting.read_text()) > 0:
            time.sleep(0.02)
    except (OSError, ValueError):
        time.sleep(0.5)  # no fusectl file system: most requests are answered in this time
