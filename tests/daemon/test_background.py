"""One fork, one answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hangingfs import hanging, waited_for

from fusemount.daemon import background
from fusemount.daemon.background import DaemonLost, answers, ended, launch
from fusemount.daemon.mountid import mount_of, mount_root
from fusemount.errors import ImgmountError, UpperError

Ready = Callable[[], None]


def test_returns_when_ready_and_the_child_is_apart(tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def job(ready: Ready) -> None:
        state = f"{os.getsid(0) == os.getpid()} {os.getcwd()} {os.readlink('/proc/self/fd/2')}"
        (tmp_path / "state").write_text(state)
        os.close(writer)
        ready()
        os.read(reader, 1)  # until the test closes its end

    pid = launch(job, log_fd=-1)
    assert (tmp_path / "state").read_text() == "True / /dev/null"
    assert not ended(pid, 0)
    os.close(writer)
    assert ended(pid, 10)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(reader)


def test_an_error_of_the_child_is_raised_here() -> None:
    def job(ready: Ready) -> None:
        raise UpperError("in use")

    with pytest.raises(UpperError, match=r"^in use$"):
        launch(job, log_fd=-1)


def test_trios_wrapping_is_taken_off() -> None:
    def job(ready: Ready) -> None:
        raise BaseExceptionGroup("nursery", [BaseExceptionGroup("x", [UpperError("in use")])])

    with pytest.raises(UpperError, match=r"^in use$"):
        launch(job, log_fd=-1)


def test_a_bug_in_the_child_is_named() -> None:
    def job(ready: Ready) -> None:
        raise ValueError("oops")

    with pytest.raises(ImgmountError, match="ValueError: oops"):
        launch(job, log_fd=-1)


def test_a_child_that_dies_without_a_word() -> None:
    def job(ready: Ready) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DaemonLost, match="SIGKILL"):
        launch(job, log_fd=-1)


def test_stderr_of_libraries_goes_to_the_log(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        pid = launch(lambda ready: (os.write(2, b"from C"), ready())[1], log_fd=log.fileno())
    os.waitpid(pid, 0)
    assert (tmp_path / "log").read_bytes() == b"from C"


def test_answers(tmp_path: Path) -> None:
    assert answers(tmp_path, 10)
    assert not answers(tmp_path / "none", 10)


def test_a_file_system_that_hangs_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that asks cannot be killed, and is not waited for."""
    monkeypatch.setattr(background, "KILLED_SECONDS", 0.1)
    with waited_for() as waited, hanging(tmp_path):
        assert not answers(tmp_path, 0.1)
        assert not waited


def test_no_stranger_s_symlink_is_asked(tmp_path: Path) -> None:
    """It may lead to a file system that never answers, or to another mount."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    assert answers(tmp_path / "link/dir", 10)
    os.chown(tmp_path / "link", 65533, 65533, follow_symlinks=False)
    assert not answers(tmp_path / "link/dir", 10)
    with mount_root(tmp_path) as root:
        other = replace(mount_of(root), unique=1, device="0:0")
    assert not answers(tmp_path, 10, other)


def test_an_interrupted_parent_takes_the_child_along(tmp_path: Path) -> None:
    """SIGINT while the child gets ready: the parent goes on when the child has cleaned up."""
    parent = os.getpid()

    def job(ready: Ready) -> None:
        def terminate(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, terminate)
        try:
            time.sleep(0.3)  # the parent, which has other threads here, has left os.fork()
            os.kill(parent, signal.SIGINT)
            signal.pause()
        finally:
            (tmp_path / "undone").touch()

    # The program that runs the tests may have set another handler, or ignored SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(job, log_fd=-1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "undone").exists()


def test_an_interrupt_in_a_hook_of_fork_is_not_lost() -> None:
    """What a handler raises there is reported as unraisable and forgotten, so it runs later."""
    asked = [True]

    def after_fork() -> None:
        if asked:
            asked.clear()
            # To this thread, as in a command, which has no other one then.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def job(ready: Ready) -> None:
        time.sleep(1)
        ready()

    os.register_at_fork(after_in_parent=after_fork)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(job, log_fd=-1)
    finally:
        signal.signal(signal.SIGINT, before)
