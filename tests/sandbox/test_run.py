"""`imgmount run` as root: what the command sees, how it ends, and that nothing is left."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from busyboximage import busybox_layers, left_behind
from imagewriter import docker_archive
from mounted import Command
from tarwriter import TarWriter

from fusemount.daemon.background import ended


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert left_behind(tmp_path) == []


def test_image_config_is_followed(command: Command, busybox_image: Path) -> None:
    assert command("run", busybox_image).stdout == "from cmd\n"
    assert (
        command("run", busybox_image, "pwd; echo $FROM_IMAGE $HOME").stdout == "/tmp\nyes /root\n"
    )
    assert command("run", "--entrypoint", "/bin/echo", busybox_image, "a").stdout == "a\n"
    assert command("run", "--entrypoint", "echo", busybox_image).stdout == "\n"


def test_flags(command: Command, busybox_image: Path) -> None:
    done = command(
        "run", "--rm", "-i", "-t", "-u", "alice", "-w", "/some/where", "-e", "A=1", "--hostname",
        "box", busybox_image, "id -u; id -g; id -G; pwd; echo $A $HOME $HOSTNAME; hostname",
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "1000", "1001", "1001 50", "/some/where", "1 /home/alice box", "box"
    ]  # fmt: skip
    assert os.uname().nodename != "box"


def test_exit_status_is_the_commands(command: Command, busybox_image: Path) -> None:
    def status(*words: str) -> int:
        return command("run", "--entrypoint", "", busybox_image, *words, check=False).returncode

    assert status("true") == 0
    assert status("sh", "-c", "exit 7") == 7
    assert status("sh", "-c", "kill -9 $$") == 137
    assert status("sh", "-c", "kill -15 $$") == 143
    assert status("nosuch") == status("/no/such") == 127
    assert status("/etc/motd") == status("/etc") == 126


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (("-u", "bob"), "no user 'bob'"),
        (("-v", "/nowhere/at/all:/x"), "/nowhere/at/all: No such file"),
        (("-v", "name:/x"), "no named volumes"),
        (("--platform", "linux/s390x"), "s390x"),
    ],
)
def test_our_own_failures_are_125(
    flags: tuple[str, ...], output: str, command: Command, busybox_image: Path
) -> None:
    done = command("run", *flags, busybox_image, "true", check=False)
    assert done.returncode == 125
    assert output in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_small_dev_and_the_kernels_file_systems(command: Command, busybox_image: Path) -> None:
    script = """
    for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done
    test -d /dev/pts -a -d /dev/shm -a -L /dev/fd -a -L /dev/ptmx -a -L /dev/stdin || echo links
    echo gone > /dev/null; echo shared > /dev/shm/x; cat /dev/shm/x
    cat /proc/1/comm > /dev/null && test -d /sys/kernel && echo proc and sys
    echo x > /sys/kernel/x || echo sys is ro
    kill -0 2 && ls /proc | while read p; do case $p in [0-9]*) echo $p;; esac; done
    """
    done = command("run", busybox_image, script)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["shared", "proc and sys", "sys is ro"]
    assert {"1", "2"} <= set(lines[3:])
    assert all(int(pid) < 20 for pid in lines[3:])  # only processes of the new pid namespace


def test_names_resolve_as_on_the_host_and_edits_stay_inside(
    command: Command, busybox_image: Path
) -> None:
    host = Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else ""
    done = command("run", busybox_image, "cat /etc/resolv.conf; echo bad > /etc/resolv.conf")
    assert done.stdout == host
    hosts = command("run", "--hostname", "box", busybox_image, "cat /etc/hosts").stdout
    assert "127.0.1.1\tbox" in hosts
    if host:
        assert Path("/etc/resolv.conf").read_text() == host


def test_volumes(command: Command, busybox_image: Path, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_text("in\n")
    (tmp_path / "one").write_text("one\n")
    done = command(
        "run", "-v", f"{tmp_path}/dir:/data/deep", "-v", f"{tmp_path}/dir:/ro:ro",
        "-v", f"{tmp_path}/one:/etc/one", busybox_image,
        "cat /data/deep/file /etc/one; echo out > /data/deep/new; echo x > /ro/new || echo refused",
    )  # fmt: skip
    assert done.stdout.splitlines() == ["in", "one", "refused"]
    assert (tmp_path / "dir/new").read_text() == "out\n"
    (tmp_path / "link").symlink_to(tmp_path)
    volume = ("-v", f"{tmp_path}/link/one:/etc/one")
    assert command("run", *volume, busybox_image, "cat /etc/one").stdout == "one\n"
    os.chown(tmp_path / "link", 65533, 65533, follow_symlinks=False)
    refused = command("run", *volume, busybox_image, "cat /etc/one", check=False)
    assert f"{tmp_path}/link is a symlink of uid 65533: it is not followed" in refused.stderr


def test_a_symlink_in_the_image_leads_nowhere_outside(command: Command, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    evil = TarWriter().symlink("etc/resolv.conf", f"../../../../../..{tmp_path}/secret/resolv")
    evil.symlink("data", f"{tmp_path}/secret").symlink("sys", f"{tmp_path}/secret")
    image = docker_archive(tmp_path / "evil.tar", [*busybox_layers(), evil.tar()])
    (tmp_path / "vol").mkdir()
    command("run", "-v", f"{tmp_path}/vol:/data/x", image, "touch", "/data/x/here", check=False)
    assert list((tmp_path / "secret").iterdir()) == []


def test_read_only(command: Command, busybox_image: Path) -> None:
    script = "touch /x || echo refused; echo ok > /dev/shm/x && cat /dev/shm/x"
    assert command("run", "--read-only", busybox_image, script).stdout == "refused\nok\n"


def test_changes_are_dropped_or_in_the_upper(
    command: Command, busybox_image: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    command("run", busybox_image, "echo x > /etc/new")
    command("run", "--upper", upper, busybox_image, "test ! -e /etc/new && echo y > /etc/new")
    assert (upper / "etc/new").read_text() == "y\n"
    assert command("run", "--upper", upper, busybox_image, "cat /etc/new").stdout == "y\n"


def test_orphans_end_with_the_command(command: Command, busybox_image: Path) -> None:
    script = "(sleep 98765; echo never) & (sleep 0 & ) ; exit 7"
    assert command("run", busybox_image, script, check=False, seconds=30).returncode == 7
    assert subprocess.run(["pgrep", "-f", "sleep 98765"], stdout=subprocess.DEVNULL).returncode == 1


def start(command: Command, image: Path, script: str) -> subprocess.Popen[str]:
    """A run that has started, and whose script has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fusemount", "run", image, script],
        env=command.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
