"""Law: reads and writes the xattrs of one object of an upper on disk: those of its user, and marks;
and its times.

objects.py has the format, and says which objects the methods take.
"""

from __future__ import annotations

import errno
import os

from fusemount.beneath import fd_path, name_in
from fusemount.rootfs.harmless import (
    AS_THEY_ARE,
    CAPABILITY,
    CAPABILITY_MARK,
    Harmless,
    check_capability,
)
from fusemount.rootfs.uppermarks import TRUSTED, USER, USERXATTR, object_is_full, xattr_names

OVERRIDE_STAT = b"user.containers.override_stat"
_ESCAPED_OVERRIDE = b"imgmount.override_stat"  # a user's own xattr, which must not give owners
ACL_ACCESS, ACL_DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
OPAQUE, REDIRECT, METACOPY = b"opaque", b"redirect", b"metacopy"
ORIGIN, TIMES, HELD = b"imgmount.origin", b"imgmount.times", b"imgmount.held"
_LONG_MARK = 256  # bytes


class ObjectMarks:
    """The xattrs and times of one object of an upper.

    Every method raises OSError of its system calls.  prefix: <P>.
    """

    prefix: bytes
    harmless: Harmless = AS_THEY_ARE

    @property
    def privileged(self) -> bool:
        """Whether we can give files to other owners and make devices."""
        return self.prefix == TRUSTED

    @staticmethod
    def _name_of(fd: int, path: bytes) -> bytes:
        """The path of an object, for calls that take no descriptor.  If `path` is empty, the call
        must follow symlinks."""
        return name_in(fd, path) if path else fd_path(fd)

    # ---- xattrs ---------------------------------------------------------------------------

    def encode(self, name: bytes) -> bytes:
        """The name under which a user's xattr is stored."""
        if name == CAPABILITY and self.harmless.files:
            return self.prefix + CAPABILITY_MARK
        if name.startswith(self.prefix):
            return self.prefix + b"overlay." + name[len(self.prefix) :]
        if name == OVERRIDE_STAT and self.prefix == USER:
            return self.prefix + _ESCAPED_OVERRIDE
        return name

    def decode(self, name: bytes) -> bytes | None:
        """The name that the user sees of a stored xattr; None for marks of overlayfs and our
        own."""
        if self.prefix == USER and name in (OVERRIDE_STAT, USERXATTR):
            return None
        if name.startswith(self.prefix):
            rest = name[len(self.prefix) :]
            if rest == _ESCAPED_OVERRIDE:
                return OVERRIDE_STAT
            if rest == CAPABILITY_MARK:
                return CAPABILITY
            return self.prefix + rest[8:] if rest.startswith(b"overlay.") else None
        return name

    def raw_xattr(self, fd: int, path: bytes, name: bytes) -> bytes | None:
        try:
            return os.getxattr(self._name_of(fd, path), name, follow_symlinks=not path)
        except OSError as e:
            if e.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                return None
            raise

    def stored(self, fd: int, path: bytes) -> dict[bytes, bytes]:
        """All xattrs of an object, as they are stored, except those that are removed meanwhile."""
        listed = xattr_names(self._name_of(fd, path), self.prefix, follow=not path)
        found = ((name, self.raw_xattr(fd, path, name)) for name in listed)
        return {name: value for name, value in found if value is not None}

    def user_xattrs(self, stored: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """The user's xattrs among the stored ones, under their own names."""
        named = ((self.decode(name), value) for name, value in stored.items())
        users = {name: value for name, value in named if name is not None}
        if CAPABILITY in stored:  # a real capability is valid, whatever the mark has
            users[CAPABILITY] = stored[CAPABILITY]
        return users

    def xattrs(self, fd: int, path: bytes) -> dict[bytes, bytes]:
        """The user's xattrs of an object, under their own names."""
        return self.user_xattrs(self.stored(fd, path))

    def set_xattr(self, fd: int, path: bytes, name: bytes, value: bytes) -> None:
        if name == CAPABILITY and self.harmless.files:
            check_capability(value)
        target = self._name_of(fd, path)
        os.setxattr(target, self.encode(name), value, follow_symlinks=not path)
        if name == CAPABILITY:  # it is either real or in its mark, not both
            self._remove_if_there(
                fd, path, CAPABILITY if self.harmless.files else self._capability_mark
            )

    def remove_xattr(self, fd: int, path: bytes, name: bytes) -> None:
        if name == CAPABILITY:
            self._remove_if_there(fd, path, self._capability_mark)
            self._remove_if_there(fd, path, CAPABILITY)
        else:
            os.removexattr(self._name_of(fd, path), self.encode(name), follow_symlinks=not path)

    @property
    def _capability_mark(self) -> bytes:
        return self.prefix + CAPABILITY_MARK

    def _remove_if_there(self, fd: int, path: bytes, name: bytes) -> None:
        """Removes an xattr, by its stored name, if the object has it."""
        if self.raw_xattr(fd, path, name) is not None:
            os.removexattr(self._name_of(fd, path), name, follow_symlinks=not path)

    def set_mark(self, fd: int, path: bytes, mark: bytes, value: bytes) -> None:
        """Sets <P>mark (opaque, redirect)."""
        target = self._name_of(fd, path)
        os.setxattr(target, self.prefix + mark, value, follow_symlinks=not path)

    def try_mark(self, fd: int, path: bytes, mark: bytes, value: bytes) -> None:
        """Sets <P>mark if the object can have it.

        Only files and directories can have user xattrs, and there may be no room for a long path:
        ext4 has one block for all xattrs of an object."""
        try:
            self.set_mark(fd, path, mark, value)
        except OSError as e:
            long = len(value) > _LONG_MARK and e.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE)
            if not long and (self.privileged or e.errno not in (errno.EPERM, errno.EOPNOTSUPP)):
                raise

    def remove_mark(self, fd: int, path: bytes, mark: bytes) -> None:
        """Removes a mark if it is there."""
        try:
            os.removexattr(self._name_of(fd, path), self.prefix + mark, follow_symlinks=not path)
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise

    def mark(self, fd: int, path: bytes, mark: bytes) -> bytes | None:
        return self.raw_xattr(fd, path, self.prefix + mark)

    # ---- times ----------------------------------------------------------------------------

    def mark_times(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Keeps a directory's real times in its mark before a change that must not show: for a
        crash before restore_times(). Without room for the mark there is none."""
        self.mark_if_room(fd, path, TIMES, b"%d %d" % (atime_ns, mtime_ns))

    def mark_if_room(self, fd: int, path: bytes, mark: bytes, value: bytes) -> None:
        """Sets <P>mark if there is room for it at its object."""
        try:
            self.set_mark(fd, path, mark, value)
        except OSError as e:
            if not object_is_full(fd, e):
                raise

    def restore_times(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        """Sets the real times again after that change, and removes the mark."""
        self.set_times(fd, path, atime_ns, mtime_ns)
        self.remove_mark(fd, path, TIMES)

    def set_times(self, fd: int, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        target = self._name_of(fd, path)
        os.utime(target, ns=(atime_ns, mtime_ns), follow_symlinks=not path)
