"""Law: pid 1 of `run`: starts the command, reaps what is orphaned, hands on signals, says how the
command ended.

All in a forked Python: whatever it needs is imported before the root changes.  Exit codes are
docker's: 125 we failed, 126 not executable, 127 not found, 128 + n killed by signal n.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from fusemount import _native
from fusemount.daemon.command import Command, Identity, candidates, resolve_identity
from fusemount.daemon.sandbox import Sandbox, enter
from fusemount.errors import ImgmountError

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127

FORWARDED = frozenset(
    (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGWINCH,
    )
)

_TEXT_MAX = 4 << 20  # of an image's /etc/passwd


def run_init(sandbox: Sandbox, command: Command, user: str) -> NoReturn:
    """Everything from a fresh fork on, FORWARDED and SIGCHLD blocked."""
    code = FAILED
    try:
        enter(sandbox)
        identity = resolve_identity(user, _read("/etc/passwd"), _read("/etc/group"))
        child = os.fork()
        if child == 0:
            _execute(command, identity)
        _close_from(3)
        code = supervise(child, lambda _: None)
    except ImgmountError as error:
        _say(str(error))
    except OSError as error:
        _say(f"cannot set up the image: {error.strerror} {error.filename or ''}".rstrip())
    except BaseException as error:
        _say(f"a bug: {type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _say(message: str) -> None:
    line = message.encode(errors="backslashreplace").decode().replace("\n", " ")
    os.write(2, f"imgmount: {line}\n".encode())


def _read(path: str) -> str:
    """A file of the image, which may be anything: a fifo must not hold us up."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, _TEXT_MAX).decode(errors="surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _close_from(first: int) -> None:
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _execute(command: Command, identity: Identity) -> NoReturn:
    """The command's own process: drops to the user, then execve."""
    code = FAILED
    try:
        _make_working_dir(command.working_dir)  # as root, and as docker does
        _become(identity)
        os.chdir(command.working_dir)
        os.umask(0o022)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the two that Python ignores
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _close_from(3)
        environment = {"HOME": identity.home, **command.environment}
        code = _exec(command, environment)
    except ImgmountError as error:
        _say(str(error))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _say(f"cannot start {command.argv[0]!r}: {where}{error.strerror}")
    finally:
        os._exit(code)


def _make_working_dir(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ImgmountError(f"the working directory {path!r} is not a directory") from error


def _become(identity: Identity) -> None:
    try:
        os.setgroups(identity.groups)
    except PermissionError:
        pass  # a namespace of one id: setgroups is denied there for good
    try:
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        error.filename = f"uid {identity.uid}, gid {identity.gid} (not mapped here?)"
        raise


def _exec(command: Command, environment: dict[str, str]) -> int:
    """Returns only when nothing could be executed: the exit code that says why."""
    worst = errno.ENOENT
    for path in candidates(command.argv[0], environment.get("PATH", "")):
        try:
            os.execve(path, command.argv, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                worst = error.errno or worst
    if worst == errno.ENOENT:
        _say(f"{command.argv[0]}: command not found in the image")
        return NOT_FOUND
    _say(f"{command.argv[0]}: cannot execute: {os.strerror(worst)}")
    return NOT_EXECUTABLE


def supervise(child: int, other_ended: Callable[[int], None]) -> int:
    """Waits for child, forwarding signals; its exit code. Reaps all others and reports them.

    A signal that the terminal sent went to the whole foreground group, the command included: only
    what a process sent us (si_code <= 0, sigaction(2)) is handed on.  SIGHUP is always: when a
    terminal goes away the kernel tells the session's leader alone, which may be us.
    """
    while True:
        info = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code <= 0 or info.si_signo == signal.SIGHUP:
                _send(child, info.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            other_ended(pid)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # its SIGCHLD is on the way


def fork_init(sandbox: Sandbox, command: Command, user: str) -> int:
    """Forks pid 1 of a new pid namespace, whose death takes all of it along; its pid outside.

    FORWARDED and SIGCHLD are blocked from here on, in the caller too: see supervise.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    _native.unshare(_native.CLONE_NEWPID)
    sys.stdout.flush()
    sys.stderr.flush()
    alive, ours = os.pipe()
    pid = os.fork()
    if pid:
        os.close(alive)
        return pid  # `ours` stays open as long as we live
    os.close(ours)
    _native.set_pdeathsig(signal.SIGKILL)
    os.set_blocking(alive, False)
    try:
        if os.read(alive, 1) == b"":
            os._exit(FAILED)  # the parent died before the line above
    except BlockingIOError:
        os.close(alive)
    run_init(sandbox, command, user)
