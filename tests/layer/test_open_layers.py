"""Law: a layer opens as its tar, verified in one pass; to open it again costs little."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from imagewriter import (
    ImageSpec,
    compress,
    docker_archive,
    oci_files,
    oci_layout,
    sha256,
    write_directory,
)
from layersetting import CODECS, DIFF_ID, TAR, Setting, blob, paths, tar_of
from tarwriter import TarWriter

import fusemount.layer.opening as opening
from fusemount._native import LayerIndex
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, VerificationFailed
from fusemount.layer import SilentProgress, descriptors, open_layers
from fusemount.layer.cache import Cache
from fusemount.reference import Reference
from fusemount.settings import ImageOptions, Platform
from fusemount.sources import open_image


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_t21_a_layer_opens_as_its_tar(
    tmp_path: Path, setting: Setting, codec: str, verify: bool
) -> None:
    data = compress(TAR, codec)
    made = blob(tmp_path / "f", data, diff_id=DIFF_ID, digest=Digest.of(data))
    for _ in range(2):
        (layer,) = setting.open(made, verify=verify)
        assert tar_of(layer) == TAR
        assert paths(layer) == [b"d", b"d/f", b"g"]
        assert layer.diff_id == DIFF_ID
    slow = 0 if codec == "none" and not verify else 1
    assert len(setting.passes) == slow and setting.advanced == len(data) * slow


@pytest.mark.parametrize("codec", CODECS)
def test_t23_a_second_open_reads_a_few_small_files(
    tmp_path: Path, setting: Setting, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = blob(tmp_path / "f", compress(TAR, codec))
    setting.open(made)

    def never(*_: object) -> None:
        raise AssertionError("hashed or scanned again")

    for name in ("hash_in_place", "scan_tar", "unpack", "read_compressed"):
        monkeypatch.setattr(opening, name, never)
    (layer,) = setting.open(made)
    assert layer.diff_id == DIFF_ID and tar_of(layer) == TAR


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_t23_wrong_claims_name_both_values_and_the_blob(
    tmp_path: Path, setting: Setting, codec: str
) -> None:
    data = compress(TAR, codec)
    wrong = Digest("sha256:" + "5" * 64)
    for claim, right in (("digest", Digest.of(data)), ("diff_id", DIFF_ID)):
        made = blob(tmp_path / claim, data, **{claim: wrong})
        for _ in range(2):
            with pytest.raises(VerificationFailed) as caught:
                setting.open(made)
            assert str(caught.value).startswith(f"i.tar: layer: {claim} is {right}")
            assert wrong in str(caught.value)
            made.file.close()


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_t23_an_unverified_open_vouches_for_nothing(
    tmp_path: Path, setting: Setting, codec: str
) -> None:
    evil = TarWriter().file("evil", b"1").tar()
    liar = blob(tmp_path / "liar", compress(evil, codec), diff_id=DIFF_ID)
    setting.open(liar, verify=False)
    with pytest.raises(VerificationFailed):
        setting.open(liar)
    liar.file.close()
    (layer,) = setting.open(blob(tmp_path / "good", compress(TAR, codec), diff_id=DIFF_ID))
    assert paths(layer) == [b"d", b"d/f", b"g"] and tar_of(layer) == TAR


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_t23_a_changed_file_is_hashed_again(tmp_path: Path, setting: Setting, codec: str) -> None:
    data = bytearray(compress(TAR, codec))
    made = blob(tmp_path / "f", bytes(data), digest=Digest.of(bytes(data)))
    setting.open(made)
    data[-1] ^= 1
    with open(tmp_path / "f", "r+b") as file:  # same inode, same size
        file.seek(700)
        file.write(data)
    with pytest.raises(ImgmountError):
        setting.open(made)
    made.file.close()


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_t23_what_is_damaged_in_the_cache_is_made_again(
    tmp_path: Path, setting: Setting, codec: str
) -> None:
    made = blob(tmp_path / "f", compress(TAR, codec), diff_id=DIFF_ID)
    setting.open(made)
    kept = [p for p in setting.cache.rglob("*") if p.is_file()]
    assert len(kept) == (2 if codec == "none" else 4)
    for path in kept:
        for damage in (b"", path.read_bytes()[:-7], b"\xff" * 200):
            path.write_bytes(damage)
            (layer,) = setting.open(made)
            assert layer.diff_id == DIFF_ID and tar_of(layer) == TAR
            assert paths(layer) == [b"d", b"d/f", b"g"]
        path.unlink()
        (layer,) = setting.open(made)
        assert tar_of(layer) == TAR


def test_m14_the_same_layer_twice_is_decoded_once(tmp_path: Path, setting: Setting) -> None:
    path = oci_layout(tmp_path / "d", [TAR, TAR, TAR], compress="gzip")
    options = ImageOptions(Platform("linux", "amd64"))
    reference = Reference("oci", path, None)
    with open_image(reference, options, setting.directories, SilentProgress()) as image:
        layers = setting.open(*image.layers)
    assert setting.passes == ["reading"]
    while layers:
        assert [tar_of(layer) for layer in layers] == [TAR] * len(layers)
        setting.opened.remove(layers[0])
        layers.pop(0).close()


def test_m14_layers_outlive_their_image(tmp_path: Path, setting: Setting) -> None:
    path = docker_archive(tmp_path / "i.tar", [TAR])
    options = ImageOptions(Platform("linux", "amd64"))
    reference = Reference(None, path, None)
    with open_image(reference, options, setting.directories, SilentProgress()) as image:
        setting.opened += open_layers(image, options, setting.directories, SilentProgress())
    assert tar_of(setting.opened[0]) == TAR


def test_m14_500_layers_under_a_limit_of_1024_descriptors(
    tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [TarWriter().file(f"f{i}", b"%d" % i).tar() for i in range(500)]
    path = oci_layout(tmp_path / "d", layers, compress="gzip")
    options = ImageOptions(Platform("linux", "amd64"))
    reference = Reference("oci", path, None)
    before = len(os.listdir("/proc/self/fd"))  # other tests of this process may keep some
    with open_image(reference, options, setting.directories, SilentProgress()) as image:
        setting.opened += open_layers(image, options, setting.directories, SilentProgress())
        most = len(os.listdir("/proc/self/fd")) - before
        # Only kept files are opened.
        for costly in ("unpack", "read_compressed", "scan_tar", "hash_in_place"):
            monkeypatch.setattr(f"fusemount.layer.opening.{costly}", None)
        again = open_layers(image, options, setting.directories, SilentProgress())
    for layer in again:
        layer.close()
    assert most < 600
    assert paths(setting.opened[499]) == [b"f499"]


def test_many_layers_raise_the_limit_of_descriptors() -> None:
    """And a program that is started in the image gets the one back that was found."""
    found = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, found[1]))
        descriptors.make_room(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        descriptors.make_room(40)
        descriptors.make_room(127)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (127 * 16, found[1])
        descriptors.make_room(1 << 40)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (found[1], found[1])
        descriptors.give_back()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
    finally:
        descriptors._found.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, found)


def test_t23_what_a_dead_writer_left_is_swept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (tmp_path / "layers").mkdir()
    dead, young = tmp_path / "layers/.tmp-1-a", tmp_path / "layers/.tmp-1-b"
    for path in (dead, young):
        path.write_bytes(b"x")
    os.utime(dead, (1, 1))
    with cache.temporary("layers") as (alive, _):
        os.utime(alive, (1, 1))  # old, but its writer has it locked
        with cache.temporary("layers"):
            assert alive.exists() and young.exists() and not dead.exists()


RACER = """
import sys
from pathlib import Path
from fusemount.layer import BlobFile, LayerBlob, SilentProgress, open_layers
from fusemount.settings import Directories, ImageOptions
path, cache = Path(sys.argv[1]), Path(sys.argv[2])
class Image:
    cache = budget = None
    layers = (LayerBlob(None, None, "", BlobFile(path), 0, path.stat().st_size, "x"),)
