"""Law: a user's xattr counts only in that user's mount, or if root asks for it (docs/security.md,
"Marks")."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusemount._native import (
    MARKS_NAMES,
    MARKS_OWNER,
    MARKS_TRUSTED,
    MARKS_UPPER,
    MARKS_USER,
    MARKS_USERXATTR,
)
from fusemount.beneath import by_root
from fusemount.errors import NotPermitted, UpperError
from fusemount.layer import open_directories
from fusemount.layer.marks import ANYBODYS, Origin, obeyed, origin_of_store
from fusemount.rootfs.upper import Upper
from fusemount.settings import UserMarks

T, U, OWN, N = MARKS_TRUSTED, MARKS_USER, MARKS_OWNER, MARKS_NAMES
UNASKED, ASKED = UserMarks(), UserMarks(overlay=True)
OWNERS, NO_OWNERS = UserMarks(owners=True), UserMarks(owners=False)
ROOTS, A_USERS = Origin(store=True, roots=True), Origin(store=True)


@pytest.mark.parametrize(
    ("found", "wish", "origin", "expected"),
    [
        (0, UNASKED, ANYBODYS, T | N),
        (T, UNASKED, ANYBODYS, T | N),
        (T | U, UNASKED, ANYBODYS, T | N),
        (T | U | MARKS_UPPER, UNASKED, ANYBODYS, T),
        (U, UNASKED, ROOTS, T | N),  # an image's own xattr
        (U, UNASKED, A_USERS, None),
        (U, UNASKED, ANYBODYS, None),
        (U, ASKED, ANYBODYS, U | OWN | N),
        (T | OWN, UNASKED, ANYBODYS, None),
        (OWN, OWNERS, ANYBODYS, T | OWN | N),
        (OWN, NO_OWNERS, ROOTS, T | N),
        (0, ASKED, ANYBODYS, U | OWN | N),
        (0, UserMarks(overlay=True, owners=False), ANYBODYS, U | N),
        (U | MARKS_USERXATTR, UNASKED, ANYBODYS, U | OWN | N),
        (T | U | MARKS_USERXATTR, UNASKED, ANYBODYS, T | N),
    ],
)
def test_what_root_obeys(found: int, wish: UserMarks, origin: Origin, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(NotPermitted, match="root does not obey unasked: --"):
            obeyed(found, wish, origin, root=True)
    else:
        assert obeyed(found, wish, origin, root=True) == expected


@pytest.mark.parametrize(
    ("found", "origin", "expected"),
    [
        (0, ANYBODYS, T | U | N),
        (0, ROOTS, T | N),
        (U, ANYBODYS, U | N),
        (U | OWN, ROOTS, U | OWN | N),
        (T | U, ANYBODYS, T | N),
        (OWN, ANYBODYS, U | OWN | N),
    ],
)
def test_what_a_user_obeys(found: int, origin: Origin, expected: int) -> None:
    assert obeyed(found, UNASKED, origin, root=False) == expected


def test_a_store_that_others_write_to_is_not_roots(tmp_path: Path) -> None:
    assert origin_of_store(tmp_path) == ROOTS
    for change in (lambda: os.chmod(tmp_path, 0o770), lambda: os.chown(tmp_path, 5, 0)):
        change()
        assert origin_of_store(tmp_path) == A_USERS


ATTACKS = {
    "user.containers.override_stat": b"0:0:04755",
    "user.fuseoverlayfs.override_stat": b"0:0:060666:block-8-0",
    "user.overlay.redirect": b"/secret",
    "user.overlay.metacopy": b"",
    "user.overlay.whiteout": b"y",
    "user.overlay.imgmount.special": b"char-1-1",
    "user.overlay.imgmount.held": b"4755 0 0 -",
}


def test_marks_of_a_users_in_a_layer_are_data(tmp_path: Path) -> None:
    """A layer of a user's store is refused, because without its marks it would show wrong."""
    assert by_root()
    for name, value in ATTACKS.items():
        (tmp_path / name).touch()
        os.chown(tmp_path / name, 65533, 65533)
        os.setxattr(tmp_path / name, name, value)
    (layer,) = open_directories([tmp_path])
    found = {(m := layer.index.member(i)).path: m for i in range(len(layer.index))}
    layer.close()
    for name, value in ATTACKS.items():
        member = found[name.encode()]
        assert (member.kind, member.uid, member.mode & 0o7777) == ("file", 65533, 0o644)
        assert member.xattrs == ((name.encode(), value),)
    with pytest.raises(NotPermitted, match=rf"^{tmp_path}: a user's store.*--userxattr"):
        open_directories([tmp_path], UNASKED, A_USERS)
    for layer in open_directories([tmp_path], ASKED, A_USERS):
        layer.close()


@pytest.mark.parametrize("name", ["user.overlay.imgmount", "user.containers.override_stat"])
def test_a_users_upper_is_refused_and_roots_word_is_remembered(tmp_path: Path, name: str) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    os.setxattr(upper, name, b"1:1:0755")
    for place in (None, work):
        with pytest.raises(UpperError, match=r"^/.*upper: .*root does not obey unasked"):
            Upper(upper, place)
    Upper(upper, work, userxattr=True).close()
    assert os.getxattr(upper, "trusted.overlay.imgmount.userxattr") == b"y"
    again = Upper(upper, work)
    assert again.prefix == b"user.overlay." and again.xattrs(again.fd, b".").keys() <= {
        name.encode()
    }
    again.close()
