"""R 39: the kernel forgets what it knows of every file system, again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def dropping_caches(seconds: float = 0.5) -> Iterator[list[int]]:
    """Dentries and inodes go twice a second; yields one item a time."""
    ended, times = threading.Event(), []

    def drop() -> None:
        while not ended.wait(seconds):
            Path("/proc/sys/vm/drop_caches").write_text("2")
            times.append(1)

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()
