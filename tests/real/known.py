"""Keeps the state that the steps so far have led to.

Law: the state comes only from the plain directory and its answers.  The mount is never asked when a
step is chosen, so that a seed gives the same steps up to the first difference.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    worker: int
    name: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"Step({self.worker}, {self.name!r}, {self.arguments!r}),"


_OPENING = ("open", "create", "open_at", "open_directory", "tmpfile")


class Known:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.forget()

    def forget(self) -> None:
        """After an unmount no worker has anything open."""
        self._held: dict[tuple[int, str], set[int]] = defaultdict(set)

    def paths(self, *kinds: int) -> list[str]:
        """The paths of these kinds (S_IFREG …), or all paths, in a fixed order."""
        found: list[str] = []
        places = [""]
        while places:
            place = places.pop()
            for entry in sorted(os.scandir(self._root / place), key=lambda e: e.name):
                path = f"{place}/{entry.name}" if place else entry.name
                kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
                if not kinds or kind in kinds:
                    found.append(path)
                if kind == stat.S_IFDIR:
                    places.append(path)
        return found

    def slots(self, worker: int, kind: str) -> list[int]:
        """The slots in which a worker has a descriptor ("file", "directory", "any") or a "map"."""
        return sorted(self._held[worker, kind])

    def learn(self, step: Step, answer: object) -> None:
        """Takes the plain side's answer to a step into the state."""
        if isinstance(answer, str):  # an errno
            return
        if step.name in _OPENING and isinstance(answer, tuple):
            self._drop(step, "file", "directory", "any")
            kind = "directory" if stat.S_ISDIR(answer[0]) else "file"
            self._held[step.worker, kind].add(step.arguments[0])
            self._held[step.worker, "any"].add(step.arguments[0])
        elif step.name == "close":
            self._drop(step, "file", "directory", "any")
        elif step.name == "map":
            self._held[step.worker, "map"].add(step.arguments[0])
        elif step.name == "unmap":
            self._drop(step, "map")

    def _drop(self, step: Step, *kinds: str) -> None:
        for kind in kinds:
            self._held[step.worker, kind].discard(step.arguments[0])
