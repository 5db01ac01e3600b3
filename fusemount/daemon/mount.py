"""Law: `imgmount IMAGE MOUNTPOINT` as one function: everything that can fail, fails here.

The order matters: check the mountpoint, which is cheap; open the image, and meanwhile import the
modules that serve; mount; fork; serve; write the record; answer the parent.  Until the fork the
exit stack undoes all steps; after the fork the stack belongs to the child.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusemount import _native
from fusemount.daemon import mountrecords
from fusemount.daemon.background import DaemonLost, answers, launch
from fusemount.daemon.channel import FLAG_WORDS, FuseChannel, MountRequest, moved, open_channel
from fusemount.daemon.control import listening, serve_control
from fusemount.daemon.loading import Loading
from fusemount.daemon.log import LOGGER, open_log
from fusemount.daemon.measure import measure
from fusemount.daemon.mountid import mount_on
from fusemount.daemon.mountpoint import Mountpoint, open_mountpoint
from fusemount.daemon.mountrecords import Record
from fusemount.daemon.openview import View, hold_image, open_view
from fusemount.daemon.serving import serve_mount
from fusemount.daemon.upperdirs import check_apart
from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, MountOptions

if TYPE_CHECKING:
    from fusemount.layer import Progress

# A mount that does not answer a stat in this time counts as failed.
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class MountResult:
    """pid: the daemon's; None if this process served the mount, which has ended. upper: where the
    changes are kept, None if they are not.

    dropped: View.dropped.
    """

    mountpoint: Path
    pid: int | None
    upper: Path | None
    dropped: Sequence[tuple[bytes, str]] = ()


def mount_image(
    reference: Reference,
    mountpoint: Path,
    image_options: ImageOptions,
    options: MountOptions,
    directories: Directories,
    progress: Progress,
) -> MountResult:
    """Mounts, and returns when the mount answers (foreground: when it has ended).

    Raises any ImgmountError; then nothing is left mounted or running.
    """
    with ExitStack() as stack:
        with open_mountpoint(mountpoint, nonempty="nonempty" in options.kernel_options) as target:
            check_apart(target.path, options)
            mountrecords.prepare(directories.runtime)
            # With -d the log goes to the terminal, which a daemon has closed: so -d implies -f.
            log_fd = open_log(options.log, directories.state,
                              terminal=options.foreground, debug=options.debug)  # fmt: skip
            for word in options.ignored:
                LOGGER.info("-o %s: not known, ignored", word)
            loading = Loading()
            view = open_view(reference, image_options, options, directories, progress, stack,
                             beside=loading.start)  # fmt: skip
            hold_image(view.image, target.path, stack)
            stats = _native.Stats()
            loading.finish()
            channel = open_channel(mount_request(reference, target, options))
            stack.callback(channel.discard)
        enroll = _Enrolment(reference, view, options, directories, stats)
        if options.foreground:
            _serve_recorded(channel, enroll, lambda: None)
            return MountResult(target.path, None, kept_upper(view, options), view.dropped)

        def job(ready: Callable[[], None]) -> None:
            with stack:
                _serve_recorded(channel, enroll, ready)

        result = _in_background(job, channel, stack, log_fd, kept_upper(view, options))
        return replace(result, dropped=view.dropped)


def would_drop(
    reference: Reference,
    image_options: ImageOptions,
    options: MountOptions,
    directories: Directories,
    progress: Progress,
) -> Sequence[tuple[bytes, str]]:
    """The changes that a mount with `rebase` would drop; changes nothing, mounts nothing."""
    looking = replace(options, read_only=True, overlay=False, rebase=True)
    with ExitStack() as stack:
        return open_view(reference, image_options, looking, directories, progress, stack).dropped


def _in_background(
    job: Callable[[Callable[[], None]], None],
    channel: FuseChannel,
    stack: ExitStack,
    log_fd: int,
    upper: Path | None,
) -> MountResult:
    try:
        pid = launch(job, log_fd=log_fd)
    except DaemonLost:
        raise  # it could not clean up: our stack does
    except BaseException:
        stack.pop_all()
        raise
    stack.pop_all()
    channel.close_fd()
    if not answers(channel.mountpoint, ANSWER_SECONDS, channel.mount):
        os.kill(pid, signal.SIGTERM)
        if channel.mount is not None and mount_on(channel.mountpoint) != channel.mount:
            raise moved(channel.mountpoint)
        raise ImgmountError(f"{channel.mountpoint}: mounted, but it does not answer; see the log")
    return MountResult(channel.mountpoint, pid, upper)


def kept_upper(view: View, options: MountOptions) -> Path | None:
    return view.upper if options.keep and not options.read_only else None


def mount_request(reference: Reference, target: Mountpoint, options: MountOptions) -> MountRequest:
    """kernel_options are words of FLAG_WORDS and `fsname=`, `subtype=`, `nonempty`."""
    words = [word for word in options.kernel_options if word in FLAG_WORDS]
    words += ["ro"] if options.read_only else []
    words += ["suid" if options.suid else "nosuid", "dev" if options.dev else "nodev"]
    return MountRequest(
        mountpoint=target,
        source=_named("fsname", options.kernel_options, str(reference)),
        words=tuple(words),
        allow_other=bool(options.allow_other),
        default_permissions=options.default_permissions,
        subtype=_named("subtype", options.kernel_options, "imgmount"),
    )


def _named(key: str, words: Iterable[str], otherwise: str) -> str:
    values = [word.partition("=")[2] for word in words if word.startswith(key + "=")]
    return values[-1] if values else otherwise


@dataclass(frozen=True)
class _Enrolment:
    """The contents of a record, except what only the serving process can find out."""

    reference: Reference
    view: View
    options: MountOptions
    directories: Directories
    stats: _native.Stats

    def measured(self) -> dict[str, Any]:
        """The answer to `imgmount stats`."""
        return measure(self.view.rootfs.tree, self.stats, fastpath=self.options.fastpath)

    def record(self, channel: FuseChannel) -> Record:
        scratch = self.view.scratch
        return Record(
            pid=os.getpid(),
            start_time=mountrecords.start_time(os.getpid()) or 0,
            mountpoint=str(channel.mountpoint),
            device=channel.device,
            mount_id=channel.mount.unique if channel.mount else 0,
            image=str(self.reference),
            image_id=str(self.view.image.image_id),
            upper=str(self.view.upper) if self.view.upper else None,
            scratch=str(scratch.path) if scratch and not self.options.keep else None,
            read_only=self.options.read_only,
            writable=not self.view.rootfs.read_only,
            uid=os.geteuid(),
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )


def _limits(options: MountOptions) -> str:
    """For the log: mount options that root may not expect of an image's mount; "" if there are
    none."""
    if os.geteuid() != 0 or options.overlay or options.suid or options.dev:
        return ""
    return ", nosuid,nodev as images are (-o suid,dev asks for more)"


def _serve_recorded(channel: FuseChannel, enrolment: _Enrolment, ready: Callable[[], None]) -> None:
    """Serves with a record and a control socket while the mount lives; both are there before
    ready() is called."""
    record = enrolment.record(channel)
    runtime = enrolment.directories.runtime

    def serving() -> None:
        mountrecords.register(runtime, record)
        enrolment.view.begin_serving()
        LOGGER.info("%s: mounted on %s%s", record.image, record.mountpoint,
                    _limits(enrolment.options))  # fmt: skip
        ready()

    try:
        with listening(runtime, record) as listener:
            answers = {"stats": enrolment.measured}
            services = [partial(serve_control, listener, answers)] if listener else []
            serve_mount(channel, enrolment.view.rootfs, enrolment.options, enrolment.stats, serving,
                        services)  # fmt: skip
        LOGGER.info("%s: unmounted", record.mountpoint)
    finally:
        mountrecords.forget(runtime, record)
