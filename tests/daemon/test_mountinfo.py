"""proc_pid_mountinfo(5), line by line."""

from __future__ import annotations

from pathlib import Path

from fusemount.daemon.mountinfo import mount_at, mounts, parse_mountinfo


def test_fields_optional_fields_and_escapes() -> None:
    (one, two) = parse_mountinfo(
        [
            b"36 35 98:0 / /mnt/a\\040b\\134 rw,noatime master:1 shared:2 - ext3 /dev/x\\011y rw\n",
            b"40 35 0:57 / /mnt/\xff ro - fuse.imgmount - ro,user_id=0\n",
        ]
    )
    assert one.mountpoint == Path("/mnt/a b\\")
    assert (one.mount_id, one.device, one.fstype) == (36, "98:0", "ext3")
    assert (one.options, one.source) == (("rw", "noatime"), "/dev/x\ty")
    assert bytes(two.mountpoint) == b"/mnt/\xff"
    assert two.source == "-"


def test_a_path_may_hold_any_other_blank() -> None:
    (one,) = parse_mountinfo([b"36 35 0:57 / /mnt/a\r\xffb\x0b\x0c\xff rw - tmpfs  rw\n"])
    assert bytes(one.mountpoint) == b"/mnt/a\r\xffb\x0b\x0c\xff"
    assert (one.options, one.fstype, one.source) == (("rw",), "tmpfs", "")


def test_this_machine() -> None:
    root = mount_at(Path("/"))
    assert root in mounts()
    assert mount_at(Path("/nowhere/at/all")) is None
