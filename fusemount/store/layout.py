"""Law: gives the path of each file of a store, and writes files so that a crash harms no image.

    ROOT/
      oci-layout  index.json  blobs/sha256/<hex>      an OCI image layout (image-layout.md)
      repositories.json                               names, in Docker's format; derived
      layerdb/sha256/<chain ID hex>/                  a layer with all layers below it, in files:
          diff parent size cache-id                       diff_id, chain ID below, bytes of the tar,
                                                          and the blob that has the layer
      distribution/diffid-by-digest/sha256/<hex>      the diff_id of a blob
      distribution/v2metadata-by-diffid/sha256/<hex>  registries that have blobs of a diff_id
      distribution/children-by-index/sha256/<hex>     manifests that came with an index
      cache/{index,layers,facts}/                     can be made again (layer/cache.py)
      cache/summaries.json                            what `ls` shows of each manifest; derived
      ingest/<hex>.part                               blobs that are not complete yet
      leases/<pid>-<random>                           blobs that living processes rely on (locks.py)
      lock                                            see locks.py

index.json and the blobs are the truth.  A derived file is made again when it is missing or wrong.

Crash rules.  They hold wherever a process ends, between any two system calls:

    S1  A blob gets its digest as its name by one rename, when its bytes are complete, have that
        digest and are synced.
    S2  The store has an image once index.json lists its manifest.  index.json is replaced by one
        rename, after everything that the manifest leads to is in the store and synced.  The map of
        diff_ids, the children of indexes and layerdb are written before it.
    S3  A removal goes the other way round: index.json is replaced first.  No name leads to the
        files that a crash then leaves, and `prune` deletes them.
    S4  A derived file is replaced by one rename too.  It contains the digest of the index.json that
        it was made from, if that matters.
    S5  A part in ingest/ belongs to the process that has its lock.  A part without a lock is
        continued by the next process that needs the blob, or deleted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, NotPermitted, translated
from fusemount.image.fields import DOCUMENT_BYTES_MAX
from fusemount.ownfile import file_size, is_file, make_file, open_file, open_or_make

OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_NO_IMAGES = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
)
TMP = ".tmp-"
_DIRECTORIES = (
    "blobs", "blobs/sha256", "layerdb", "layerdb/sha256", "distribution",
    "distribution/diffid-by-digest", "distribution/diffid-by-digest/sha256",
    "distribution/v2metadata-by-diffid", "distribution/v2metadata-by-diffid/sha256",
    "distribution/children-by-index", "distribution/children-by-index/sha256",
    "ingest", "leases",
)  # fmt: skip
_CACHE = "cache"
_OURS = {name.partition("/")[0] for name in _DIRECTORIES} | {
    _CACHE,
    "index.json", "repositories.json", "lock",
}  # fmt: skip
_BESIDE = {"mounts", "uppers"}  # the daemon may have made these before the store


class Layout:
    """The paths below one root. make() creates them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.json"
        self.repositories = root / "repositories.json"
        self.blobs = root / "blobs" / "sha256"
        self.layerdb = root / "layerdb" / "sha256"
        self.diff_ids = root / "distribution" / "diffid-by-digest" / "sha256"
        self.metadata = root / "distribution" / "v2metadata-by-diffid" / "sha256"
        self.indexes = root / "distribution" / "children-by-index" / "sha256"
        self.cache = root / "cache"
        self.summaries = self.cache / "summaries.json"
        self.ingest = root / "ingest"
        self.leases = root / "leases"
        self.lock = root / "lock"

    @property
    def exists(self) -> bool:
        return is_file(self.root / "oci-layout")

    def check_owner(self) -> None:
        """Raises NotPermitted if another user could have put a file into the store.

        Such a file would decide what we remove, write and show.  When the root and these
        directories belong to the caller, only the caller and root have put files below them.
        """
        for name in ("", *_DIRECTORIES, _CACHE):
            try:
                os.close(own_directory(self.root / name, make=False))
            except OSError:
                pass  # it is missing, or it is root's and cannot be read
            except NotPermitted as error:
                advice = f"; oci:{self.root} reads it as a layout of somebody else's"
                raise NotPermitted(f"{error}{advice if self.exists else ''}") from None

    def make(self) -> None:
        """Raises NoSpace; ImgmountError, also if the root has other files in it.

        oci-layout is written last.  So each store with an oci-layout once had an index.json, and if
        index.json is missing, the store is damaged, not empty.
        """
        with store_errors(self.root):
            if not self.exists:
                self._check_free()
            os.close(own_directory(self.root, mode=0o700))
            os.close(own_directory(self.root / _CACHE, mode=0o700))
            for name in _DIRECTORIES:
                os.close(own_directory(self.root / name, mode=0o755))
            if self.exists:
                return
            with flocked(self.lock, exclusive=True):
                if not self.index.exists():
                    replace_file(self.index, _NO_IMAGES)
                replace_file(self.root / "oci-layout", OCI_LAYOUT)

    def _check_free(self) -> None:
        """Raises ImgmountError unless the root is empty, a store, or left by a killed make().

        Another process may finish its make() between any two calls here.  oci-layout is written
        before any file that only a store has, and is never removed.  So it is looked for after the
        other names were listed.
        """
        found = self._in_the_way()
        if found and not self.exists:
            raise ImgmountError(f"{self.root}: {found}")

    def _in_the_way(self) -> str:
        names = sorted(name for name in names_in(self.root) if not name.startswith(TMP))
        strange = [name for name in names if name not in _OURS | _BESIDE]
        if strange:
            return f"neither empty nor a store: there is {strange[0]} in it"
        return "there are blobs in it, but no oci-layout" if names_in(self.blobs) else ""

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.hex

    def has_blob(self, digest: Digest) -> bool:
        return is_file(self.blob(digest))

    def open_blob(self, digest: Digest) -> int:
        """A descriptor to read from.  Raises OSError."""
        return open_file(self.blob(digest))

    def blob_size(self, digest: Digest) -> int:
        """Raises OSError."""
        return file_size(self.blob(digest))

    def document(self, digest: Digest) -> bytes:
        """A manifest, index or config.

        The size is limited, because a wrong reference may lead to a layer's blob of any size.
        Raises OSError, MalformedImage.
        """
        with open(self.open_blob(digest), "rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
        if len(data) > DOCUMENT_BYTES_MAX:
            raise MalformedImage(
                f"blob {digest}: a document of more than {DOCUMENT_BYTES_MAX} bytes, the limit"
            )
        return data

    def part(self, digest: Digest) -> Path:
        return self.ingest / f"{digest.hex}.part"

    def diff_id(self, digest: Digest) -> Path:
        return self.diff_ids / digest.hex

    def children(self, digest: Digest) -> Path:
        return self.indexes / digest.hex


def names_in(directory: Path) -> list[str]:
    """Sorted; [] if the directory is missing: layouts of other programs have only blobs/."""
    with suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Afterwards the file has all of data; after an error it is what it was (S4).  Raises OSError.

    durable: the new contents are on disk when the call returns.
    """
    temporary = path.with_name(f"{TMP}{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    fd = make_file(temporary, 0o644)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Names that were made in the directory are on disk afterwards.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def flocked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Waits for the lock.  Raises OSError.

    Only the owner may open the lock's file, because every user who can open a file can lock it.
    """
    fd = open_or_make(path, os.O_RDWR, 0o600)
    try:
        if os.fstat(fd).st_mode & 0o077:  # made by an older version
            os.fchmod(fd, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def store_errors(path: Path) -> AbstractContextManager[None]:
    """Raises OSErrors of the block as NoSpace or ImgmountError.  path: of the store, or in it."""
    return translated(path, full=f"the store at {path}", named=True)