def test_signals_reach_the_command(name: str, command: Command, busybox_image: Path) -> None:
    script = f"trap 'echo caught; exit 9' {name}; echo ready; while :; do sleep 0.1; done"
    with start(command, busybox_image, script) as process:
        process.send_signal(getattr(signal, "SIG" + name))
        assert process.wait(30) == 9
        assert process.stdout and process.stdout.read() == "caught\n"


def test_a_signal_that_kills_the_command(command: Command, busybox_image: Path) -> None:
    with start(command, busybox_image, "echo ready; exec sleep 1000") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_killing_us_ends_everything(command: Command, busybox_image: Path, tmp_path: Path) -> None:
    with start(command, busybox_image, "echo ready; sleep 1000") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        process.kill()
        process.wait()
        assert all(ended(int(pid), 30) for pid in children)


def test_ctrl_c_on_a_terminal_arrives_once(command: Command, busybox_image: Path) -> None:
    script = "n=0; trap 'n=$((n+1)); echo int $n' INT; trap 'exit 3' QUIT; echo ready; " \
             "while :; do sleep 0.1; done"  # fmt: skip
    pid, terminal = pty.fork()
    if pid == 0:
        words = [sys.executable, "-m", "fusemount", "run", "-it", str(busybox_image), script]
        os.execve(sys.executable, words, command.environment)
    output = b""

    def until(word: bytes) -> None:
        nonlocal output
        while word not in output:
            output += os.read(terminal, 1000)

    until(b"ready")
    os.write(terminal, b"\x03")
    until(b"int 1")
    os.write(terminal, b"\x1c")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    os.close(terminal)
    assert b"int 2" not in output
