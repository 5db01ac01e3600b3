"""Law: serves a mount with the fast path in front of pyfuse3, or only with pyfuse3.

With the fast path, threads of C read the kernel's descriptor.  They answer as soon as there is a
tree.  pyfuse3 is behind them on a socket pair and gets the requests that they decline.  A mount is
ready when both doors answer: libfuse has done its INIT, and all modules are imported (loading.py).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fusemount import _native
from fusemount.daemon.channel import FuseChannel
from fusemount.daemon.log import LOGGER
from fusemount.daemon.session import ENDING, Service, flush_for, run_session
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError
from fusemount.settings import MountOptions

if TYPE_CHECKING:
    import trio

    from fusemount.rootfs import RootFs

# A thread that finds the device empty polls it for this long before it sleeps: to wake a sleeping
# thread costs the caller 50-180 us.
SPIN_US = 100

# How long the kernel may write back dirty pages when the session has failed.
FLUSH_SECONDS = 10.0


def default_threads() -> int:
    """Enough threads for requests that wait for a disk; idle threads cost nothing."""
    return max(4, min(16, 2 * (os.cpu_count() or 1)))


def serve_mount(
    channel: FuseChannel,
    rootfs: RootFs,
    options: MountOptions,
    stats: _native.Stats,
    ready: Callable[[], None],
    services: Sequence[Service] = (),
    packed: Sequence[_native.Packed] = (),
) -> None:
    """Serves until the end; calls ready once, when both doors answer.

    packed: the compressed layers, whose errors are logged.

    Raises ImgmountError, OSError, and the errors of pyfuse3 and ready.
    """
    os.umask(0)  # a request's mode is complete
    gc.freeze()  # imported objects live on: the collector need not look at them each time
    gc.enable()
    with _native_lines(packed) as lines:
        services = (*services, lines.copy)
        if not options.fastpath:
            run_session(channel, _Side(rootfs, options, stats, None).serve, ready, services)
            return
        # Until trio takes them, a signal would end us without a flush.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        with _fast_path(channel.fd, rootfs, options, stats, lines.writer) as front:
            try:
                run_session(channel, _Side(rootfs, options, stats, front).serve, ready, services)
            except BaseException:
                # The kernel can write back its dirty pages while the threads answer. Requests that
                # need Python get EIO.
                front.hang_up()
                flush_for(channel, FLUSH_SECONDS)
                raise


@dataclass(frozen=True)
class _Lines:
    """A pipe for the lines that C writes for the log."""

    reader: int
    writer: int

    async def copy(self) -> None:
        """Copies the lines to our log."""
        import trio

        while True:
            await trio.lowlevel.wait_readable(self.reader)
            for line in os.read(self.reader, 65536).splitlines():
                LOGGER.warning("%s", line.decode(errors="backslashreplace"))


@contextmanager
def _native_lines(packed: Sequence[_native.Packed]) -> Iterator[_Lines]:
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        for layer in packed:
            layer.log_to(writer)
        yield _Lines(reader, writer)
    finally:
        for layer in packed:
            layer.log_to(-1)
        os.close(reader)
        os.close(writer)


@dataclass(frozen=True)
class _Front:
    """Python's ends of the fast path: pyfuse3's socket, the eventfd of its end."""

    socket: socket.socket
    end_fd: int

    def hang_up(self) -> None:
        """From now on the fast path gets no answers of pyfuse3."""
        self.socket.close()

    def take_socket(self) -> int:
        """pyfuse3's end, which pyfuse3 owns from now on. The fast path sees it being closed."""
        return self.socket.detach()


@contextmanager
def _fast_path(
    fd: int,
    rootfs: RootFs,
    options: MountOptions,
    stats: _native.Stats,
    log_fd: int,
) -> Iterator[_Front]:
    with ExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(ours.close)
        stack.callback(theirs.close)
        end_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        stack.callback(os.close, end_fd)
        try:
            fast = _native.FastPath(
                rootfs.tree,
                rootfs.native,
                stats,
                device_fd=fd,
                relay_fd=ours.fileno(),
                log_fd=log_fd,
                end_fd=end_fd,
                upper_fd=rootfs.upper.fd if rootfs.upper else -1,
                threads=options.threads or default_threads(),
                spin_us=SPIN_US if (os.cpu_count() or 1) > 1 else 0,
                default_permissions=options.default_permissions,
                push=options.push,
                no_xattrs=not options.xattrs,
            )
        except OSError as error:
            raise ImgmountError(f"no threads to serve the mount: {error.strerror}") from error
        stack.callback(fast.stop)
        yield _Front(theirs, end_fd)


@dataclass(frozen=True)
class _Side:
    """What runs in the session's nursery: pyfuse3, on the kernel's descriptor or on the socket."""

    rootfs: RootFs
    options: MountOptions
    stats: _native.Stats
    front: _Front | None

    async def serve(
        self, channel: FuseChannel, ready: Callable[[], None], stop: trio.Event
    ) -> None:
        import trio

        from fusemount.fuse import serve

        async with trio.open_nursery() as nursery:
            if self.front:
                nursery.start_soon(_stop_at_end, self.front.end_fd, stop)
            # serve closes its descriptor. The channel's stays open, so that the mount outlives the
            # session.
            await serve(
                self.rootfs,
                self.front.take_socket() if self.front else os.dup(channel.fd),
                behind_fast_path=self.front is not None,
                default_permissions=self.options.default_permissions,
                debug=self.options.debug,
                no_xattrs=not self.options.xattrs,
                ready=ready,
                stop=stop,
                stats=None if self.front else self.stats,
            )
            nursery.cancel_scope.cancel()


async def _stop_at_end(end_fd: int, stop: trio.Event) -> None:
    import trio

    await trio.lowlevel.wait_readable(end_fd)
    stop.set()
