"""Finds the verb, runs it, and turns every failure into one line and an exit code.

Law: importing this module is quick, so that `imgmount --version` is.  It imports the module of a
verb only to run that verb.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from fusemount import __version__

# verb -> (module in this folder, line of the help; "": another spelling of a verb).  A file that is
# named like a verb is given as `./mount`.
VERBS = {
    "mount": ("mount", "show an image as a root file system (the verb may be left out)"),
    "umount": ("umount", "unmount, and wait until what was written is safe"),
    "unmount": ("umount", ""),
    "mounts": ("mounts", "list what is mounted"),
    "stats": ("stats", "print what a mount was asked, and how long that took"),
    "run": ("run", "run a command in an image, leaving nothing behind"),
    "ls": ("ls", "list the images of the store"),
    "list": ("ls", ""),
    "images": ("ls", ""),
    "inspect": ("inspect", "print an image's configuration as JSON"),
    "history": ("history", "print how an image was built"),
    "dump": ("dump", "print every inode of an image, a line each"),
    "diff": ("diff", "print what was changed in a mount or an upper, or between two images"),
    "commit": ("commit", "write what was changed as an image with one layer more"),
    "pull": ("pull", "bring an image from a registry into the store"),
    "push": ("push", "bring an image of the store to a registry"),
    "copy": ("copy", "copy an image between registries, stores, archives and layouts"),
    "export": ("export", "write all that a mount or an image shows as one tar"),
    "import": ("importing", "make an image from a root file system's tar"),
    "load": ("load", "bring the images of an archive or layout into the store"),
    "save": ("save", "write images of the store as an archive or layout"),
    "tag": ("tag", "give an image of the store one more name"),
    "rm": ("rm", "take names away, and images with their last name"),
    "rmi": ("rm", ""),
    "prune": ("prune", "remove images without a name, and what nothing leads to"),
    "verify": ("verify", "recompute all that the store says, and name what is not so"),
    "du": ("du", "print what the store takes on disk, and what could go"),
    "help": ("help", "print help for a verb"),
}

_USAGE = """\
usage: imgmount IMAGE MOUNTPOINT [-o OPTIONS]
       imgmount VERB [...]          (imgmount help VERB)

A container image as a writable root file system, without unpacking it.

verbs:
"""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came, and no daemon handles it yet; unwinds like ^C."""


def usage() -> str:
    lines = [f"  {verb:<9} {line}" for verb, (_, line) in VERBS.items() if line]
    return _USAGE + "\n".join(lines)


def entry() -> NoReturn:
    """The command `imgmount`: prepares the process, runs main() and exits."""
    open_standard_descriptors()
    argv = sys.argv[1:]
    if _split(argv)[0] != "mount":
        sys.exit(main(argv, guarded=True))
    close_inherited_descriptors(argv)
    # Imports make many objects and drop few: without looking for cycles they take 6 % less time.
    gc.disable()  # daemon/serving.py enables it again
    leave(main(argv, guarded=True))


def leave(code: int) -> NoReturn:
    """Exits without freeing modules and the image's tree.

    The daemon has its own copy of them, and freeing takes 15 ms or more, for which the caller of
    the mount command would wait.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def open_standard_descriptors() -> None:
    """Opens /dev/null for each of the descriptors 0, 1, 2 that is closed.

    Else the next file that is opened gets that number, and messages for the user go into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: `number`
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:  # the interpreter found it closed
            setattr(sys, name, open(number, mode, closefd=False))


def close_inherited_descriptors(argv: list[str]) -> None:
    """Closes the caller's descriptors, but not those that the command line names (/dev/fd/9).

    A daemon that kept them open would keep the caller's locks, pipes and directories busy.
    """
    import re

    kept = {int(n) for word in argv for n in re.findall(r"/(?:dev|proc/self)/fd/(\d{1,9})", word)}
    first = 3
    for fd in sorted(fd for fd in kept if fd >= first):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _split(argv: list[str]) -> tuple[str, list[str]]:
    """(verb, its arguments); the verb is "" if there is none.

    Takes a leading `--root DIR` off and puts it into the environment.
    """
    if argv[:1] == ["--root"] and len(argv) > 1:
        os.environ["IMGMOUNT_ROOT_DIR"], argv = argv[1], argv[2:]
    elif argv and argv[0].startswith("--root="):
        os.environ["IMGMOUNT_ROOT_DIR"], argv = argv[0][7:], argv[1:]
    if not argv or argv[0] in ("--version", "-V", "--help", "-h"):
        return "", argv
    return (argv[0], argv[1:]) if argv[0] in VERBS else ("mount", argv)


def main(argv: list[str], *, guarded: bool = False) -> int:
    """Runs a command line and returns its exit code. Prints errors, raises none.

    guarded: standard output is the process' own, and terminal.py guards it against control codes.
    """
    verb, rest = _split(argv)
    debug = verb != "run" and any(word in ("-d", "--debug") for word in rest)
    try:
        code = _run_verb(verb, rest, guarded=guarded) if verb else _answer(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output has ended
        _abandon_output()
        return 128 + signal.SIGPIPE
    except Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        _abandon_output()
        return _report(error, verb)


def _answer(argv: list[str]) -> int:
    if argv and argv[0] in ("--version", "-V"):
        print(f"imgmount {__version__}")
        return 0
    print(usage(), file=sys.stdout if argv else sys.stderr)
    return 0 if argv else 2


def _abandon_output() -> None:
    """Drops output that cannot be written, so that the interpreter does not complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _run_verb(verb: str, argv: list[str], *, guarded: bool) -> int:
    def terminate(_number: int, _frame: object) -> NoReturn:
        raise Terminated

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)
    module = import_module("fusemount.cli." + VERBS[verb][0])
    if guarded:
        from fusemount.cli.terminal import guard_output

        guard_output()
    try:
        code = module.run(argv)
    except SystemExit as end:  # argparse has printed the help
        code = end.code
    assert isinstance(code, int)
    return code


def _report(error: Exception, verb: str) -> int:
    import errno

    from fusemount.cli.terminal import tell
    from fusemount.errors import ImgmountError, NoSpace

    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    code = 1
    if isinstance(error, ImgmountError):
        code, message = error.exit_code, str(error)
    elif isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = NoSpace.exit_code if full else 1
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        message = where + (error.strerror or str(error))
    elif isinstance(error, MemoryError):
        message = "out of memory"
    else:
        message = f"a bug: {type(error).__name__}: {error} (-d shows where)"
    tell(message)
    # `run` returns its command's status, so its own failures all have one number (docker's).
    return 125 if verb == "run" else code
