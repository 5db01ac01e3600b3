"""Law: the kernel's numbers of nodes and ours; nothing else of either side."""

from __future__ import annotations

from fusemount import _native


class Numbers:
    """What the kernel calls a node, while it knows it: st_ino where pyfuse3 is alone."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._nodes: dict[int, int] = {}  # of those whose st_ino is not their nodeid

    def of(self, attr: _native.Attr) -> int:
        return attr.inode if self._alone else attr.ino

    def remember(self, attr: _native.Attr) -> None:
        """The kernel hears of it."""
        if self.of(attr) != attr.ino:
            self._nodes[attr.inode] = attr.ino

    def node(self, number: int) -> int:
        return self._nodes.get(number, number)

    def forget(self, number: int) -> None:
        self._nodes.pop(number, None)
