"""Law: while a mount by root is nosuid or nodev, its upper has no objects with power over the host;
marks take the place of their powers.

The flags of a mount do not protect the directory that its upper is in, which users may be able to
enter: they could use a set-id file, a file with a capability or a device that is copied up there.
So a mount by root with `nosuid` keeps set-id bits and capabilities in marks (objects.py), and one
with `nodev` keeps a device as an empty file with a mark.  Every mount shows what the marks mean.

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
    """What is kept in marks. files: set-id bits and capabilities, because the mount is nosuid.
    devices: because it is nodev."""

    files: bool = False
    devices: bool = False

    def forbids(self, st: os.stat_result, stored: Iterable[bytes]) -> bool:
        """Whether an object with these xattrs has power over the host that it must not have."""
        if stat.S_ISREG(st.st_mode):
            return self.files and bool(st.st_mode & SET_ID_BITS or CAPABILITY in stored)
        return self.devices and is_device(st)


AS_THEY_ARE = Harmless()


def is_device(st: os.stat_result) -> bool:
    """Whether it is a device; a character device 0:0 is a whiteout."""
    return stat.S_ISBLK(st.st_mode) or (stat.S_ISCHR(st.st_mode) and st.st_rdev != 0)


def format_bits(bits: int) -> bytes:
    return b"%o" % bits


def parse_bits(text: bytes | None) -> int:
    """0 for a mark that is not there or that we did not write."""
    return int(text, 8) if text in (b"2000", b"4000", b"6000") else 0


def check_capability(value: bytes) -> None:
    """Raises OSError with EINVAL, as setxattr(2) does, for a value that is no capability
    (security/commoncap.c, cap_convert_nscap)."""
    magic = int.from_bytes(value[:4], "little") & ~_EFFECTIVE
    if _CAPABILITIES.get(len(value)) != magic:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
