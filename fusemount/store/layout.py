"""Law: where everything of a store stands, and how it comes and goes so that a crash harms none.

    ROOT/
      oci-layout  index.json  blobs/sha256/<hex>      an OCI image layout (image-layout.md)
      repositories.json                               names as Docker keeps them; derived
      layerdb/sha256/<chain ID hex>/                  one directory a layer and what is below it:
          diff parent size cache-id                       diff_id, chain ID below, bytes of its tar,
                                                          and the blob it is read from
      distribution/diffid-by-digest/sha256/<hex>      a blob's diff_id
      distribution/v2metadata-by-diffid/sha256/<hex>  where blobs of a diff_id were seen
      cache/{index,layers,facts}/                     what can be made again (layer/cache.py)
      cache/summaries.json                            what `ls` shows of each manifest; derived
      ingest/<hex>.part                               blobs on their way in, or broken off
      leases/<pid>-<random>                           what living processes rely on (locks.py)
      lock                                            see locks.py

Truth is index.json and the blobs; what is derived is made again where it is missing or wrong.

Crash rules.  A process that ends between any two system calls leaves a store of which this holds:

    S1  A blob appears under its digest by one rename, when its bytes are complete, have that digest
        and are synced.
    S2  An image is there once index.json has its manifest: one rename, after all that the manifest
        leads to is there and synced.  The map of diff_ids and layerdb come before that.
    S3  What goes, goes the other way round: index.json first.  What a crash leaves behind then is
        led to by no name, and the next removal or `prune` takes it.
    S4  A derived file is replaced by one rename too, and says which index.json it was made from
        where that matters.
    S5  A part in ingest/ belongs to who holds its lock; without a lock it is resumed by the next
        who wants that blob, or swept.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, NotPermitted, of_os_error
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
    "ingest", "leases",
)  # fmt: skip
_CACHE = "cache"
_OURS = {name.partition("/")[0] for name in _DIRECTORIES} | {
    _CACHE,
    "index.json", "repositories.json", "lock",
}  # fmt: skip
_BESIDE = {"mounts", "uppers"}  # what the daemon may have there already


class Layout:
    """The places below one root. make() creates them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.json"
        self.repositories = root / "repositories.json"
        self.blobs = root / "blobs" / "sha256"
        self.layerdb = root / "layerdb" / "sha256"
        self.diff_ids = root / "distribution" / "diffid-by-digest" / "sha256"
        self.metadata = root / "distribution" / "v2metadata-by-diffid" / "sha256"
        self.cache = root / "cache"
        self.summaries = self.cache / "summaries.json"
        self.ingest = root / "ingest"
        self.leases = root / "leases"
        self.lock = root / "lock"

    @property
    def exists(self) -> bool:
        return is_file(self.root / "oci-layout")

    def check_ours(self) -> None:
        """Raises NotPermitted where another user could have put something into the store.

        It would guide what we remove, write and show.  With the root and these directories ours,
        whatever stands below them is what we, or root, have put there.
        """
        for name in ("", *_DIRECTORIES, _CACHE):
            try:
                os.close(own_directory(self.root / name, make=False))
            except OSError:
                pass  # not there, or root's, and nothing of it can be read
            except NotPermitted as error:
                advice = f"; oci:{self.root} reads it as a layout of somebody else's"
                raise NotPermitted(f"{error}{advice if self.exists else ''}") from None

    def make(self) -> None:
        """Raises NoSpace, ImgmountError: also where root is something else.

        oci-layout comes last: a store that is one has an index.json, and one that lost it is
        damaged, not empty.
        """
        with translated(self.root):
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
        """Nothing is there, what a make() that was killed left, or, by now, a store.

        Another process may finish its make() between any two calls here.  oci-layout comes before
        all that only a store has, and never goes: so it is looked for after what was found.
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
        """To read. Raises OSError."""
        return open_file(self.blob(digest))

    def blob_size(self, digest: Digest) -> int:
        """Raises OSError."""
        return file_size(self.blob(digest))

    def document(self, digest: Digest) -> bytes:
        """A manifest, index or config; who refers to one may mean a layer's blob of any size.

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


def names_in(directory: Path) -> list[str]:
    """Sorted; none where it is not there: a layout that others made has nothing but blobs."""
    with suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """path holds data, whole, or what it held before (S4).  Raises OSError."""
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
    """What was renamed into it lasts.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def flocked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Waits for the lock, which nobody but the owner can open, or they could have it.  Raises
    OSError."""
    fd = open_or_make(path, os.O_RDWR, 0o600)
    try:
        if os.fstat(fd).st_mode & 0o077:  # of an older version
            os.fchmod(fd, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """The one translator of the store's errors."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else path
        raise of_os_error(error, f"the store at {path}", str(named)) from error
