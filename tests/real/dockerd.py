"""Runs a dockerd with directories of its own.  Law: it has ended when the block ends.

It needs no bridge and no firewall, because it only loads, builds and saves images.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from imagewriter import docker_archive
from oracle import run

_START_SECONDS, _STOP_SECONDS = 30, 20


@dataclass(frozen=True)
class Dockerd:
    """The docker client, for the daemon of this directory."""

    base: Path

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "DOCKER_HOST": f"unix://{self.base}/s",
            "DOCKER_CONFIG": str(self.base / "client"),
            "DOCKER_BUILDKIT": "0",
        }

    def __call__(self, *words: str | Path) -> str:
        return run("docker", *words, env=self._environment).stdout.decode().strip()

    def answers(self) -> bool:
        return not run("docker", "version", check=False, env=self._environment).returncode

    def build(self, tag: str, dockerfile: str, context: Path) -> None:
        """Builds an image with the builder that commits each step as a layer."""
        (context / "Dockerfile").write_text(dockerfile)
        self("build", "-q", "--network", "none", "-t", tag, context)


def plain_image(path: Path, layers: Sequence[bytes], tag: str) -> Path:
    """An archive that docker can load, also in a run for zstd layers, which docker cannot."""
    return docker_archive(path, layers, tags=[tag], compress="none")


@contextmanager
def dockerd(base: Path, *more: str) -> Iterator[Dockerd]:
    """more: further flags of the daemon. The test fails if no dockerd is there or none starts."""
    program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/sbin")
    if program is None:
        pytest.fail("dockerd is not installed: this test needs Docker", pytrace=False)
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            [program, "--iptables=false", "--bridge=none", f"--data-root={base}/data",
             f"--exec-root={base}/exec", f"--pidfile={base}/pid", f"--host=unix://{base}/s",
             *more],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        daemon = Dockerd(base)
        _await(daemon, process)
        yield daemon
    finally:
        _end(process)
        _unmount_below(base)


def _await(daemon: Dockerd, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not daemon.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            log = (daemon.base / "log").read_text(errors="replace")
            pytest.fail(f"dockerd does not start here:\n{log[-1500:]}", pytrace=False)
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM lets dockerd end its containerd; processes of the session that remain are killed."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(5)


def _unmount_below(base: Path) -> None:
    listed = run("findmnt", "-rno", "TARGET").stdout.decode().splitlines()
    for at in sorted((x for x in listed if x.startswith(f"{base}/")), reverse=True):
        run("umount", "--lazy", at)
