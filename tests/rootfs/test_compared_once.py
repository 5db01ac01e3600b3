"""Comparing and hashing trees costs what their objects have, not what their names multiply."""

from __future__ import annotations

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.errors import MalformedImage
from fusemount.rootfs import RootFs
from fusemount.rootfs.treediff import Side, image_changes
from fusemount.rootfs.treetext import dump_lines
from fusemount.settings import UnpackLimit

SIZE, NAMES = 3 << 20, 50


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads."""
    sizes: list[int] = []
    whole = RootFs.read

    def counting(self: RootFs, ino: int, offset: int, size: int) -> bytes:
        sizes.append(size)
        return whole(self, ino, offset, size)

    monkeypatch.setattr(RootFs, "read", counting)
    return sizes


def linked(end: bytes) -> bytes:
    writer = TarWriter().file("f", bytes(SIZE - 1) + end)
    for i in range(NAMES):
        writer.hardlink(f"l{i}", "f")
    return writer.tar()


@pytest.mark.parametrize("end", [b"\0", b"x"])
def test_a_file_of_many_names_is_compared_once(read: list[int], end: bytes) -> None:
    with rootfs_of([linked(b"\0")]) as old, rootfs_of([linked(end)]) as new:
        changes = list(image_changes(Side(old), Side(new)))
    assert len(changes) == (0 if end == b"\0" else NAMES + 1)
    assert sum(read) == 2 * SIZE


def test_a_file_of_many_names_is_hashed_once(read: list[int]) -> None:
    with rootfs_of([linked(b"x")]) as view:
        digests = {line.split(b" ")[11] for line in dump_lines(view, digest=True)}
    assert len(digests) == 2  # one is the directory's "-"
    assert sum(read) == SIZE


def test_zeros_of_holes_are_compared_up_to_a_limit() -> None:
    """A file of many names may meet as many others, which are holes and have no bytes."""
    holes = TarWriter().sparse("f", SIZE, [], version="1.0")
    for i in range(NAMES):
        holes.sparse(f"l{i}", SIZE, [], version="1.0")
    with rootfs_of([linked(b"\0")]) as old, rootfs_of([holes.tar()]) as new:
        all_of_them = UnpackLimit(SIZE * (NAMES + 1))
        assert not list(image_changes(Side(old), Side(new), all_of_them))
        with pytest.raises(MalformedImage, match=r"whose holes are .* of zeros"):
            list(image_changes(Side(old), Side(new), UnpackLimit(SIZE * NAMES)))


def test_runs_of_data_that_overlap() -> None:
    def image(pieces: list[tuple[int, bytes]]) -> bytes:
        return TarWriter().sparse("f", SIZE, pieces, version="1.0").tar()

    data = image([(0, bytes(1024)), (4096, b"b" * 2048), (SIZE - 512, bytes(512))])
    same = image([(512, bytes(512)), (2048, bytes(2048) + b"b" * 2048)])
    other = image([(512, bytes(512)), (2048, bytes(2048) + b"b" * 2047 + b"c")])
    with rootfs_of([data]) as old, rootfs_of([same]) as new, rootfs_of([other]) as third:
        assert not list(image_changes(Side(old), Side(new)))
        assert list(image_changes(Side(old), Side(third))) == [("C", b"f")]
