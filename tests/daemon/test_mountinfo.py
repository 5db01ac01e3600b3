"""proc_pid_mountinfo(5), line by line."""

from __future__ import annotations

import os
from pathlib import Path

from fusemount.mountinfo import mount_at, mounts, parse_mountinfo


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


def test_a_users_mountpoint_is_one_field() -> None:
    """A mountpoint of any bytes: the kernel escapes only space, tab, newline and backslash."""
    name = "/d/n\x0crw\x0b-\rfuse.imgmount\x1cforged\x85".encode() + b"\xff"
    (entry,) = parse_mountinfo([b"40 35 0:57 / " + name + b" rw - fuse.other " + name + b" ro\n"])
    assert bytes(entry.mountpoint) == name
    assert (entry.fstype, entry.source) == ("fuse.other", os.fsdecode(name))


def test_an_empty_source_is_a_field_and_other_lines_are_none() -> None:
    lines = [
        b"",
        b"40 35\n",
        b"x 35 0:57 / /mnt rw - a b c\n",
        b"40 35 0:57 / /mnt rw - tmpfs  rw\n",
    ]
    (entry,) = parse_mountinfo(lines)
    assert (entry.fstype, entry.source) == ("tmpfs", "")


def test_this_machine() -> None:
    root = mount_at(Path("/"))
    assert root in mounts()
    assert mount_at(Path("/nowhere/at/all")) is None
