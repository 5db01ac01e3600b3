"""Law: what has power over the host stands in marks, while a mount by root is nosuid or nodev.

The flags of a mount mean nothing on the disk that its upper lies on, where users may enter: a
set-id file, a file with a capability or a device that comes up there is theirs to use.  So a mount
by root with `nosuid` keeps set-id bits and capabilities in marks (objects.py), and one with `nodev`
keeps devices as empty files that a mark says are devices.  Every mount shows what the marks say.

makeharmless.py changes an upper that is not harmless yet.  The C core keeps the same rule
(native/upper/harmless.h).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from fusemount.dataclass import dataclass

SET_ID, CAPABILITY_MARK = b"imgmount.set_id", b"imgmount.capability"
CAPABILITY = b"security.capability"
SET_ID_BITS = stat.S_ISUID | stat.S_ISGID
# linux/capability.h: vfs_cap_data by its size, with the revision of its magic_etc
_CAPABILITIES = {20: 0x02000000, 24: 0x03000000}
_EFFECTIVE = 1


@dataclass(frozen=True)
class Harmless:
    """What stands in marks. files: set-id bits and capabilities, as the mount is nosuid.  devices:
    as it is nodev."""

    files: bool = False
    devices: bool = False

    def forbids(self, st: os.stat_result, stored: Iterable[bytes]) -> bool:
        """Whether an object with these xattrs has power over the host that it is not to have."""
        if stat.S_ISREG(st.st_mode):
            return self.files and bool(st.st_mode & SET_ID_BITS or CAPABILITY in stored)
        return self.devices and is_device(st)


AS_THEY_ARE = Harmless()


def is_device(st: os.stat_result) -> bool:
    """Or else a whiteout, or neither."""
    return stat.S_ISBLK(st.st_mode) or (stat.S_ISCHR(st.st_mode) and st.st_rdev != 0)


def format_bits(bits: int) -> bytes:
    return b"%o" % bits


def parse_bits(text: bytes | None) -> int:
    """0 for a mark that is not there, or that nobody of us wrote."""
    return int(text, 8) if text in (b"2000", b"4000", b"6000") else 0


def check_capability(value: bytes) -> None:
    """Raises OSError with EINVAL, as setxattr(2), for what is none (fs: cap_convert_nscap)."""
    magic = int.from_bytes(value[:4], "little") & ~_EFFECTIVE
    if _CAPABILITIES.get(len(value)) != magic:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
