"""Law: the one table of the compressions that are read here: name, first bytes, names in media
types and in file names.  No I/O; codec.py packs and unpacks.

    name    magic          a layer of OCI     file names
    none    anything else  …tar               .tar
    gzip    1f 8b          …tar+gzip          .tar.gz .tgz
    zstd    28 b5 2f fd    …tar+zstd          .tar.zst
    xz      fd 37 7a ..    no media type      .tar.xz
    bzip2   42 5a 68       no media type      .tar.bz2

A zstd stream may also begin with a skippable frame (5? 2a 4d 18), as pzstd and eStargz write it
(RFC 8878, 3.1.2).  Media types: OCI image-spec, layer.md.
"""

from __future__ import annotations

import enum

MAGIC_BYTES = 6  # how much of a stream's start detect() needs
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_XZ_MAGIC, _BZIP2_MAGIC = b"\xfd7zXZ\0", b"BZh"


class Compression(enum.Enum):
    """The value is the name that users write (`--compress`) and messages contain."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"

    @property
    def media_suffix(self) -> str | None:
        """What follows `tar` in the media type of an OCI layer; None where OCI has no media type
        for such layers."""
        return _MEDIA_SUFFIX.get(self)

    @property
    def in_place(self) -> bool:
        """Whether a tar can be read at any place in its compressed bytes."""
        return self in (Compression.GZIP, Compression.ZSTD)


_MEDIA_SUFFIX = {Compression.NONE: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}
_FILE_SUFFIXES = {
    Compression.NONE: (".tar",),
    Compression.GZIP: (".tar.gz", ".tgz"),
    Compression.ZSTD: (".tar.zst",),
    Compression.XZ: (".tar.xz",),
    Compression.BZIP2: (".tar.bz2",),
}
TAR_SUFFIXES = tuple(suffix for suffixes in _FILE_SUFFIXES.values() for suffix in suffixes)


def is_skippable(magic: bytes) -> bool:
    """Whether these 4 bytes begin a skippable frame of zstd (or of lz4, which has the same)."""
    return magic[1:4] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F


def detect(head: bytes) -> Compression:
    """The compression of a stream that starts with head, which has MAGIC_BYTES or more, or fewer
    if the stream ends there."""
    if head.startswith(GZIP_MAGIC):
        return Compression.GZIP
    if head.startswith(ZSTD_MAGIC) or is_skippable(head):
        return Compression.ZSTD
    if head.startswith(_XZ_MAGIC):
        return Compression.XZ
    if head.startswith(_BZIP2_MAGIC) and head[3:4] in b"123456789":
        return Compression.BZIP2
    return Compression.NONE
