"""Images in a store, what must be left of them, and a process that relies on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagewriter import oci_archive
from storing import clean, files, layer, load

from fusemount.digest import Digest
from fusemount.store import Store, StoredImage


def brought(store: Store, tmp_path: Path, tag: str, *texts: str, how: str = "none") -> StoredImage:
    tars = [layer(text) for text in texts]
    archive = oci_archive(tmp_path / "in.tar", tars, tags=[tag], compress=how)
    return load(store, archive)[0]


def assert_empty(store: Store) -> None:
    clean(store, images=0)
    left = set(files(store)) - {"oci-layout", "index.json", "repositories.json"}
    assert left <= {"cache/summaries.json"}
    assert not list(store.layout.layerdb.iterdir())


@contextmanager
def another_holds(store: Store, kind: str, digests: list[Digest]) -> Iterator[int]:
    """A process with a lease, alive until the block ends or the test kills it."""
    program = (
        "import sys; from pathlib import Path; from fusemount.store import Store\n"
        "store = Store(Path(sys.argv[1])); lease = store.lease(sys.argv[2], 'an image', '/mnt/x')\n"
        "lease.hold(sys.argv[3:]); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, store.root, kind, *digests],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.stdin.close()


# ---- names and layers ---------------------------------------------------------------------
