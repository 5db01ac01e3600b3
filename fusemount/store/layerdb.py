"""Law: Docker's view of the layers (layer/filestore.go): one directory a chain ID.

    diff      the layer's diff_id
    parent    the chain ID below it; not there for a lowest layer
    size      bytes of the layer's tar, in decimal
    cache-id  the digest, without `sha256:`, of the blob that the layer is read from

A directory is made beside its place and renamed, the lowest first; it goes the highest first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from fusemount.digest import Digest, chain_ids
from fusemount.store.layout import Layout, replace_file, sync_directory, translated
from fusemount.store.summary import LayerRow

TMP = ".tmp-"


def _remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    from shutil import rmtree  # which takes 5 ms to import, and listing needs none of it

    rmtree(path, ignore_errors=ignore_errors)


def put_chain(layout: Layout, layers: Sequence[LayerRow]) -> None:
    """Raises NoSpace, ImgmountError."""
    chain = chain_ids([layer.diff_id for layer in layers])
    with translated(layout.layerdb):
        new = False
        for i, (ident, layer) in enumerate(zip(chain, layers, strict=True)):
            if not (layout.layerdb / ident.hex).exists():
                _put(layout.layerdb, ident, chain[i - 1] if i else None, layer)
                new = True
        if new:
            sync_directory(layout.layerdb)


def _put(layerdb: Path, ident: Digest, parent: Digest | None, layer: LayerRow) -> None:
    temporary = layerdb / f"{TMP}{ident.hex}.{os.getpid()}"
    _remove_tree(temporary, ignore_errors=True)
    temporary.mkdir()
    replace_file(temporary / "diff", layer.diff_id.encode())
    if parent is not None:
        replace_file(temporary / "parent", parent.encode())
    replace_file(temporary / "size", b"%d" % layer.archive_size)
    replace_file(temporary / "cache-id", layer.digest.hex.encode())
    try:
        os.rename(temporary, layerdb / ident.hex)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was quicker
            raise
        _remove_tree(temporary)


def chains(layout: Layout) -> list[Digest]:
    """All that are there, in no order."""
    with translated(layout.layerdb):
        names = os.listdir(layout.layerdb)
    return [Digest(f"sha256:{name}") for name in names if len(name) == 64]


def take_away(layout: Layout, gone: Iterable[Digest]) -> None:
    """The caller gives the highest first."""
    with translated(layout.layerdb):
        for ident in gone:
            path = layout.layerdb / ident.hex
            if not path.exists():
                continue
            temporary = layout.layerdb / f"{TMP}{ident.hex}.{os.getpid()}"
            os.rename(path, temporary)
            _remove_tree(temporary)


def sweep(layout: Layout) -> None:
    """What a process that died was at.  Under the exclusive lock."""
    with translated(layout.layerdb):
        for name in os.listdir(layout.layerdb):
            if name.startswith(TMP):
                _remove_tree(layout.layerdb / name)


def read_text(layout: Layout, ident: Digest, name: str) -> str | None:
    """A file of an entry, None: not there."""
    try:
        return (layout.layerdb / ident.hex / name).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
