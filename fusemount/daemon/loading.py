"""Law: everything that serves a mount is imported before there is one, beside the opening of the
image, by a thread that has ended before the fork.

trio and pyfuse3 take about as long to import as all else that a mount does before it is ready.  The
core reads indexes and merges layers without the GIL, so the two share the time where there are two
processors.  The thread imports only what others wrote: no module that it waits for waits for it.

Nothing is imported after the fork, so what was ready does not end because a file of ours went, or
memory; nor where `sys.path` leads into the mountpoint (the current directory, with `python -m`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from fusemount.errors import ImgmountError

_OTHERS = ("trio", "pyfuse3")

# Ours; the second is imported by functions of others when they are first called.
_OURS = ("fusemount.fuse", "fusemount.rootfs.removal")


class Loading:
    """start() may be called once or never; finish() always, before the mount and the fork."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self) -> None:
        """Begins to import. Never raises: finish() does."""
        thread = threading.Thread(target=self._begin)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: finish() imports all
            return
        self._thread = thread

    def _begin(self) -> None:
        try:
            _import(_OTHERS)
        except Exception as error:
            self._error = error

    def finish(self) -> None:
        """Returns when all is imported and the thread has ended. Raises ImgmountError where there
        is no memory for it."""
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
    with _pthread_found():
        for name in names:
            import_module(name)


@contextmanager
def _pthread_found() -> Iterator[None]:
    """ctypes answers where libpthread is without a process.

    trio asks so while it is imported, to name its threads.  ctypes.util runs `ldconfig -p` for the
    answer, which takes 10 ms, and tries gcc where there is no ldconfig.  Glibc's name for it is
    always the same; a wrong one would cost the threads their names, no more.
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
