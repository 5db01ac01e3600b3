"""Law: starts mounts by forking a process in which Python and fusemount are loaded already.

Each of a thousand steps needs a daemon of its own, and importing takes ten times as long as
mounting.  So one process imports everything, reads requests from its standard input, and forks.
The child runs `imgmount … -f` as the command does, and never returns.

    request                  answer
    ["start", arguments]     the child's process ID
    ["wait", pid]            its exit status, negative for a signal

Each is one line of JSON.  The end of the input ends the process and all its children.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PATIENCE = 20.0


def _child(arguments: Sequence[str]) -> None:
    from fusemount.cli.main import main

    code = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        code = main(list(arguments))
    finally:
        os._exit(code)


def _serve() -> None:
    import fusemount.cli.bars
    import fusemount.cli.mount
    import fusemount.daemon.mount
    import fusemount.fuse
    import fusemount.image
    import fusemount.sources  # noqa: F401

    children: set[int] = set()
    for line in sys.stdin:
        what, value = json.loads(line)
        if what == "start":
            answer = os.fork()
            if answer == 0:
                _child(value)
            children.add(answer)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(value, 0)[1])
            children.discard(value)
        print(answer, flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Launcher:
    """The test's side."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def _ask(self, what: str, value: Any) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([what, value]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the launcher has ended: {self.log.read_text()[-2000:]}"
        return int(answer)

    def mount(self, at: Path, *arguments: str | Path) -> int:
        """Starts `imgmount *arguments at -f`.  Returns when something is mounted at `at`."""
        before = os.stat(at.parent).st_dev
        pid = self._ask("start", [*map(str, arguments), str(at), "-f"])
        end = time.monotonic() + _PATIENCE
        while os.lstat(at).st_dev == before:
            if not alive(pid) or time.monotonic() > end:
                raise AssertionError(f"not mounted: {self.log.read_text()[-2000:]}")
            time.sleep(0.002)
        return pid

    def wait(self, pid: int) -> int:
        return self._ask("wait", pid)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def alive(pid: int) -> bool:
    """Whether the process has not ended; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    _serve()
