"""`imgmount run`: a terminal that goes away, volumes that hold mounts, bad working directories."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from busyboximage import busybox_layers, left_behind
from imagewriter import docker_archive, oci_archive
from mounted import Command
from tarwriter import TarWriter

from fusemount.daemon.background import pidfd_ended


def test_it_ends_with_its_terminal(command: Command, busybox_image: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fusemount", "run", str(busybox_image), "echo ready; sleep 99"]
    pid, terminal = pty.fork()  # the child is the session's leader
    if pid == 0:
        os.execve(sys.executable, words, command.environment)
    output = b""
    while b"ready" not in output:
        output += os.read(terminal, 1000)
    pidfd = os.pidfd_open(pid)
    os.close(terminal)
    over = pidfd_ended(pidfd, 20)
    if not over:
        os.kill(pid, 9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert over
    assert left_behind(tmp_path) == []


def test_the_command_gets_the_limit_of_descriptors_that_was_found(
    command: Command, tmp_path: Path
) -> None:
    """Its image has more layers than that limit is good for."""
    more = [TarWriter().file(f"f{i}", b"%d" % i).tar() for i in range(20)]
    image = docker_archive(tmp_path / "i.tar", [*busybox_layers(), *more], compress="gzip")
    done = subprocess.run(
        ["prlimit", "--nofile=301:", sys.executable, "-m", "fusemount", "run", image,
         "sh", "-c", "ulimit -n"],
        env=command.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("301\n", "")
    assert left_behind(tmp_path) == []


def test_a_read_only_volume_is_so_in_the_mounts_below(
    command: Command, busybox_image: Path, tmp_path: Path
) -> None:
    (tmp_path / "host/below").mkdir(parents=True)
    script = 'mount -t tmpfs none "$1/below" && shift && exec "$@"'
    volume = f"{tmp_path}/host:/v"
    try_it = "touch /v/x || touch /v/below/x || echo refused"
    for mode, output in ((":ro", "refused\n"), ("", "")):
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", tmp_path / "host",
             sys.executable, "-m", "fusemount", "run", "-v", volume + mode, busybox_image, try_it],
            env=command.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, output), done.stderr


@pytest.mark.parametrize(
    ("where", "output"),
    [
        ("/etc/motd", "the working directory '/etc/motd' is not a directory"),
        ("/etc/motd/x", "the working directory '/etc/motd/x' is not a directory"),
        ("tmp", "-w 'tmp': the working directory must be absolute"),
    ],
)
def test_a_bad_working_directory(
    where: str, output: str, command: Command, busybox_image: Path
) -> None:
    done = command("run", "-w", where, busybox_image, "true", check=False)
    assert (done.returncode, done.stderr) == (125, f"imgmount: {output}\n")


@pytest.mark.parametrize(
    "config",
    [{"Cmd": ["/a", "b\0c"]}, {"Cmd": ["/a"], "Env": ["A=b\0c"]},
     {"Cmd": ["/a"], "WorkingDir": "/\0"}],
    ids=["Cmd", "Env", "WorkingDir"],
)  # fmt: skip
def test_a_nul_that_no_system_call_takes(
    command: Command, tmp_path: Path, config: dict[str, object]
) -> None:
    program = TarWriter().file("a", b"#!/a\n", mode=0o755).tar()
    image = oci_archive(tmp_path / "nul.tar", [program], tags=("t",), config={"config": config})
    done = command("run", image, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 125 and line.startswith("imgmount: ") and "null byte" in line, line
