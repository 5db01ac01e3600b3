"""podman and buildah with imgmount as their `mount_program` build, run and commit the same as with
the driver that copies all files (vfs)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from mounted import Command
from oracle import run

from fusemount.mountinfo import mounts

_BUILD = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /d/a/b /d/keep && echo one > /d/a/f1 && ln /d/a/f1 /d/a/f2 && echo x > /d/a/b/x && \
    echo gone > /d/keep/gone
RUN chmod 600 /d/a/f1 && chown 5:6 /d/a/b/x && mv /d/a /d/moved && rm -r /d/keep && \
    mkdir /d/keep && echo n > /d/keep/new
RUN mv /d/moved/b /d/b2 && ln -s b2 /d/l && chmod 4755 /bin/busybox && echo more >> /d/moved/f2
"""

_RUN = "mv /d/b2 /d/b3 && rm /d/keep/new && chmod 700 /d && ln /d/moved/f1 /d/f3 && echo done"


def build_run_commit(storage: list[str], context: Path, archive: Path) -> tuple[str, list[str]]:
    """The container's output and its `podman diff`; writes the committed image to archive."""
    # The limits are this machine's current ones, because runc may not be allowed to raise them.
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]

    def podman(*words: str | Path) -> str:
        return run("podman", *storage, *words).stdout.decode()

    run("buildah", *storage, "bud", "--layers", "--isolation", "chroot", "-q", "-t", "t:1", context)
    output = podman("--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", *limits,
                  "--network", "none", "--name", "box", "t:1", "sh", "-c", _RUN)  # fmt: skip
    changed = podman("diff", "box").splitlines()
    podman("commit", "-q", "box", "t:2")
    podman("save", "-q", "--format", "oci-archive", "-o", archive, "t:2")
    podman("rm", "-f", "box")
    return output, sorted(changed)


def clean(storage: Sequence[str], root: Path) -> None:
    for words in (["rm", "--all"], ["rmi", "--all", "--force"]):
        subprocess.run(["buildah", *storage, *words], capture_output=True, timeout=60)
    subprocess.run(["umount", root / "overlay"], capture_output=True, timeout=20)


def dump(command: Command, archive: Path) -> list[str]:
    """The dump without times and layer numbers, because these differ between the two builds."""
    rows = [line.split() for line in command("dump", "--digest", archive).stdout.splitlines()]
    return [" ".join(row[:6] + row[7:-1]) for row in rows]


def test_mount_program(tmp_path: Path) -> None:
    command = Command(tmp_path)
    program = tmp_path / "program"
    settings = " ".join(f"{k}='{v}'" for k, v in command.environment.items() if "IMGMOUNT" in k)
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n'
        f'exec env {settings} {sys.executable} -m fusemount "$@"\n'
    )
    program.chmod(0o755)
    context = tmp_path / "context"
    context.mkdir()
    (context / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (context / "busybox").chmod(0o755)
    (context / "Dockerfile").write_text(_BUILD)
    found = {}
    for driver, more in (
        ("overlay", ["--storage-opt", f"overlay.mount_program={program}"]),
        ("vfs", []),
    ):
        root = tmp_path / driver
        with tempfile.TemporaryDirectory() as runroot:  # podman wants it short
            storage = ["--root", str(root), "--runroot", runroot, "--storage-driver", driver, *more]
            try:
                answer = build_run_commit(storage, context, tmp_path / f"{driver}.tar")
            finally:
                clean(storage, root)
        found[driver] = (*answer, dump(command, tmp_path / f"{driver}.tar"))
    assert found["overlay"][0] == "done\n"
    assert found["overlay"] == found["vfs"]
    assert "upperdir=" in (tmp_path / "asked").read_text()
    assert not [m for m in mounts() if tmp_path in m.mountpoint.parents]


def test_a_version_is_said() -> None:
    """`podman info` asks the program for its version."""
    done = run(sys.executable, "-m", "fusemount", "--version")
    assert done.stdout.startswith(b"imgmount ")


@pytest.fixture(autouse=True)
def import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
