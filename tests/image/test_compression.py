"""The table of compressions (compression.py)."""

from __future__ import annotations

import pytest

from fusemount.compression import MAGIC_BYTES, TAR_SUFFIXES, Compression, detect

SUFFIXES = {
    Compression.NONE: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd",
    Compression.XZ: None, Compression.BZIP2: None,
}  # fmt: skip


@pytest.mark.parametrize("compression", Compression)
def test_suffixes_of_media_types(compression: Compression) -> None:
    """OCI image-spec, layer.md, has no media type for xz and bzip2."""
    assert compression.media_suffix == SUFFIXES[compression]


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"\x1f\x8b\x08\0\0\0", Compression.GZIP),
        (b"\x28\xb5\x2f\xfd\0\0", Compression.ZSTD),
        (b"\x5a\x2a\x4d\x18\0\0", Compression.ZSTD),
        (b"\xfd7zXZ\0", Compression.XZ),
        (b"BZh91A", Compression.BZIP2),
        (b"BZh0AY", Compression.NONE),
        (b"\x6a\x2a\x4d\x18\0\0", Compression.NONE),
        (b"etc/\0\0", Compression.NONE),
        (b"", Compression.NONE),
    ],
)
def test_first_bytes(head: bytes, found: Compression) -> None:
    assert detect(head) is found
    assert len(head) <= MAGIC_BYTES


def test_names_of_files() -> None:
    assert {".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2"} == {*TAR_SUFFIXES}
