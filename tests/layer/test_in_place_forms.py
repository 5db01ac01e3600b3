"""Law: a compressed layer is read in place, whatever wrote it: its bytes are those of the plain tar
at every offset, and the second opening decompresses nothing."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import packedforms
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagewriter import sha256
from layersetting import Setting, blob
from packedforms import FORMS, with_header

from fusemount._native import CHUNK
from fusemount.budget import Budget
from fusemount.codec import decompress
from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.layer import OpenLayer, chunkcache

# What is kept beside a blob, in 1/1000 of it: points, sums, and the sidecar of large frames.
_POINTS_MAX = {"gzip": 17, "zstd": 2}
_SIDECARS = {
    "zstd -1", "zstd -3", "zstd -19", "zstd --long=27", "pzstd", "zstd, skippable first",
    "zstd, checksum",
    "zstd, frames of 4 MiB and 1", "zstd, large between small",
}  # fmt: skip


def check_reads(layer: OpenLayer, tar: bytes, directory: Path) -> None:
    """Reads at random, with chunks that are kept and chunks that are not."""
    packed = layer.packed
    assert packed is not None

    @settings(
        max_examples=40, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        st.lists(st.tuples(st.integers(0, len(tar)), st.integers(0, 3 * CHUNK)), max_size=3),
        st.integers(0, 9).map(lambda n: n == 0),
    )
    def property_(reads: list[tuple[int, int]], forget: bool) -> None:
        if forget:
            chunkcache.evict(directory, 0)
        for offset, size in reads:
            size = min(size, len(tar) - offset)
            assert packed.read(offset, size) == tar[offset : offset + size]

    property_()


def kept(setting: Setting, *patterns: str) -> int:
    return sum(p.stat().st_size for pattern in patterns for p in setting.cache.glob(pattern))


@pytest.mark.parametrize("form", FORMS)
def test_every_form(tmp_path: Path, setting: Setting, form: str) -> None:
    tar = packedforms.tar()
    data = FORMS[form](tar)
    made = blob(
        tmp_path / "f", data, diff_id=Digest("sha256:" + sha256(tar)), digest=Digest.of(data)
    )
    (first,) = setting.open(made)
    assert first.packed is not None
    assert b"".join(first.tar.pieces()) == tar

    chunkcache.evict(setting.cache / "chunks", 0)
    (second,) = setting.open(made)
    assert len(setting.passes) == 1 and setting.advanced == len(data)
    check_reads(second, tar, setting.cache / "chunks")
    assert b"".join(second.tar.pieces()) == tar
    assert second.packed is not None and second.packed.counts()["wrong"] == 0

    codec = "zstd" if form.startswith(("zstd", "pzstd")) else "gzip"
    assert kept(setting, "points/*.pts", "chunks/*.sums") * 1000 <= len(data) * _POINTS_MAX[codec]
    assert (kept(setting, "points/*.zst") > 0) == (form in _SIDECARS)
    assert not setting.kept("layers")


def test_processes_share_what_one_of_them_decompressed(tmp_path: Path, setting: Setting) -> None:
    """Here two openings stand for two processes: they share nothing but the files."""
    tar = packedforms.tar()
    made = blob(tmp_path / "f", packedforms.gzip(tar, 1))
    first, second = (layer for _ in range(2) for layer in setting.open(made))
    assert first.packed is not None and second.packed is not None
    assert first.packed.read(0, len(tar)) == tar
    assert second.packed.read(0, len(tar)) == tar
    counts = second.packed.counts()
    assert counts["decoded"] == 0 and counts["loaded"] > 0


@pytest.mark.parametrize("size", [1, 7, 1 << 18])
def test_a_gzip_header_may_come_in_pieces(size: int) -> None:
    for fields in itertools.product([False, True], repeat=4):
        stream = io.BytesIO(with_header(b"contents", *fields) * 2)
        pieces = decompress(
            lambda n, stream=stream: stream.read(min(n, size)),  # type: ignore[misc]
            Compression.GZIP, "it", Budget(),
        )  # fmt: skip
        assert b"".join(pieces) == b"contents" * 2, fields
