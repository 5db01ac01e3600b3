"""The command itself: its verbs, its quick start, and errors as one line and an exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command
from tarwriter import TarWriter

from fusemount import __version__
from fusemount.cli.main import VERBS, main


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    layer = TarWriter().dir("etc").file("etc/motd", b"hello\n").tar()
    config = {"config": {"Env": ["A=1"], "Cmd": ["/bin/true"]}}
    return docker_archive(tmp_path / "image.tar", [layer], config=config)


def test_version_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from fusemount.cli.main import main; main(['--version']);"
        "heavy = {'trio', 'pyfuse3', 'argparse', 'json', 'zstandard', 'rich', 'hashlib',"
        " 'fusemount._native'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    times = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert (done.returncode, done.stdout) == (0, f"imgmount {__version__}\n"), done.stderr
    assert min(times) < 0.080


def test_no_arguments_is_a_usage_error(command: Command) -> None:
    done = command(check=False)
    assert done.returncode == 2
    assert "usage: imgmount IMAGE MOUNTPOINT" in done.stderr


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "help"])
def test_every_verb_has_help(verb: str, command: Command) -> None:
    assert "usage: imgmount" in command("help", verb).stdout
    assert "usage: imgmount" in command(verb, "--help").stdout


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["help", "nothing"], 2),
        (["mounts", "--nope"], 2),
        (["image.tar"], 2),
        (["run"], 125),
        (["run", "nope.tar"], 125),
        (["inspect", "nope.tar"], 3),
        (["nope.tar", "/"], 7),
        (["umount", "/"], 7),
        (["inspect", "/etc/passwd"], 4),
        (["inspect", "/dev"], 3),
    ],
)
def test_errors_are_one_line_and_a_documented_code(
    argv: list[str], code: int, command: Command
) -> None:
    done = command(*argv, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("imgmount: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_message_cannot_drive_the_terminal(command: Command) -> None:
    done = command("inspect", "a\x1b[2J\nb", check=False)
    assert done.returncode == 3
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_name_that_is_not_utf8_is_an_error_like_any(command: Command) -> None:
    done = command("inspect", os.fsdecode(b"/nowhere/\xff"), check=False)
    assert done.returncode == 3
    assert "\\xff" in done.stderr or "\\udcff" in done.stderr


def test_an_image_named_like_a_verb_needs_a_path(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image.rename(tmp_path / "mounts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMGMOUNT_RUNTIME_DIR", str(tmp_path / "none"))
    assert main(["mounts"]) == 0
    assert capsys.readouterr().out.startswith("MOUNTPOINT")
    assert main(["./mounts", "/nowhere"]) == 7
    assert "/nowhere: no such directory" in capsys.readouterr().err


def test_a_bug_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(argv: list[str]) -> int:
        raise ValueError("oops")

    monkeypatch.setattr("fusemount.cli.mounts.run", broken)
    assert main(["mounts"]) == 1
    assert capsys.readouterr().err == "imgmount: a bug: ValueError: oops (-d shows where)\n"
    assert main(["mounts", "-d"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device", "x"), 10)],
)
def test_other_ends_have_their_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("fusemount.cli.mounts.run", broken)
    assert main(["mounts"]) == code


def test_a_reader_that_leaves_is_no_error(command: Command, image: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "fusemount", "dump", image],
        stdout=writer, stderr=subprocess.PIPE, env=command.environment,
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGPIPE
