"""A kept file is bound to its name: under another name it is made again, and refuses no image."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagewriter import compress, docker_archive, sha256
from layersetting import Setting, blob, paths
from tarwriter import TarWriter

from fusemount.digest import Digest
from fusemount.errors import MalformedImage, VerificationFailed
from fusemount.layer import LayerBlob, SilentProgress
from fusemount.layer.cache import Cache, Facts
from fusemount.layer.filestate import identity
from fusemount.reference import Reference
from fusemount.settings import ImageOptions
from fusemount.sources import open_image

TARS = [TarWriter().file(name, b"contents").tar() for name in ("a", "b")]


def two(path: Path, codec: str = "none") -> list[LayerBlob]:
    made = []
    for name, tar in zip("ab", TARS, strict=True):
        packed = compress(tar, codec)
        claims = {"diff_id": Digest("sha256:" + sha256(tar)), "digest": None}
        made.append(blob(path / name, packed, **claims))
    return made


def swap(one: Path, other: Path) -> None:
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])


@pytest.mark.parametrize("codec", ["none", "gzip", "xz"])
def test_two_of_a_kind_change_names(
    tmp_path: Path, setting: Setting, caplog: pytest.LogCaptureFixture, codec: str
) -> None:
    blobs = two(tmp_path, codec)
    setting.open(*blobs)
    kinds = ["index/*", "facts/*"]
    if codec == "gzip":
        kinds += ["points/*", "chunks/*.sums"]
    elif codec == "xz":
        kinds += ["layers/*.json", "layers/*.tar"]
    for kind in kinds:
        one, other = sorted(setting.cache.glob(kind))
        swap(one, other)
        caplog.clear()
        assert [paths(layer) for layer in setting.open(*blobs)] == [[b"a"], [b"b"]]
        told = "\n".join(caplog.messages)
        assert str(one.with_suffix("")) in told and str(other.with_suffix("")) in told
        caplog.clear()
        setting.open(*blobs)
        assert not caplog.messages, "both were made again once"


def test_one_name_of_two_kinds(tmp_path: Path, setting: Setting) -> None:
    """The kind of an archive and the facts of a blob may be kept under the same identity."""
    (made,) = two(tmp_path)[:1]
    setting.open(made)
    cache = Cache(setting.cache)
    key = identity(made.fd, made.offset, made.size)
    made.file.close()
    facts = cache.facts(key)
    assert facts is not None
    cache.keep_kind(key, "tar")
    (setting.cache / "facts" / f"{key}.kind").replace(cache.facts_path(key))
    assert cache.facts(key) is None


def test_kept_facts_refuse_no_image(
    tmp_path: Path, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the bytes refuse an image. Facts that are complete and wrong are made again."""
    made, other = two(tmp_path)
    setting.open(made)
    key = identity(made.fd, made.offset, made.size)
    made.file.close()
    wrong = str(other.diff_id)
    Cache(setting.cache).keep_facts(key, Facts(wrong, wrong, made.size))
    (layer,) = setting.open(made)
    assert layer.diff_id == made.diff_id
    assert any(key in line and "it is made again" in line for line in caplog.messages)
    liar = LayerBlob(other.diff_id, None, "", made.file, made.offset, made.size, "liar")
    for _ in range(2):
        with pytest.raises(VerificationFailed, match="liar: diff_id is"):
            setting.open(liar)
        with pytest.raises(VerificationFailed, match="liar: diff_id is"):
            setting.open(made, liar)
        made.file.close()


def test_an_archive_under_a_plain_tars_name(tmp_path: Path, setting: Setting) -> None:
    archive = docker_archive(tmp_path / "i.tar", TARS)
    (tmp_path / "r.tar").write_bytes(TARS[0])

    def layers(path: Path) -> int:
        options = ImageOptions()
        reference = Reference(None, path, None)
        with open_image(reference, options, setting.directories, SilentProgress()) as image:
            return len(image.layers)

    assert layers(tmp_path / "r.tar") == 1
    (kept,) = setting.cache.glob("facts/*.kind")
    with open(archive, "rb") as file:
        key = identity(file.fileno(), 0, archive.stat().st_size)
    kept.with_stem(key).write_bytes(kept.read_bytes())
    assert layers(archive) == 2


def test_the_memory_of_all_layers_indexes(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = two(tmp_path)
    most = sum(layer.index.nbytes for layer in setting.open(*blobs))
    monkeypatch.setattr("fusemount.layer.opening.INDEX_BYTES_MAX", most)
    setting.open(*blobs, blobs[0])  # a layer that is there twice takes its memory once
    monkeypatch.setattr("fusemount.layer.opening.INDEX_BYTES_MAX", most - 1)
    with pytest.raises(MalformedImage, match=f"take more than {most - 1} bytes of memory"):
        setting.open(*blobs)
    for made in blobs:
        made.file.close()
