"""Law: imports all modules that serve a mount before there is one.  A thread does so while the
image is opened, and ends before the fork.

To import trio and pyfuse3 takes about as long as all else that a mount does before it is ready.
The core reads indexes and merges layers without the GIL, so on two processors both run at the same
time.  The thread imports only packages of others, so no module that the thread waits for can be
waiting for the thread.

The daemon imports nothing after the fork.  So a mount that was ready does not fail because a file
of ours has been removed or memory is short, and nothing hangs where `sys.path` leads into the
mountpoint (the current directory, with `python -m`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from fusemount.errors import ImgmountError

_OTHERS = ("trio", "pyfuse3")

# The second is imported inside functions of other modules, when they are first called.
_OURS = ("fusemount.fuse", "fusemount.rootfs.removal")


class Loading:
    """start() may be called once or never; finish() must be called, before mount and fork."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self) -> None:
        """Begins to import. Never raises; finish() raises its errors."""
        thread = threading.Thread(target=self._begin)
        try:
            thread.start()
        except RuntimeError:  # no thread can be started: finish() imports all
            return
        self._thread = thread

    def _begin(self) -> None:
        try:
            _import(_OTHERS)
        except Exception as error:
            self._error = error

    def finish(self) -> None:
        """Returns when all is imported and the thread has ended. Raises ImgmountError if a module
        cannot be imported, or memory is short."""
        if self._thread is not None:
            self._thread.join()
        try:
            if self._error is not None:
                raise self._error
            _import((*_OTHERS, *_OURS))
        except (MemoryError, ImportError, OSError) as error:
            why = str(error) or "out of memory"
            raise ImgmountError(f"cannot load what serves the mount: {why}") from error


def _import(names: tuple[str, ...]) -> None:
    with _pthread_found(), _no_version_sought():
        for name in names:
            import_module(name)


@contextmanager
def _pthread_found() -> Iterator[None]:
    """Within the block, ctypes finds libpthread without starting a process.

    trio looks for it while it is imported, to name its threads.  ctypes.util would run
    `ldconfig -p`, which takes 10 ms, and gcc if there is no ldconfig.  Glibc's name for the library
    is always the same.  With a wrong name only the threads would have no names.
    """
    import ctypes.util

    asked = ctypes.util.find_library

    def found(name: str) -> str | None:
        return "libpthread.so.0" if name == "pthread" else asked(name)

    ctypes.util.find_library = found
    try:
        yield
    finally:
        ctypes.util.find_library = asked


@contextmanager
def _no_version_sought() -> Iterator[None]:
    """Within the block, importlib.metadata finds no package, unless it is imported already.

    pyfuse3 asks it for its own version while it is imported, and takes "unknown" for an answer.  To
    import it, with the parser of e-mails behind it, and to read the answer takes 14 ms.
    """
    name = "importlib.metadata"
    stub = ModuleType(name)

    class PackageNotFoundError(Exception):
        pass

    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    vars(stub).update(PackageNotFoundError=PackageNotFoundError, version=version)
    sys.modules.setdefault(name, stub)
    try:
        yield
    finally:
        if sys.modules.get(name) is stub:
            del sys.modules[name]
