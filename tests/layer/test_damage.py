"""A kept file that has changed since is never used: it is made again, and the log says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from imagewriter import compress
from layersetting import DIFF_ID, TAR, Setting, blob, paths, tar_of
from tarwriter import TarWriter

from fusemount._native import LayerIndex
from fusemount.errors import MalformedImage
from fusemount.layer.cache import Cache
from fusemount.rootfs.open import build_tree


@pytest.mark.parametrize("codec", ["none", "gzip", "xz"])
def test_one_bit_of_anything_kept(
    tmp_path: Path, setting: Setting, caplog: pytest.LogCaptureFixture, codec: str
) -> None:
    made = blob(tmp_path / "f", compress(TAR, codec), diff_id=DIFF_ID)
    setting.open(made)
    kept = sorted(p for p in setting.cache.rglob("*") if p.is_file())
    assert len(kept) == (2 if codec == "none" else 4)
    for path in kept:
        size = path.stat().st_size
        for bit in range(0, size * 8, max(size // 3, 1)):
            data = bytearray(path.read_bytes())
            data[bit // 8] ^= 1 << bit % 8
            with open(path, "r+b") as file:
                file.write(data)
            os.utime(path, ns=(1, bit))  # two writes may have the same time
            caplog.clear()
            (layer,) = setting.open(made)
            assert layer.diff_id == DIFF_ID and tar_of(layer) == TAR
            assert paths(layer) == [b"d", b"d/f", b"g"]
            assert any(str(path.with_suffix("")) in line for line in caplog.messages)
            setting.opened.remove(layer)
            layer.close()
        caplog.clear()
        (layer,) = setting.open(made)
        assert not caplog.messages, "it was made again once, and is whole"


def keep_another(setting: Setting, tar: bytes, tmp_path: Path) -> None:
    """Keeps a correct index of another tar under the name for DIFF_ID."""
    (tmp_path / "other").write_bytes(tar)
    fd = os.open(tmp_path / "other", os.O_RDONLY)
    cache = Cache(setting.cache)
    cache.keep_index(cache.index_path(DIFF_ID, ""), LayerIndex.scan(fd, 0, len(tar)))
    os.close(fd)


def test_an_index_that_no_tree_can_be_made_of(
    tmp_path: Path, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    made = blob(tmp_path / "f", TAR, diff_id=DIFF_ID)
    good = blob(tmp_path / "g", TarWriter().file("below", b"1").tar())
    setting.open(made)
    keep_another(setting, TarWriter().file("a/.wh..", b"").tar(), tmp_path)
    tree = build_tree(setting.open(good, made))
    assert tree.lookup(1, b"below") and tree.lookup(1, b"d") and not tree.lookup(1, b"a")
    assert any("no tree can be made of it" in line for line in caplog.messages)
    caplog.clear()
    build_tree(setting.open(good, made))
    assert not caplog.messages, "the index that was kept then is the right one"


def test_a_layer_that_no_tree_can_be_made_of(tmp_path: Path, setting: Setting) -> None:
    """The error is the same for a new index and for a kept one."""
    made = blob(tmp_path / "f", TarWriter().file("a/.wh..", b"").tar())
    for _ in range(2):
        with pytest.raises(MalformedImage, match=r"^i\.tar: layer: member 'a/\.wh\.\.'"):
            build_tree(setting.open(made))