(layer,) = open_layers(Image(), ImageOptions(), Directories(cache, cache, cache), SilentProgress())
print(layer.diff_id, len(layer.index))
"""


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_t23_two_processes_on_one_cache(tmp_path: Path, codec: str) -> None:
    tar = TarWriter().file("big", os.urandom(8 << 20)).tar()
    (tmp_path / "blob").write_bytes(compress(tar, codec))
    command = [sys.executable, "-c", RACER, tmp_path / "blob", tmp_path / "cache"]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {racer.communicate(timeout=60)[0] for racer in racers}
    assert outputs == {f"sha256:{sha256(tar)} 1\n"}
    left = [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert len(left) == (2 if codec == "none" else 4)


def test_t22_kept_index_is_the_scanned_one(tmp_path: Path, setting: Setting) -> None:
    made = blob(tmp_path / "f", TAR)
    first, second = setting.open(made)[0], setting.open(made)[0]
    fresh = LayerIndex.scan(first.fd, first.offset, len(TAR))
    for layer in (first, second):
        assert list(map(str, members(layer.index))) == list(map(str, members(fresh)))


def members(index: LayerIndex) -> list[Any]:
    return [index.member(i) for i in range(len(index))]


def test_t23_a_blob_in_a_layout_that_was_changed(tmp_path: Path, setting: Setting) -> None:
    files = oci_files([ImageSpec([TAR])])
    name = next(n for n, data in files.items() if data == TAR)
    files[name] = TAR.replace(b"contents", b"CONTENTS")
    path = write_directory(tmp_path / "d", files)
    options = ImageOptions(Platform("linux", "amd64"))
    with open_image(Reference("oci", path, None), options, setting.directories, setting) as image:
        with pytest.raises(VerificationFailed, match="layer 1 of 1"):
            setting.open(*image.layers)
        (layer,) = setting.open(*image.layers, verify=False)
        assert b"CONTENTS" in tar_of(layer)
