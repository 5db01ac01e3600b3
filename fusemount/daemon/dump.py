"""Law: `imgmount dump` as one function: a view that is opened, read and closed, never mounted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.daemon.view import open_view
from fusemount.reference import Reference
from fusemount.settings import Directories, ImageOptions, MountOptions

if TYPE_CHECKING:
    from fusemount.layer import Progress


def dump_image(
    reference: Reference,
    image_options: ImageOptions,
    directories: Directories,
    progress: Progress,
    *,
    path: bytes = b"/",
    digest: bool = False,
    upper: str | None = None,
    follow_symlink_parents: bool = False,
) -> Iterator[bytes]:
    """The lines of rootfs.dump. Raises every error of an image, and the view's for path."""
    from fusemount.rootfs.dump import dump_lines

    options = MountOptions(
        read_only=True,
        upper=Path(upper).absolute() if upper else None,
        follow_symlink_parents=follow_symlink_parents,
    )
    with ExitStack() as stack:
        view = open_view(reference, image_options, options, directories, progress, stack)
        yield from dump_lines(view.rootfs, path, digest)
