"""Law: remembers the diff_id of a blob and the size of its tar, which cost a pass over the blob.

ROOT/distribution/diffid-by-digest has a file for each blob:

    sha256/<hex of the blob>    {"version":1,"sha256":...}      (record.py)
                                {"diff_id": "sha256:...", "size": N}

A blob without such a file, or with a damaged one, is measured again when the values are needed.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from fusemount.digest import Digest
from fusemount.record import read_sealed, sealed
from fusemount.store.layout import Layout, replace_file, store_errors
from fusemount.store.locks import locked

_VERSION = 1


class Known(NamedTuple):
    """What is remembered of a blob.  size: bytes of the tar."""

    diff_id: Digest
    size: int


def _key(digest: Digest) -> str:
    return f"diff_id of {digest}"


def known(layout: Layout, digest: Digest) -> Known | None:
    """None if there is no file for this blob, or a damaged one."""
    data = read_sealed(layout.diff_id(digest), _VERSION, _key(digest))
    if data is None:
        return None
    document = json.loads(data)
    return Known(Digest(document["diff_id"]), int(document["size"]))


def remember(layout: Layout, digest: Digest, diff_id: Digest, size: int) -> None:
    """Raises NoSpace, ImgmountError."""
    path, now = layout.diff_id(digest), Known(diff_id, size)
    data = sealed(json.dumps(now._asdict()).encode(), _VERSION, _key(digest))
    with locked(layout, exclusive=False), store_errors(path):
        if known(layout, digest) != now:
            replace_file(path, data)
