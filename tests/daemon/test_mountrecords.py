"""Records: claims that are checked against processes and mounts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fusemount.daemon import holders, mountrecords
from fusemount.daemon.mountid import mount_on
from fusemount.daemon.mountrecords import Record
from fusemount.errors import NotPermitted
from fusemount.mountinfo import MountEntry, mount_at


@pytest.fixture
def record() -> Record:
    """A record of this process, whose mount is not visible."""
    started = mountrecords.start_time(os.getpid())
    assert started
    return Record(os.getpid(), started, "/mnt", "999:999", "i.tar", "sha256:0", None, None, False,
                  os.geteuid(), "2026-01-01T00:00:00Z")  # fmt: skip


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> MountEntry:
    """The entry of the root, shown as if it were a FUSE mount."""
    root = mount_at(Path("/"))
    assert root
    entry = replace(root, fstype="fuse.imgmount")
    monkeypatch.setattr(mountrecords, "mounts", lambda: [entry])
    return entry


def test_register_and_forget(tmp_path: Path, record: Record) -> None:
    mountrecords.prepare(tmp_path / "run")
    mountrecords.register(tmp_path / "run", record)
    (found,) = mountrecords.listing(tmp_path / "run")
    assert found.record == record
    mountrecords.forget(tmp_path / "run", record)
    assert mountrecords.listing(tmp_path / "run") == []
    assert list((tmp_path / "run").iterdir()) == []


def test_states(tmp_path: Path, record: Record, visible: MountEntry) -> None:
    dead = replace(record, pid=record.pid, start_time=1)
    mountrecords.register(tmp_path, record)
    assert mountrecords.listing(tmp_path)[0].state == "detached"
    mountrecords.register(tmp_path, replace(record, device=visible.device))
    assert mountrecords.listing(tmp_path)[0].state == "mounted"
    mountrecords.register(tmp_path, replace(dead, device=visible.device))
    assert mountrecords.listing(tmp_path)[0].state == "dead"
    mountrecords.register(tmp_path, dead)
    assert mountrecords.listing(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_a_device_number_is_given_again(
    tmp_path: Path, record: Record, visible: MountEntry
) -> None:
    """A daemon was killed, its mount is gone, and the next mount has its device number."""
    entry = visible
    living = replace(record, device=entry.device)
    dead = replace(living, pid=1, start_time=record.start_time + 1, mountpoint="/gone")
    for number in (1, 2**22):  # whichever file is read first
        mountrecords.register(tmp_path, living)
        mountrecords.register(tmp_path, replace(dead, pid=number))
        assert mountrecords.find(tmp_path, entry) == living
        assert [found.record for found in mountrecords.listing(tmp_path)] == [living]
        assert [path.stem for path in tmp_path.iterdir()] == [str(living.pid)]


def test_the_number_of_a_dead_mount_is_given_to_a_stranger(
    tmp_path: Path, record: Record, visible: MountEntry
) -> None:
    """The record that a killed daemon left does not match a mount with another mount ID."""
    mount = mount_on(Path("/"))
    assert mount and mount.unique  # Linux 6.8
    dead = replace(record, pid=1, start_time=1, device=visible.device, mount_id=mount.unique)
    mountrecords.register(tmp_path, dead)
    assert mountrecords.find(tmp_path, visible) == dead
    mountrecords.register(tmp_path, replace(dead, mount_id=mount.unique + 1))
    assert mountrecords.find(tmp_path, visible) is None
    assert mountrecords.listing(tmp_path) == []


def test_a_pid_that_was_taken_over_is_not_alive(record: Record) -> None:
    assert record.alive
    assert not replace(record, start_time=record.start_time - 1).alive


@pytest.mark.parametrize("name", [b"\xff\xfe", b"x) Z 1 (\xff", b"\n \t)"])
def test_a_process_has_any_name(name: bytes) -> None:
    """A user can have the pid of a daemon that was killed, and any bytes as a name."""
    wait = "import sys; open('/proc/self/comm', 'wb').write(bytes.fromhex(sys.argv[1]))"
    wait += "; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", wait, name.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout and process.stdout.readline()
        comm = Path(f"/proc/{process.pid}/comm").read_bytes().removesuffix(b"\n")
        assert comm == name
        ticks = Path(f"/proc/{process.pid}/stat").read_bytes()[len(b"%d (" % process.pid + name) :]
        assert mountrecords.start_time(process.pid) == int(ticks.split()[20])
        assert holders._name(process.pid).isprintable()
    finally:
        process.communicate()


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert mountrecords.start_time(child.pid) is None
    child.wait()


def test_rubbish_is_removed(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("{")
    (tmp_path / "2.json").write_text('{"pid": 1}')
    (tmp_path / "3.json").write_text("[]")
    assert mountrecords.listing(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_a_directory_that_others_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("open", "link"):
        with pytest.raises(NotPermitted, match="only you can write"):
            mountrecords.prepare(tmp_path / name)


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(NotPermitted):
        mountrecords.prepare(tmp_path / "theirs")


def test_somebody_elses_directory_is_not_believed(tmp_path: Path, record: Record) -> None:
    mountrecords.prepare(tmp_path / "run")
    mountrecords.register(tmp_path / "run", record)
    os.chown(tmp_path / "run", 65534, 65534)
    for read in (mountrecords.listing, mountrecords.prepare):
        with pytest.raises(NotPermitted, match="only you can write to"):
            read(tmp_path / "run")
    entry = mount_at(Path("/"))
    assert entry
    with pytest.raises(NotPermitted):
        mountrecords.find(tmp_path / "run", entry)
    assert mountrecords.listing(tmp_path / "none") == []


def test_a_record_names_its_user(record: Record) -> None:
    assert record.user == "root"
    assert replace(record, uid=4_000_000_000).user == "4000000000"
