"""The control socket: each question gets an answer; no hostile client keeps the mount waiting."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from busyboximage import left_behind
from mounted import Command, mounted

from fusemount.daemon import control, mountrecords
from fusemount.daemon.background import ended
from fusemount.daemon.control import ask, find_record, listening, serve_control
from fusemount.daemon.mountpoint import unmount
from fusemount.daemon.mountrecords import Record
from fusemount.errors import ImgmountError, MountpointError, NotPermitted
from fusemount.mountinfo import mount_at

ANSWERS = {"stats": lambda: {"one": 1}}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = left_behind(tmp_path)
    for line in left:
        if line.startswith("mounted: "):
            unmount(Path(line.removeprefix("mounted: ")), lazy=True)
    assert left == []


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """The record of a visible mount: of the root, shown as if it were a FUSE mount."""
    started = mountrecords.start_time(os.getpid())
    assert started
    root = mount_at(Path("/"))
    assert root
    entry = replace(root, fstype="fuse.imgmount")
    monkeypatch.setattr(control, "mounts", lambda: [entry])
    return Record(os.getpid(), started, "/mnt", root.device, "i.tar", "sha256:0", None, None, False,
                  os.geteuid(), "2026-01-01T00:00:00Z")  # fmt: skip


def served(
    runtime: Path, record: Record, job: Callable[[], Any], answers: control.Answers = ANSWERS
) -> Any:
    """The result of job(), run in a thread while the socket is served. Then the socket is gone."""

    async def session(serve: Callable[[], Awaitable[None]]) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            result = await trio.to_thread.run_sync(job)
            nursery.cancel_scope.cancel()
        return result

    with listening(runtime, record) as listener:
        assert listener
        try:
            return trio.run(session, partial(serve_control, listener, answers))
        finally:
            mountrecords.forget(runtime, record)


@contextmanager
def link(runtime: Path, pid: int) -> Iterator[socket.socket]:
    directory = os.open(runtime, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(f"/proc/self/fd/{directory}/{pid}.sock")
            yield s
    finally:
        os.close(directory)


def answer_to(runtime: Path, pid: int, words: bytes) -> bytes:
    """The bytes that come back until the daemon hangs up, or resets the connection."""
    received = b""
    with link(runtime, pid) as s:
        try:
            s.sendall(words)
            while chunk := s.recv(65536):
                received += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass
    return received


def test_a_question_and_its_answer(tmp_path: Path, record: Record) -> None:
    assert served(tmp_path, record, lambda: ask(tmp_path, record, "stats")) == {"one": 1}
    assert not list(tmp_path.iterdir())


def test_a_directory_too_long_for_a_socket(tmp_path: Path, record: Record) -> None:
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    assert served(deep, record, lambda: ask(deep, record, "stats")) == {"one": 1}


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_only_its_user_may_ask(mask: int, tmp_path: Path, record: Record) -> None:
    before = os.umask(mask)
    try:
        with listening(tmp_path, record):
            mode = mountrecords.socket_path(tmp_path, record.pid).stat().st_mode
    finally:
        os.umask(before)
        mountrecords.forget(tmp_path, record)
    assert mode & 0o077 == 0 and (mask == 0o777 or mode & 0o777 == 0o600)


def test_another_user_is_told_so(record: Record) -> None:
    runtime = Path(tempfile.mkdtemp(prefix="imgmount-test-"))
    runtime.chmod(0o755)

    def asks_as_nobody() -> int:
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            try:
                ask(runtime, record, "stats")
            except NotPermitted as error:
                os._exit(0 if "root's mount" in str(error) else 2)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    try:
        with listening(runtime, record):
            assert asks_as_nobody() == 0
    finally:
        shutil.rmtree(runtime)


@pytest.mark.parametrize(
    "words",
    [b"\n", b"{}\n", b"[]\n", b"null\n", b'"stats"\n', b'{"ask": 7}\n', b'{"ask": {"a": 1}}\n',
     b'{"ask": "nothing"}\n', b'{"ask": "stats"\n', b"\xff\xfe\n", b"[" * 60000 + b"\n"],
)  # fmt: skip
def test_what_is_no_question_gets_an_error(words: bytes, tmp_path: Path, record: Record) -> None:
    def job() -> None:
        assert "error" in json.loads(answer_to(tmp_path, record.pid, words))
        assert ask(tmp_path, record, "stats") == {"one": 1}

    served(tmp_path, record, job)


def test_an_unknown_question_is_an_error_here(tmp_path: Path, record: Record) -> None:
    def job() -> None:
        with pytest.raises(ImgmountError, match="unknown question 'weather'"):
            ask(tmp_path, record, "weather")

    served(tmp_path, record, job)


def test_who_says_too_much_is_dropped_at_once(tmp_path: Path, record: Record) -> None:
    def job() -> None:
        began = time.monotonic()
        assert answer_to(tmp_path, record.pid, b"x" * 1_000_000) == b""
        assert time.monotonic() - began < control._SECONDS
        assert ask(tmp_path, record, "stats") == {"one": 1}

    served(tmp_path, record, job)


def test_who_says_nothing_is_dropped(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More silent clients than there are slots, and one that sends slowly; then a real question."""
    monkeypatch.setattr(control, "_SECONDS", 0.2)

    def job() -> None:
        with link(tmp_path, record.pid) as trickle:
            trickle.sendall(b"{")
            silent = [link(tmp_path, record.pid) for _ in range(control._CLIENTS + 3)]
            opened = [s.__enter__() for s in silent]
            assert ask(tmp_path, record, "stats") == {"one": 1}
            assert [s.recv(1) for s in (*opened, trickle)] == [b""] * (len(opened) + 1)
            for s in silent:
                s.__exit__(None, None, None)

    served(tmp_path, record, job)


