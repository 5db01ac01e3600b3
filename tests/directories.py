"""Directories as layers become a view, without a mount: for tests of rootfs/ and below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fusemount.layer import open_directories
from fusemount.rootfs import RootFs, UpperOptions, open_rootfs


@contextmanager
def view_of(
    layers: Sequence[Path],
    *,
    upper: Path | None = None,
    work: Path | None = None,
    userxattr: bool = False,
    options: UpperOptions | None = None,
) -> Iterator[RootFs]:
    """The view over these layers, bottom first; read-only without work."""
    with ExitStack() as stack:
        opened = open_directories(layers)
        for layer in opened:
            stack.callback(layer.close)
        view = open_rootfs(
            opened, upper=upper, work=work, read_only=work is None, keep_root=True,
            userxattr=userxattr, options=options,
        )  # fmt: skip
        stack.callback(view.close)
        yield view
        view.tree.check()
