"""Law: makes the tar of a layer that another program unpacked again, byte by byte.

docker and containers/storage unpack a layer and keep the rest of its tar, headers and padding, in
another file (github.com/vbatts/tar-split, tar/storage/entry.go).  It is gzipped JSON, one object
after another:

    {"type": 2, "payload": BASE64}                 a segment: bytes of the tar
    {"type": 1, "name": ..., "size": N, ...}       a file, whose N bytes are in the directory
    {"type": 1, "name_raw": BASE64, "size": N}     a file whose name is not UTF-8

The caller must compare the tar's digest with the diff_id: the files may have been changed.
"""

from __future__ import annotations

import base64
import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from fusemount.beneath import open_below, open_beneath, to_read
from fusemount.codec import PIECE
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, translated
from fusemount.image.fields import Fields, object_of, parse_json, shown

LINE_BYTES_MAX = 64 << 20  # one segment: a header with its xattrs and padding
SPLIT_BYTES_MAX = 32 << 30  # all lines: some 1.5 KB a file, of 20 million files
_FILE, _SEGMENT = 1, 2


@dataclass(frozen=True)
class UnpackedLayer:
    """diff_id: as the config claims.  size: as its store counts, of the tar or of its files.

    tree: the directory with its files.  split: the rest of its tar; may be missing.
    root: the directory of its store, whose owner wrote all below it: no symlink below is followed.
    """

    diff_id: Digest
    size: int
    tree: Path
    split: Path
    description: str
    root: Path = Path("/")

    def tar(self) -> Iterator[bytes]:
        """The tar in pieces. Raises MalformedImage, ImgmountError; ImageNotFound if there is no
        split."""
        try:
            with open(to_read(open_below(self.root, self.split, os.O_PATH)), "rb") as packed:
                with gzip.open(packed) as lines:
                    yield from self._pieces(lines)
        except FileNotFoundError as error:
            raise ImageNotFound(
                f"{self.description}: its store keeps nothing to make its tar of ({self.split})"
            ) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise MalformedImage(f"{self.split}: {error}") from error
        except OSError as error:
            raise ImgmountError(f"{self.split}: {error.strerror or error}") from error

    def _pieces(self, lines: gzip.GzipFile) -> Iterator[bytes]:
        tree = open_below(self.root, self.tree, os.O_PATH | os.O_DIRECTORY)
        try:
            while line := lines.readline(LINE_BYTES_MAX):
                if lines.tell() > SPLIT_BYTES_MAX:
                    raise MalformedImage(f"{self.split}: more than {SPLIT_BYTES_MAX} bytes of JSON")
                entry = object_of(
                    parse_json(line, str(self.split), LINE_BYTES_MAX), str(self.split)
                )
                if entry.count("type") == _SEGMENT:
                    yield _bytes(entry, "payload")
                elif entry.count("type") != _FILE:
                    raise entry.bad("type", "neither a file nor a segment")
                elif entry.count("size"):
                    name = _bytes(entry, "name_raw") or entry.text("name").encode(
                        "utf-8", "surrogateescape"
                    )
                    if b"\0" in name:
                        raise entry.bad("name", "holds a NUL byte")
                    yield from self._contents(tree, name, entry.count("size"))
        finally:
            os.close(tree)

    def _contents(self, tree: int, name: bytes, size: int) -> Iterator[bytes]:
        inside = os.path.normpath(b"/" + name).lstrip(b"/")
        where = f"{self.tree}/{shown(os.fsdecode(inside))}"
        with translated(where, MalformedImage):
            found = open_beneath(tree, inside, os.O_PATH)
        try:
            fd = to_read(found)
        except OSError:
            why = f"no longer the file of {size} bytes that it was"
            raise MalformedImage(f"{where}: {why}") from None
        try:
            while size:
                piece = os.read(fd, min(size, PIECE))
                if not piece:
                    raise MalformedImage(f"{where}: {size} bytes shorter than in its layer")
                size -= len(piece)
                yield piece
        finally:
            os.close(fd)


def _bytes(entry: Fields, key: str) -> bytes:
    try:
        return base64.b64decode(entry.text(key), validate=True)
    except ValueError as error:  # also for text that is not ASCII; binascii.Error is a ValueError
        raise entry.bad(key, str(error)) from error
