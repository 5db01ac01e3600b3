"""The loop of pid 1: which signals it forwards, which processes it reaps, and its exit code."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusemount.errors import ImgmountError
from fusemount.sandbox import init

SI_USER, SI_TKILL, SI_KERNEL = 0, -6, 0x80


def dead_child(code: int = 0, killed_by: int = 0) -> int:
    """A child that has ended and has not been waited for."""
    pid = os.fork()
    if pid == 0:
        if killed_by:
            os.kill(os.getpid(), killed_by)
        os._exit(code)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def run(
    monkeypatch: pytest.MonkeyPatch, child: int, *events: tuple[int, int]
) -> tuple[int, list[tuple[int, int]]]:
    """(exit code, signals sent) of supervise when these (signo, code) come in."""
    infos = iter([SimpleNamespace(si_signo=number, si_code=code) for number, code in events])
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(signal, "sigwaitinfo", lambda wanted: next(infos))
    monkeypatch.setattr(init, "_send", lambda pid, number: sent.append((pid, number)))
    return init.supervise(child, lambda pid: None), sent


def test_only_what_a_process_sent_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal's ^C reaches the command directly: forwarded, it would arrive twice."""
    child = dead_child(3)
    code, sent = run(
        monkeypatch, child,
        (signal.SIGINT, SI_KERNEL), (signal.SIGTERM, SI_USER), (signal.SIGUSR1, SI_TKILL),
        (signal.SIGCHLD, 1),
    )  # fmt: skip
    assert code == 3
    assert sent == [(child, signal.SIGTERM), (child, signal.SIGUSR1)]


def test_a_killed_command_gives_128_and_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    child = dead_child(killed_by=signal.SIGKILL)
    assert run(monkeypatch, child, (signal.SIGCHLD, 1))[0] == 137


def test_all_others_are_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ends may come as one SIGCHLD, because it does not queue."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the orphans have been reaped
        os._exit(5)
    os.close(reader)
    orphans = {dead_child(), dead_child()}
    others: list[int] = []

    def ended(pid: int) -> None:
        others.append(pid)
        if set(others) == orphans:
            os.close(writer)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    info = SimpleNamespace(si_signo=signal.SIGCHLD, si_code=1)
    monkeypatch.setattr(signal, "sigwaitinfo", lambda wanted: info)
    assert init.supervise(child, ended) == 5
    assert set(others) == orphans


def test_a_hangup_is_always_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sends SIGHUP to the session leader only; ^C it sends to the whole group."""
    child = dead_child()
    _, sent = run(monkeypatch, child, (signal.SIGHUP, SI_KERNEL), (signal.SIGCHLD, 1))
    assert sent == [(child, signal.SIGHUP)]


@pytest.mark.parametrize("twin", [False, True])
def test_a_working_directory_outside_of_the_root_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, twin: bool
) -> None:
    """The path of the working directory leads to nothing in the root, or to another directory."""
    monkeypatch.chdir(tmp_path)  # undone after the test
    inside = tmp_path / "root/in"
    inside.mkdir(parents=True)
    if twin:
        Path(f"{tmp_path}/root/{inside}").mkdir(parents=True)
    root = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    whole = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(ImgmountError, match="'/in' does not lie in the image"):
            init._change_directory(root, "/in")
        init._change_directory(whole, str(inside))
        assert Path.cwd() == inside
    finally:
        os.close(root)
        os.close(whole)
