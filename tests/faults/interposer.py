"""Law: tells interpose.c which call fails or kills, and reads which calls there were.

    faults = Interposer(directory)             compiles the library there
    faults.arm(at=3, action=Action.KILL_BEFORE)
    …                                          one operation
    faults.disarm()                            the calls counted, in order

Numbers count from 1. A process takes part when it was started with faults.environment.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

_LINES = 4096
_SOURCE = Path(__file__).with_name("interpose.c")


class Class(IntFlag):
    NONE = 0
    MAKE = 1
    DATA = 2
    ATTRIBUTE = 4
    XATTR = 8
    NAME = 16
    SYNC = 32
    LOOK = 64

    CHANGES = MAKE | DATA | ATTRIBUTE | XATTR | NAME | SYNC
    SPACE = MAKE | DATA | XATTR


class Action(IntEnum):
    NOTHING = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    FAIL = 3
    EXCHANGE = 4
    EXCHANGE_REMOVE = 5


class _Line(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("call", ctypes.c_char * 24),
        ("object", ctypes.c_char * 480),
    )


class _Control(ctypes.Structure):
    _fields_ = (
        ("armed", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("at", ctypes.c_uint32),
        ("action", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("then", ctypes.c_uint32),
        ("classes", ctypes.c_uint32),
        ("hit", ctypes.c_uint32),
        ("prefix", ctypes.c_char * 480),
        ("again", ctypes.c_uint32),
        ("mine", ctypes.c_char * 480),
        ("theirs", ctypes.c_char * 480),
        ("lines", _Line * _LINES),
    )


@dataclass(frozen=True)
class Call:
    """One call.  object: a path below the prefix, or "old -> new" for two paths."""

    kind: Class
    name: str
    object: str
    error: int

    def __str__(self) -> str:
        answer = (
            "" if self.error == 0 else f" = {os.strerror(self.error) if self.error > 0 else '?'}"
        )
        return f"{self.name} {self.object}{answer}"


class Interposer:
    def __init__(self, directory: Path) -> None:
        self._library = directory / "interpose.so"
        self._file = directory / "control"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror",
             "-o", self._library, _SOURCE],
            check=True,
        )  # fmt: skip
        self._file.write_bytes(bytes(ctypes.sizeof(_Control)))
        with open(self._file, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), 0)
        self._control = _Control.from_buffer(self._map)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "FAULTS_CONTROL": str(self._file)}

    def watch(self, prefix: Path) -> None:
        """From now on only calls on paths below prefix count."""
        self._control.prefix = os.fsencode(prefix)

    def arm(
        self,
        *,
        at: int = 0,
        action: Action = Action.NOTHING,
        error: int = 0,
        then: Class = Class.NONE,
        classes: Class = Class.CHANGES,
    ) -> None:
        control = self._control
        control.count = control.hit = 0
        control.at, control.action, control.error = at, action, error
        control.then, control.classes = then, classes
        control.armed = 1

    def arm_user(self, mine: Path, theirs: Path, *, at: int, again: int, action: Action) -> None:
        """At call `at` a user exchanges two names; at call `again` the user exchanges them back
        (EXCHANGE), or removes the first (EXCHANGE_REMOVE). Looks count too."""
        control = self._control
        control.again = again
        control.mine, control.theirs = os.fsencode(mine), os.fsencode(theirs)
        self.arm(at=at, action=action, classes=Class.CHANGES | Class.LOOK)

    def disarm(self) -> list[Call]:
        self._control.armed = 0
        return self.calls()

    @property
    def hit(self) -> bool:
        """Whether the action was taken."""
        return bool(self._control.hit)

    def calls(self) -> list[Call]:
        prefix = os.fsdecode(self._control.prefix) + "/"
        return [
            Call(
                Class(line.kind),
                os.fsdecode(line.call),
                os.fsdecode(line.object).replace(prefix, ""),
                line.error,
            )
            for line in self._control.lines[: min(self._control.count, _LINES)]
        ]

    def close(self) -> None:
        del self._control
        self._map.close()
