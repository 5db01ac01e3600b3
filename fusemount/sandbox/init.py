"""Law: pid 1 of `run`: it starts the command, reaps orphaned processes, forwards signals, and exits
with the command's exit code.

It runs in a forked Python.  All modules are imported before the root changes.  After that nothing
can be imported, because the module could come from the image (CVE-2019-14271 of docker cp).  Before
the command starts, no descriptor but 0, 1, 2 is open, and the working directory is inside the root
(CVE-2024-21626).  Exit codes are docker's: 125 we failed, 126 not executable, 127 not found,
128 + n killed by signal n.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

from fusemount import _native
from fusemount.beneath import make_dirs_in_root, open_in_root
from fusemount.errors import ImgmountError
from fusemount.escape import printable
from fusemount.layer.descriptors import give_back
from fusemount.sandbox.command import Command, RunAs, candidates, resolve_user
from fusemount.sandbox.newroot import Sandbox, close_from, enter
from fusemount.sandbox.program import leads_through_proc

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
    """All that the new pid 1 does. FORWARDED and SIGCHLD must be blocked."""
    code = FAILED
    try:
        _import_no_more()
        # A file object from before the fork must not close its number, which is a new file's now.
        gc.disable()
        enter(sandbox)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        run_as = resolve_user(user, _read(root, "etc/passwd"), _read(root, "etc/group"))
        # From now on processes of the sandbox, also as root of its user namespace, can neither
        # trace us nor follow /proc/1/exe and /proc/1/fd, which lead to files of the host
        # (CVE-2016-9962, CVE-2019-5736).
        _native.set_dumpable(False)
        child = os.fork()
        if child == 0:
            _execute(command, run_as, root)
        close_from(3)
        code = supervise(child, lambda _: None)
    except ImgmountError as error:
        _say(str(error))
    except OSError as error:
        _say(f"cannot set up the image: {error.strerror} {error.filename or ''}".rstrip())
    except BaseException as error:
        _say(f"a bug: {type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _import_no_more() -> None:
    """From here on an import that was overlooked fails; it cannot load a file of the image."""
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()


def _say(message: str) -> None:
    os.write(2, f"imgmount: {printable(message)}\n".encode(errors="backslashreplace"))


def _read(root: int, path: str) -> str:
    """The text of a file of the image; "" if it is not a regular file.

    The file is looked at before it is opened, because opening a device can have an effect, and
    opening a fifo waits.
    """
    try:
        os.close(_open_file(root, path, os.O_PATH))
        fd = _open_file(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        return os.read(fd, _TEXT_MAX).decode(errors="surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _open_file(root: int, path: str, flags: int) -> int:
    fd = open_in_root(root, path, flags | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)


def _execute(command: Command, run_as: RunAs, root: int) -> NoReturn:
    """The command's process: becomes the user, then calls execve(2)."""
    code = FAILED
    try:
        _make_working_dir(root, command.working_dir)  # as root, and as docker does
        environment = {"HOME": run_as.home, **command.environment}
        candidate_paths = candidates(command.argv[0], environment.get("PATH", ""))
        paths = {name: os.path.join(command.working_dir, name) for name in candidate_paths}
        refused = {name for name, path in paths.items() if leads_through_proc(root, path)}
        _become(run_as)
        _change_directory(root, command.working_dir)
        os.umask(0o022)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        close_from(3)
        give_back()
        code = _exec(command, environment, candidate_paths, refused)
    except ImgmountError as error:
        _say(str(error))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        _say(f"cannot start {command.argv[0]!r}: {where}{error.strerror}")
    except Exception as error:  # a word with a NUL in it, which no system call takes
        _say(f"cannot start {command.argv[0]!r}: {error}")
    finally:
        os._exit(code)


def _make_working_dir(root: int, path: str) -> None:
    try:
        os.close(make_dirs_in_root(root, path.lstrip("/")))
    except (FileExistsError, NotADirectoryError) as error:
        raise ImgmountError(f"the working directory {path!r} is not a directory") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ImgmountError(
            f"the working directory {path!r} leads through a link of /proc, or in a circle"
        ) from error


def _change_directory(root: int, path: str) -> None:
    """Enters the working directory, with the rights of the user, who may not be allowed to. Raises
    ImgmountError if the directory is not in our root, and so not in the image."""
    try:
        fd = open_in_root(root, path.lstrip("/"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(fd)
    except OSError as error:
        error.filename = path
        raise
    try:
        here = os.getcwd()  # "(unreachable)…", or an error, outside the root
        again = open_in_root(root, here.lstrip("/"), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        inside = here.startswith("/") and os.path.samestat(os.fstat(again), os.stat("."))
    except OSError:
        inside = False
    if not inside:
        raise ImgmountError(f"the working directory {path!r} does not lie in the image")


def _become(run_as: RunAs) -> None:
    try:
        os.setgroups(run_as.groups)
    except PermissionError:
        pass  # a user namespace of one id, which can never call setgroups(2)
    try:
        os.setresgid(run_as.gid, run_as.gid, run_as.gid)
        os.setresuid(run_as.uid, run_as.uid, run_as.uid)
    except OSError as error:
        error.filename = f"uid {run_as.uid}, gid {run_as.gid} (not mapped here?)"
        raise


def _exec(
    command: Command, environment: dict[str, str], candidate_paths: list[str], refused: set[str]
) -> int:
    """Executes the command.  Returns only if it cannot be executed: the exit code for the
    reason."""
    why = ""
    for program in candidate_paths:
        if program in refused:
            why = "it leads through a link of /proc, or in a circle"
            continue
        try:
            os.execve(program, command.argv, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                why = os.strerror(error.errno or 0)
    if not why:
        _say(f"{command.argv[0]}: command not found in the image")
        return NOT_FOUND
    _say(f"{command.argv[0]}: cannot execute: {why}")
    return NOT_EXECUTABLE


def supervise(child: int, other_ended: Callable[[int], None]) -> int:
    """Waits for child and forwards signals to it; returns its exit code. Reaps all other children
    and calls other_ended with their pids.

    A terminal sends a signal to its whole foreground process group, so the command has it already.
    Only signals that a process sent us (si_code <= 0, sigaction(2)) are forwarded.  SIGHUP is
    always forwarded: when a terminal goes away the kernel sends it only to the session leader,
    which may be us.
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
    """Forks pid 1 of a new pid namespace; returns its pid in our namespace. When it dies, the
    kernel kills all processes of the new namespace.

    FORWARDED and SIGCHLD are blocked from here on, in the caller too, because supervise waits for
    them with sigwaitinfo(2).
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