def test_who_does_not_read_is_dropped(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_SECONDS", 0.2)
    answers = {**ANSWERS, "much": lambda: {"x": "y" * 8_000_000}}

    def job() -> None:
        with link(tmp_path, record.pid) as s:
            s.sendall(b'{"ask": "much"}\n')
            assert ask(tmp_path, record, "stats") == {"one": 1}
            time.sleep(0.4)
            received = 0
            while chunk := s.recv(1 << 20):
                received += len(chunk)
            assert received < 8_000_000

    served(tmp_path, record, job, answers)


def test_who_leaves_early_is_no_trouble(tmp_path: Path, record: Record) -> None:
    def job() -> None:
        for words in (b"", b"{", b'{"ask": "stats"}\n'):
            with link(tmp_path, record.pid) as s:
                s.sendall(words)
        assert ask(tmp_path, record, "stats") == {"one": 1}

    served(tmp_path, record, job)


def test_an_answer_that_fails_does_not_end_the_mount(tmp_path: Path, record: Record) -> None:
    def job() -> None:
        with pytest.raises(ImgmountError, match="cut off"):
            ask(tmp_path, record, "bad")
        assert ask(tmp_path, record, "stats") == {"one": 1}

    served(tmp_path, record, job, {**ANSWERS, "bad": lambda: {}["none"]})


def test_a_socket_of_a_dead_daemon_with_our_pid(tmp_path: Path, record: Record) -> None:
    mountrecords.socket_path(tmp_path, record.pid).write_text("stale")
    assert served(tmp_path, record, lambda: ask(tmp_path, record, "stats")) == {"one": 1}


def test_without_a_socket_the_mount_goes_on(tmp_path: Path, record: Record) -> None:
    mountrecords.socket_path(tmp_path, record.pid).mkdir()
    with listening(tmp_path, record) as listener:
        assert listener is None
    with listening(tmp_path / "none", record) as listener:
        assert listener is None
    mountrecords.socket_path(tmp_path, record.pid).rmdir()


def test_listing_sweeps_what_the_dead_left(tmp_path: Path, record: Record) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        mountrecords.socket_path(tmp_path, pid).touch()
    (tmp_path / "other.sock").touch()
    assert mountrecords.listing(tmp_path) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{os.getpid()}.sock", "other.sock"]


def test_a_daemon_that_is_gone_hung_or_mute(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.2)
    with pytest.raises(ImgmountError, match="no control socket"):
        ask(tmp_path, record, "stats")
    with pytest.raises(MountpointError, match="its daemon is gone"):
        ask(tmp_path, replace(record, start_time=1), "stats")
    with listening(tmp_path, record), pytest.raises(ImgmountError, match="does not answer"):
        ask(tmp_path, record, "stats")
    with pytest.raises(ImgmountError, match="Connection refused"):
        ask(tmp_path, record, "stats")
    with pytest.raises(
        MountpointError, match="its daemon is gone"
    ):  # its mount is gone, so it ends
        ask(tmp_path, replace(record, device="999:999"), "stats")
    mountrecords.forget(tmp_path, record)


# ---- real mounts ---------------------------------------------------------------------------------


@pytest.fixture
def at(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


def stats(command: Command, at: Path) -> dict[str, Any]:
    answer = json.loads(command("stats", "--json", at).stdout)
    assert isinstance(answer, dict)
    return answer


def test_python_counts_what_it_answers(command: Command, busybox_image: Path, at: Path) -> None:
    with mounted(command, busybox_image, at, "-o", "fastpath=off"):
        assert (at / "etc/motd").read_text() == "hello\n"
        (at / "new").write_bytes(b"x" * 5000)
        assert not (at / "none").exists()
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(at / "new", "user.none")
        fd = os.open(at / "new", os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
        answer = stats(command, at)
        ops = answer["requests"]["ops"]
        assert {door for doors in ops.values() for door in doors} == {"python"}
        assert ops["READ"]["python"]["bytes"] == 6
        assert ops["WRITE"]["python"]["bytes"] == 5000
        assert ops["CREATE"]["python"]["count"] == 1
        assert ops["GETXATTR"]["python"]["errors"] >= 1
        assert ops["LOOKUP"]["python"]["count"] >= 4  # etc, motd, new, none
        assert ops["LOOKUP"]["python"]["errors"] == 0, "a name that is not there is an answer"
        for doors in ops.values():
            counted = doors["python"]
            assert sum(counted["buckets"]) == counted["count"]
            assert counted["p50_ns"] <= counted["p90_ns"] <= counted["p99_ns"] <= counted["max_ns"]
        assert answer["mount"]["mountpoint"] == str(at)
        assert 5 << 20 < answer["memory"]["rss_bytes"] <= answer["memory"]["peak_rss_bytes"]
        assert answer["tree"]["nodes"] > 15
        assert 3 < answer["descriptors"]["open"] < answer["descriptors"]["limit"]


def test_all_forms_of_a_living_mount(command: Command, busybox_image: Path, at: Path) -> None:
    with mounted(command, busybox_image, at):
        (at / "etc/motd").read_text()
        assert "LOOKUP" in command("stats", at).stdout
        assert command("stats", at / "etc" / "..").stdout.startswith("OPERATION")
        assert (
            "# TYPE imgmount_requests_total counter" in command("stats", "--prometheus", at).stdout
        )
        assert str(at) in command("mounts").stdout
        runtime = at.parent / "runtime"
        assert sorted(p.suffix for p in runtime.iterdir()) == [".json", ".sock"]
        (path,) = runtime.glob("*.sock")
        assert path.stat().st_mode & 0o777 == 0o600
    assert not list(runtime.iterdir())


def test_a_killed_daemon_is_named(command: Command, busybox_image: Path, at: Path) -> None:
    command(busybox_image, at)
    pid = stats(command, at)["mount"]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert ended(pid, 30)
    done = command("stats", at, check=False)
    assert (done.returncode, done.stdout) == (7, "")
    assert "its daemon is gone" in done.stderr and "clears it" in done.stderr
    command("umount", at)
    assert not list((at.parent / "runtime").iterdir())


def test_what_is_not_ours(command: Command, busybox_image: Path, at: Path, tmp_path: Path) -> None:
    for path in (at, tmp_path / "none", Path("/proc")):
        done = command("stats", path, check=False)
        assert done.returncode == 7
        assert "no imgmount mount is there" in done.stderr
    with mounted(command, busybox_image, at):
        done = command("stats", at / "etc", check=False)
        assert done.returncode == 7
        done = Command(tmp_path / "other")("stats", at, check=False)
        assert done.returncode == 9
        assert "only who mounted it can ask" in done.stderr
        with pytest.raises(NotPermitted):
            find_record(at, tmp_path / "other" / "runtime")


def test_a_hostile_client_does_not_stop_serving(
    command: Command, busybox_image: Path, at: Path
) -> None:
    with mounted(command, busybox_image, at):
        pid, runtime = stats(command, at)["mount"]["pid"], at.parent / "runtime"
        with link(runtime, pid) as silent, link(runtime, pid) as mad:
            mad.sendall(b"[" * 1000)
            assert (at / "etc/motd").read_text() == "hello\n"
            (at / "new").write_text("x")
            assert stats(command, at)["requests"]["ops"]
            assert answer_to(runtime, pid, os.urandom(200_000)) in (
                b"",
                b'{"error": "not a question"}\n',
            )
            assert silent.recv(1) == b"" and mad.recv(1) == b""
        assert (at / "etc/second").read_text() == "2\n"


@contextmanager
def watching(command: Command, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "fusemount", "stats", *map(str, arguments)],
        env=command.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_watching_appends_lines_until_interrupted(
    command: Command, busybox_image: Path, at: Path
) -> None:
    with mounted(command, busybox_image, at):
        with watching(command, at, "--watch", "0.1") as process:
            assert process.stdout and process.stderr
            assert process.stdout.readline().split()[:2] == ["TIME", "REQUESTS/S"]
            os.statvfs(at)
            assert len(process.stdout.readline().split()) >= 8
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stderr.read() == ""


def test_watching_as_json_shows_each_interval(
    command: Command, busybox_image: Path, at: Path
) -> None:
    with mounted(command, busybox_image, at):
        with watching(command, "--json", "--watch", "0.1", at) as process:
            assert process.stdout
            process.stdout.readline()
            for _ in range(3):
                os.statvfs(at)
            counted = 0
            for _ in range(100):
                answer = json.loads(process.stdout.readline())
                assert answer["seconds"] >= 0.1
                doors = answer["requests"]["ops"].get("STATFS", {})
                counted += sum(numbers["count"] for numbers in doors.values())
                if counted == 3:
                    break
            assert counted == 3


def test_watching_ends_with_the_mount(command: Command, busybox_image: Path, at: Path) -> None:
    with mounted(command, busybox_image, at):
        watcher = watching(command, "--watch", "0.1", at)
        process = watcher.__enter__()
        assert process.stdout and process.stderr
        process.stdout.readline()
    try:
        assert process.wait(30) == 7
        assert "its daemon is gone" in process.stderr.read()
    finally:
        watcher.__exit__(None, None, None)
    assert mount_at(at) is None
