"""Law: runs one pyfuse3 session over a channel that the caller has opened and mounted."""

from __future__ import annotations

from collections.abc import Callable

import pyfuse3
import trio

from fusemount import _native
from fusemount.fuse.counting import count_handlers
from fusemount.fuse.initrequest import without_async_dio
from fusemount.fuse.operations import Operations
from fusemount.rootfs import RootFs

_TASKS = 64


class _WithoutXattrs(Operations):
    """pyfuse3's own handlers answer ENOSYS, after which the kernel sends no such requests."""

    getxattr = pyfuse3.Operations.getxattr
    listxattr = pyfuse3.Operations.listxattr
    setxattr = pyfuse3.Operations.setxattr
    removexattr = pyfuse3.Operations.removexattr


async def serve(
    view: RootFs,
    fd: int,
    *,
    behind_fast_path: bool,
    default_permissions: bool,
    debug: bool,
    no_xattrs: bool,
    ready: Callable[[], None],
    stop: trio.Event,
    stats: _native.Stats | None = None,
) -> None:
    """Answers requests on fd until the kernel closes the channel (unmounted) or stop is set.

    fd: a mounted FUSE channel, or the fast path's socket; it is closed here.  libfuse takes
    "/dev/fd/N" as a channel that is mounted already.  behind_fast_path: OPEN for writing is a
    request of the fast path to copy the file up.  ready: is called after INIT.  no_xattrs: requests
    for xattrs are refused.  stats: counts the answers.  A process can have one session.
    Raises OSError, RuntimeError when the session cannot be made.
    """
    if not behind_fast_path:
        fd, ready = without_async_dio(fd, ready)
    kind = _WithoutXattrs if no_xattrs else Operations
    operations = kind(view, acl=default_permissions, ready=ready, behind_fast_path=behind_fast_path)
    if stats is not None:
        count_handlers(operations, stats)
    options = {"debug"} if debug else set()
    pyfuse3.init(operations, f"/dev/fd/{fd}", options)
    try:
        async with trio.open_nursery() as nursery:

            async def stopper() -> None:
                await stop.wait()
                pyfuse3.terminate()

            nursery.start_soon(stopper)
            await pyfuse3.main(max_tasks=_TASKS)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=False)
