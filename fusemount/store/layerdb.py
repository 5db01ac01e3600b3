"""Law: describes the layers of a store in files, as Docker does (layer/filestore.go): one directory
for each chain ID.

    diff      the layer's diff_id
    parent    the chain ID of the layers below it; the lowest layer has no such file
    size      bytes of the layer's tar, in decimal
    cache-id  the digest, without `sha256:`, of the blob that has the layer

A directory is made under a temporary name and renamed, the lowest layer first.  Directories are
removed highest first, so that each `parent` leads to a directory.  The caller has the exclusive
lock.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from fusemount.digest import Digest, chain_ids
from fusemount.ownfile import make_directory, make_file, read_file
from fusemount.store import diffids
from fusemount.store.layout import TMP, Layout, names_in, replace_file, store_errors, sync_directory
from fusemount.store.summary import LayerRow

FILES = ("diff", "parent", "size", "cache-id")


def _remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    from shutil import rmtree  # its import takes 5 ms, which `ls` need not spend

    rmtree(path, ignore_errors=ignore_errors)


def put_chain(layout: Layout, layers: Sequence[LayerRow]) -> None:
    """Makes the directories that are missing, and replaces those that say something else.

    layers: lowest first, with right diff_ids.  Raises NoSpace, ImgmountError.
    """
    chain = chain_ids([layer.diff_id for layer in layers])
    with store_errors(layout.layerdb):
        new = False
        for ident, parent, layer in zip(chain, (None, *chain), layers, strict=False):
            if not _is_right(layout, ident, parent, layer):
                remove_entries(layout, [ident])
                _put(layout.layerdb, ident, parent, layer)
                new = True
        if new:
            sync_directory(layout.layerdb)


def _is_right(layout: Layout, ident: Digest, parent: Digest | None, layer: LayerRow) -> bool:
    """Whether there is a directory that says this of the layer, and leads to a blob of it."""
    if not (layout.layerdb / ident.hex).exists():
        return False
    right = entry(layer, parent)
    if any(
        read_text(layout, ident, name) != right.get(name) for name in ("diff", "parent", "size")
    ):
        return False
    found = read_text(layout, ident, "cache-id")
    if found == layer.digest.hex:
        return True
    try:
        known = diffids.known(layout, Digest(f"sha256:{found}"))
    except ValueError:
        return False
    return known is not None and known.diff_id == layer.diff_id


def _put(layerdb: Path, ident: Digest, parent: Digest | None, layer: LayerRow) -> None:
    temporary = layerdb / f"{TMP}{ident.hex}.{os.getpid()}"
    _remove_tree(temporary, ignore_errors=True)
    make_directory(temporary, 0o755)
    for name, text in entry(layer, parent).items():
        _write(temporary / name, text)
    try:
        os.rename(temporary, layerdb / ident.hex)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was quicker
            raise
        _remove_tree(temporary)


def entry(layer: LayerRow, parent: Digest | None) -> dict[str, str]:
    """The files of a layer's directory: {name: text}."""
    files = {"diff": layer.diff_id, "size": str(layer.archive_size), "cache-id": layer.digest.hex}
    return files if parent is None else files | {"parent": parent}


def _write(path: Path, text: str) -> None:
    """A file in a directory that still has its temporary name."""
    fd = make_file(path, 0o644)
    try:
        data = text.encode()
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def repoint(layout: Layout, rows: Mapping[Digest, LayerRow], going: Container[str]) -> None:
    """Replaces cache-ids that lead to blobs that are about to be deleted.

    rows: a layer with another blob for each chain ID that stays.  going: hex digits of the blobs.
    """
    with store_errors(layout.layerdb):
        for ident, row in rows.items():
            recorded = read_text(layout, ident, "cache-id")
            if recorded is not None and recorded in going:
                replace_file(layout.layerdb / ident.hex / "cache-id", row.digest.hex.encode())


def chains(layout: Layout) -> list[Digest]:
    """All chain IDs that have a directory, in no order."""
    with store_errors(layout.layerdb):
        names = names_in(layout.layerdb)
    return [Digest(f"sha256:{name}") for name in names if len(name) == 64]


def remove_entries(layout: Layout, gone: Iterable[Digest]) -> None:
    """Removes the directories of these chain IDs, which the caller gives highest first."""
    with store_errors(layout.layerdb):
        for ident in gone:
            path = layout.layerdb / ident.hex
            if not path.exists():
                continue
            temporary = layout.layerdb / f"{TMP}{ident.hex}.{os.getpid()}"
            os.rename(path, temporary)
            _remove_tree(temporary)


def sweep(layout: Layout) -> None:
    """Removes what a killed process left under temporary names.  Under the exclusive lock."""
    with store_errors(layout.layerdb):
        for name in names_in(layout.layerdb):
            if name.startswith(TMP):
                _remove_tree(layout.layerdb / name)


def read_text(layout: Layout, ident: Digest, name: str) -> str | None:
    """A file of a layer's directory; None if it is missing or no ASCII."""
    try:
        return read_file(layout.layerdb / ident.hex / name).decode("ascii").strip()
    except (OSError, ValueError):
        return None
