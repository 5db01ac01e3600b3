"""Law: `imgmount run` as one function: it starts these processes, and when they have ended nothing
is left.

    us         makes a private mount namespace, loads the image, waits for the command, and returns
     │         its exit status
     ├─ server   serves the mount (background.launch); cleans up at SIGTERM, which we send at the
     │           end, and the kernel if we die
     └─ init     pid 1 of the command's namespaces (init.py, newroot.py)
         └─ command

A user who is not root first becomes root of a user namespace; then all is the same as for root.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount import _native
from fusemount.beneath import own_directory
from fusemount.daemon.background import DaemonLost, ended, launch
from fusemount.daemon.channel import FuseChannel, open_channel
from fusemount.daemon.chunkkeeper import keeping
from fusemount.daemon.loading import Loading
from fusemount.daemon.log import open_log
from fusemount.daemon.mount import mount_request
from fusemount.daemon.mountpoint import open_mountpoint
from fusemount.daemon.openview import hold_image, open_view
from fusemount.daemon.serving import serve_mount
from fusemount.daemon.upperdirs import fresh_scratch
from fusemount.errors import ImgmountError, NotPermitted, UsageError, translated
from fusemount.reference import STORE, Reference
from fusemount.sandbox.command import Command, RunOptions, merged_argv, merged_environment
from fusemount.sandbox.init import FAILED, FORWARDED, fork_init, supervise
from fusemount.sandbox.newroot import DIRECTORIES, FILES, Sandbox
from fusemount.sandbox.userns import enter_user_namespace
from fusemount.settings import Directories, ImageOptions, MountOptions

if TYPE_CHECKING:
    from fusemount.image import ImageConfig
    from fusemount.layer import Progress

# A limit for a server that hangs: dropping an upper is deleting files, and takes less time.
_END_SECONDS = 60.0


def run_image(
    reference: Reference,
    image_options: ImageOptions,
    mount_options: MountOptions,
    options: RunOptions,
    directories: Directories,
    progress: Progress,
) -> int:
    """Returns the exit status for the shell. Raises any ImgmountError before the command starts.

    mount_options: upper, work, log, cache size and symlink parents count; the others are set here.
    """
    from fusemount.rootfs.placeholder import add_placeholders

    paths = [directories.cache, directories.state, directories.runtime]
    _private_mounts([*paths, reference.path] if reference.transport == STORE else paths)
    # The image is mounted writable, because the targets of volumes and the working directory have
    # to be made in it; --read-only is applied last.
    mount_options = replace(
        mount_options, read_only=False, allow_other=True, default_permissions=True,
        suid=True, dev=True, keep=False, foreground=False,
    )  # fmt: skip
    log_fd = open_log(mount_options.log, directories.state)
    with ExitStack() as stack:
        loading = Loading()
        view = open_view(reference, image_options, mount_options, directories, progress, stack,
                         beside=loading.start)  # fmt: skip
        hold_image(view.image, None, stack)
        add_placeholders(view.rootfs.tree, DIRECTORIES, FILES)
        command, user = command_of(view.image.config, options)
        scratch = view.scratch or fresh_scratch(directories, stack)
        with open_mountpoint(scratch.root) as target:
            channel = open_channel(mount_request(reference, target, mount_options))
        stack.callback(channel.discard)
        loading.finish()

        def job(ready: Callable[[], None]) -> None:
            def serving() -> None:
                view.begin_serving()
                ready()

            chunks = directories.cache / "chunks"
            with stack, keeping(view.packed, chunks, mount_options.cache_size) as keeper:
                serve_mount(channel, view.rootfs, mount_options, _native.Stats(), serving,
                            [keeper.keep] if keeper else [], view.packed)  # fmt: skip

        server_pid = _launch(job, stack, log_fd)
        channel.close_fd()
        sandbox = Sandbox(scratch.root, options.volumes, options.hostname, options.read_only)
        return _supervised(sandbox, command, user, server_pid, channel)


def _check_owners(directories: list[Path]) -> None:
    """Checks our directories before we enter a user namespace: in there, root's directories look
    like those of all users without an id in it."""
    for directory in directories:
        with suppress(OSError):  # its first use raises it
            os.close(own_directory(directory, make=False))


def _private_mounts(paths: list[Path]) -> None:
    """Enters a mount namespace that gets the host's later mounts and keeps ours from the host."""
    with translated("no private mount namespace to be had", NotPermitted):
        if os.geteuid() != 0:
            _check_owners(paths)
            enter_user_namespace()
        else:
            _native.unshare(_native.CLONE_NEWNS)
        _native.mount("", "/", "", _native.MS_REC | _native.MS_SLAVE, "")


def _launch(job: Callable[[Callable[[], None]], None], stack: ExitStack, log_fd: int) -> int:
    """Starts the server, which then owns the stack. If the server died without an answer
    (DaemonLost), the stack stays ours."""
    try:
        pid = launch(job, log_fd=log_fd, follow_parent=True)
    except DaemonLost:
        raise
    except BaseException:
        stack.pop_all()
        raise
    stack.pop_all()
    return pid


def _supervised(
    sandbox: Sandbox, command: Command, user: str, server_pid: int, channel: FuseChannel
) -> int:
    server_alive = True

    def other_ended(pid: int) -> None:
        nonlocal server_alive
        if pid == server_pid:
            server_alive = False
            sys.stderr.write("imgmount: the file system's server died; see the log\n")
            os.kill(init, signal.SIGKILL)

    init = 0
    try:
        init = fork_init(sandbox, command, user)
        code = supervise(init, other_ended)
        return code if server_alive else FAILED
    finally:
        if server_alive:
            _end_server(server_pid, channel)


def _end_server(pid: int, channel: FuseChannel) -> None:
    """Sends the server SIGTERM, and waits until it has flushed, unmounted and dropped its
    scratch."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # it must not be cut short by a second ^C
    os.kill(pid, signal.SIGTERM)
    if not ended(pid, _END_SECONDS):
        os.kill(pid, signal.SIGKILL)
        raise ImgmountError(f"{channel.mountpoint}: the server did not end; killed; see the log")
    os.waitpid(pid, 0)


def command_of(config: ImageConfig, options: RunOptions) -> tuple[Command, str]:
    """The command and the user to run it as (a spec for resolve_user).

    Raises UsageError: no command, or a working directory that is relative, which docker refuses.
    """
    if options.working_dir is not None and not options.working_dir.startswith("/"):
        raise UsageError(f"-w {options.working_dir!r}: the working directory must be absolute")
    image = config.container
    environment = merged_environment(
        image.env,
        options.environment,
        options.inherited,
        hostname=options.hostname or socket.gethostname(),
        terminal=os.isatty(0),
    )
    command = Command(
        argv=merged_argv(image.entrypoint, image.cmd, options),
        environment=environment,
        working_dir=os.path.join("/", options.working_dir or image.working_dir),
    )
    return command, image.user if options.user is None else options.user
