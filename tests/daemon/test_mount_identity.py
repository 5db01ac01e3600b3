"""Another mount that is at our mount's path, or has its device number now, stays mounted
(mountid.py). Processes that have our mount in other mount namespaces are named (holders.py)."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path

import pytest
from mounted import Command
from oracle import run

from fusemount import _native
from fusemount.daemon import holders, umount
from fusemount.daemon.background import ended
from fusemount.daemon.channel import FuseChannel, MountRequest, open_channel
from fusemount.daemon.mountid import mount_on, mount_root
from fusemount.daemon.mountpoint import open_mountpoint
from fusemount.daemon.session import _flush_and_unmount
from fusemount.mountinfo import mount_at
from fusemount.settings import Directories

OPEN_TREE, OPEN_TREE_CLONE = 428, 1  # linux/mount.h
libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def tmpfs(at: Path) -> Iterator[None]:
    """Another mount, which must still be there at the end."""
    run("mount", "-t", "tmpfs", "none", at)
    try:
        yield
        entry = mount_at(at)
        assert entry is not None and entry.fstype == "tmpfs"
    finally:
        run("umount", at, check=False)


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[FuseChannel]:
    """A mount that no process serves."""
    at = tmp_path / "mnt"
    at.mkdir()
    with open_mountpoint(at) as place:
        channel = open_channel(MountRequest(place, "ours"))
    try:
        yield channel
    finally:
        channel.discard()
        assert mount_at(at) is None


def test_a_mount_is_detached_once(channel: FuseChannel) -> None:
    """The next mount has the path and the device number of the one that is gone."""
    at = channel.mountpoint
    assert channel.mount is not None and channel.mount.unique  # Linux 6.8
    _native.umount2(at, _native.MNT_DETACH)
    with tmpfs(at):
        assert mount_on(at) != channel.mount
        stranger = mount_on(at)
        assert stranger is not None
        if stranger.device != channel.device:  # another process was quicker
            channel.mount = type(channel.mount)(stranger.device, channel.mount.unique)
        _flush_and_unmount(channel)
        channel.discard()


def test_before_linux_6_8_a_mount_that_is_gone_is_known_too(channel: FuseChannel) -> None:
    """Without a unique mount ID, the connection shows whether the device number is still ours."""
    at = channel.mountpoint
    assert channel.mount is not None
    channel.mount = type(channel.mount)(channel.device, 0)
    with mount_root(at) as place:
        assert channel.serves(place)
    _native.umount2(at, _native.MNT_DETACH)
    assert not channel.connected
    with tmpfs(at):
        stranger = mount_on(at)
        assert stranger is not None
        channel.mount = type(channel.mount)(stranger.device, 0)
        channel.discard()


def test_a_mount_on_top_of_ours_stays(channel: FuseChannel) -> None:
    with tmpfs(channel.mountpoint):
        _flush_and_unmount(channel)
        channel.discard()
    _native.umount2(channel.mountpoint, _native.MNT_DETACH)  # our mount, which was below


def test_root_takes_off_a_mount_that_shuts_root_out(command: Command, tmp_path: Path) -> None:
    """A mount of a user without allow_other."""
    at, user = tmp_path / "mnt", "rootmode=40000,user_id=65534,group_id=65534"
    at.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR)
    try:
        _native.mount("theirs", at, "fuse.imgmount", 0, f"fd={fd},{user}")
        assert mount_on(at) is not None
        assert command("umount", at).stdout == ""
        assert mount_at(at) is None
    finally:
        os.close(fd)
        run("umount", "--lazy", at, check=False)


def test_holders_are_named(command: Command, busybox_image: Path, tmp_path: Path) -> None:
    at, upper = tmp_path / "mnt", tmp_path / "upper"
    at.mkdir()
    command(busybox_image, at, "--upper", upper)
    (at / "new").write_text("kept")
    (mount,) = json.loads(command("mounts", "--json").stdout)
    with ExitStack() as stack:
        apart = ("unshare", "--mount", "--propagation=private", "sh", "-c", "echo; exec sleep 99")
        holder = stack.enter_context(subprocess.Popen(apart, stdout=subprocess.PIPE))
        stack.callback(holder.kill)
        assert holder.stdout and holder.stdout.readline() == b"\n"
        for _ in range(2):
            output = command("umount", at).stdout
            assert (
                f"process {holder.pid} (s" in output and str(mount["pid"]) in output
            )  # sh or sleep
            assert mount_at(at) is None
        os.kill(mount["pid"], 0)
    assert ended(mount["pid"], 30)
    assert (upper / "new").read_text() == "kept"
    gone = command("umount", at, check=False)
    assert gone.returncode == 7 and "no imgmount mount" in gone.stderr


def test_a_bind_mount_that_holds_it_is_named(
    command: Command, busybox_image: Path, tmp_path: Path
) -> None:
    at, copy, upper = tmp_path / "mnt", tmp_path / "copy", tmp_path / "upper"
    at.mkdir()
    copy.mkdir()
    command(busybox_image, at, "--upper", upper)
    (at / "new").write_text("kept")
    (mount,) = json.loads(command("mounts", "--json").stdout)
    run("mount", "--bind", at, copy)
    try:
        for _ in range(2):
            output = command("umount", at, seconds=30).stdout
            assert f"still mounted on {copy}:" in output and str(mount["pid"]) in output
            assert mount_at(at) is None and (copy / "new").exists()
    finally:
        command("umount", copy)  # does not wait: another test's namespace may have a copy
    assert (upper / "new").read_text() == "kept"


def test_an_unseen_user_of_the_mount_is_not_waited_for(
    command: Command, busybox_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor of a copy that is mounted nowhere stands for a process that we may not look at.
    holders() is replaced, because other tests start processes that it would find."""
    runtime = Path(command.environment["IMGMOUNT_RUNTIME_DIR"])
    directories = Directories(tmp_path, tmp_path, runtime, tmp_path)
    monkeypatch.setattr(umount, "holders", lambda device: [])
    monkeypatch.setattr(umount, "END_SECONDS", 0.0)
    at = tmp_path / "mnt"
    at.mkdir()
    command(busybox_image, at)
    (mount,) = json.loads(command("mounts", "--json").stdout)
    tree = libc.syscall(OPEN_TREE, -1, os.fsencode(at), OPEN_TREE_CLONE)
    assert tree >= 0
    try:
        output = umount.umount_image(at, directories)
        assert (
            output
            and "somebody whom this user cannot see" in output
            and str(mount["pid"]) in output
        )
    finally:
        os.close(tree)


def test_a_daemon_that_is_told_to_end_leaves_a_stranger_on_top(
    command: Command, busybox_image: Path, tmp_path: Path
) -> None:
    at = tmp_path / "mnt"
    at.mkdir()
    command(busybox_image, at)
    (mount,) = json.loads(command("mounts", "--json").stdout)
    with tmpfs(at):
        os.kill(mount["pid"], signal.SIGTERM)
        assert ended(mount["pid"], 30)
    run("umount", "--lazy", at)  # our dead mount, below


def test_the_search_for_holders_has_an_end() -> None:
    """Any user can make a hundred thousand mounts in each of as many mount namespaces."""
    line = b"1 1 0:7 / /m rw - fuse.imgmount x rw\n"
    endless = chain(repeat(b"1 1 0:9 / /m rw - tmpfs x rw\n", 5000), repeat(line))
    found = holders._first(endless, "0:7", time.monotonic() + 60)
    assert found is not None and found.mountpoint == Path("/m")
    endless = repeat(line.replace(b"0:7", b"0:8"))
    assert holders._first(endless, "0:7", time.monotonic() + 0.05) is None
