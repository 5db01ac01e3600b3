"""Law: translates between the kernel's numbers of nodes and ours."""

from __future__ import annotations

from fusemount import _native


class Numbers:
    """The number that the kernel uses for a node: its nodeid, or its st_ino if pyfuse3 is the only
    door (operations.py has the reason)."""

    def __init__(self, *, only_door: bool) -> None:
        self._only_door = only_door
        self._nodes: dict[int, int] = {}  # by st_ino, of nodes whose st_ino is not their nodeid

    def of(self, attr: _native.Attr) -> int:
        return attr.inode if self._only_door else attr.ino

    def remember(self, attr: _native.Attr) -> None:
        """Keeps the number of a node that the kernel is given."""
        if self.of(attr) != attr.ino:
            self._nodes[attr.inode] = attr.ino

    def node(self, number: int) -> int:
        return self._nodes.get(number, number)

    def forget(self, number: int) -> None:
        self._nodes.pop(number, None)
