"""Law: launches the daemon: one fork, one answer.  What was loaded before the fork belongs to the
child.  The parent learns over a pipe that the child is ready, or why it is not, and then uses
nothing that it handed over.

    parent: load image, mount --- fork ------------ wait for a line ----- exit 0 or the reason
    child:                         setsid, /dev/null, serve ... ready! ... end, clean up, _exit

The fork is safe because no thread lives at that time: trio and pyfuse3 are imported (loading.py),
and start no thread before the child calls them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from fusemount import _native, errors
from fusemount.beneath import fd_path
from fusemount.daemon.log import LOGGER
from fusemount.daemon.mountid import Mount, mount_of, mount_root
from fusemount.errors import ImgmountError

Ready = Callable[[], None]

_LOOK_MS = 200
KILLED_SECONDS = 1.0  # in which a process that was killed ends, unless a file system hangs


class DaemonLost(ImgmountError):
    """The daemon ended without an answer, so what it owned has not been cleaned up."""


def launch(job: Callable[[Ready], None], *, log_fd: int, follow_parent: bool = False) -> int:
    """Runs job(ready) in a child process; returns its pid when the job has called ready().

    log_fd: stderr of the child, or -1.  follow_parent: the child gets SIGTERM when we die.
    Raises what the job raised (an ImgmountError of the same class), or DaemonLost.  After
    DaemonLost the caller must clean up what it handed over; after any other error the child has.
    """
    _native.stop_decoding_ahead()  # threads do not live on in the child
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # What a handler raises in a function that os.fork() calls is lost: so none runs there.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        raise
    if pid == 0:
        os.close(reader)
        if follow_parent:
            _native.set_pdeathsig(signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)
        _child(job, writer, log_fd, heard)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        os.close(writer)
        with open(reader, "rb") as answer:
            _await(reader)
            line = answer.readline()
    except BaseException:  # ^C while we wait: we wait until the child has cleaned up
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if line == b"ready\n":
        return pid
    _, status = os.waitpid(pid, 0)
    if line:
        raise _rebuilt(json.loads(line))
    code = os.waitstatus_to_exitcode(status)
    reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"
    raise DaemonLost(f"the daemon ended before the mount answered ({reason})")


def _await(fd: int) -> None:
    """Until the descriptor can be read.  A signal that comes between Python's last look for signals
    and the system call does not end that call, so it has a limit."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while not poller.poll(_LOOK_MS):
        pass


def _child(
    job: Callable[[Ready], None], writer: int, log_fd: int, heard: set[int | signal.Signals]
) -> NoReturn:
    """heard: the signal mask; what a handler raises is the child's, and ends it here."""
    code = 1
    answered = False

    def answer(line: bytes) -> None:
        nonlocal answered
        if not answered:
            answered = True
            os.write(writer, line)
            os.close(writer)

    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        os.setsid()
        _let_go_of_terminal(log_fd)
        job(lambda: answer(b"ready\n"))
        code = 0
    except BaseException as error:
        code = error.exit_code if isinstance(error, ImgmountError) else 1
        if answered:
            LOGGER.error("%s", error if isinstance(error, ImgmountError) else _trace())
        else:
            LOGGER.debug("%s", _trace())
            answer(json.dumps(_described(error)).encode() + b"\n")
    finally:
        # Runs no exit handler and flushes no buffer, because they are copies of the parent's.
        os._exit(code)


def _trace() -> str:
    return traceback.format_exc().rstrip()


def _let_go_of_terminal(log_fd: int) -> None:
    os.chdir("/")  # a daemon must not keep a directory busy
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log_fd if log_fd >= 0 else null, 2)
    os.close(null)


def _described(error: BaseException) -> dict[str, Any]:
    if isinstance(error, ImgmountError):
        return {"class": type(error).__name__, "message": str(error)}
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return _described(error.exceptions[0])  # trio wraps what a task raises
    return {"class": "ImgmountError", "message": f"{type(error).__name__}: {error}"}


def _rebuilt(description: dict[str, str]) -> ImgmountError:
    kind = getattr(errors, description["class"], ImgmountError)
    error = kind(description["message"])
    assert isinstance(error, ImgmountError)
    return error


def answers(mountpoint: Path, seconds: float, mount: Mount | None = None) -> bool:
    """Whether the mount at that path answers a stat in time, and is that mount.

    mount: None: any. A symlink of another user is not followed."""

    def look() -> None:
        with mount_root(mountpoint) as root:
            if mount is not None and mount_of(root) != mount:
                raise FileNotFoundError
            os.stat(fd_path(root))
            os.statvfs(root)  # never answered from a cache

    return done_in_time(look, seconds)


def done_in_time(job: Callable[[], None], seconds: float) -> bool:
    """Whether job() returned in time, without an OSError.

    A child does it, which can be killed if a file system hangs. A process in a system call that
    another user's file system never answers does not die even then: it is left behind, and goes
    when that file system ends.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with suppress(OSError):
                job()
                code = 0
        finally:
            os._exit(code)
    if not ended(pid, seconds):
        os.kill(pid, signal.SIGKILL)
        if not ended(pid, KILLED_SECONDS):
            return False
    return os.waitpid(pid, 0)[1] == 0


def ended(pid: int, seconds: float) -> bool:
    """Waits until a process ends, child or not; False if it still runs after that time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    return pidfd_ended(fd, seconds)


def pidfd_ended(fd: int, seconds: float) -> bool:
    """As ended(), for a pidfd, which it closes."""
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(fd)
