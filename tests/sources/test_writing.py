"""Writes images: each form is read back byte for byte the same; after an error nothing is left."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from imagewriter import docker_archive, oci_archive, oci_layout
from oracle import run
from tarwriter import TarWriter

from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, UsageError, VerificationFailed
from fusemount.layer import OpenLayer, SilentProgress, UnpackedLayer, open_layers
from fusemount.settings import Directories, ImageOptions, UnpackLimit
from fusemount.sources import Image
from fusemount.sources.writing import FORMS, ImageWriter, Target, WrittenLayer, parse_target

Opener = Callable[..., Image]

LAYERS = [
    TarWriter().dir("a").file("a/b", b"1" * 3000).tar(),
    TarWriter().file("c", b"2").tar(),
    TarWriter().whiteout("a/b").tar(),
]


@contextmanager
def layers_of(image: Image, tmp_path: Path) -> Iterator[list[OpenLayer]]:
    kept = Directories(tmp_path / "cache", tmp_path / "state", tmp_path / "run")
    layers = open_layers(image, ImageOptions(), kept, SilentProgress())
    try:
        yield layers
    finally:
        for layer in layers:
            layer.close()


def config(layers: Sequence[WrittenLayer], image: Image) -> bytes:
    document = {**image.config.document}
    document["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    return json.dumps(document).encode()


def copy(image: Image, target: Target, tmp_path: Path, name: str = "new:1") -> str:
    with layers_of(image, tmp_path) as opened, ImageWriter(target, SilentProgress()) as writer:
        pairs = zip(image.layers, opened, strict=True)
        layers = [writer.carry_layer(blob, layer) for blob, layer in pairs]
        return writer.finish(config(layers, image), image.platform, layers, name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compress", ["none", "gzip", "zstd", "xz"])
def test_a_copy_is_the_same_image(opened: Opener, tmp_path: Path, form: str, compress: str) -> None:
    image = opened(oci_archive(tmp_path / "in", LAYERS, compress=compress))
    ident = copy(image, Target(form, tmp_path / "out"), tmp_path)
    found = opened(f"{form}:{tmp_path}/out:new:1")
    assert found.image_id == ident and found.config.diff_ids == image.config.diff_ids
    assert found.platform == image.platform
    if form != "docker-archive" and compress != "xz":
        assert [x.digest for x in found.layers] == [x.digest for x in image.layers]
    with layers_of(found, tmp_path) as layers:
        for layer, tar in zip(layers, LAYERS, strict=True):
            assert os.pread(layer.fd, layer.size, layer.offset) == tar


@pytest.mark.parametrize("form", FORMS)
def test_the_same_layer_twice_stands_there_once(opened: Opener, tmp_path: Path, form: str) -> None:
    image = opened(docker_archive(tmp_path / "in", [LAYERS[0], LAYERS[1], LAYERS[0]]))
    copy(image, Target(form, tmp_path / "out"), tmp_path)
    found = opened(f"{form}:{tmp_path}/out")
    assert len(found.layers) == 3 and found.layers[0].offset == found.layers[2].offset
    if form != "oci":
        names = run("tar", "-tf", tmp_path / "out").stdout.split()
        assert len(names) == len(set(names))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_calls_give_the_same_bytes(opened: Opener, tmp_path: Path, form: str) -> None:
    image = opened(oci_archive(tmp_path / "in", LAYERS, compress="gzip"))
    trees = []
    for name in ("one", "two"):
        copy(image, Target(form, tmp_path / name), tmp_path)
        path = tmp_path / name
        files = path.rglob("*") if path.is_dir() else [path]
        trees.append({str(f.relative_to(path)): f.read_bytes() for f in files if f.is_file()})
    assert trees[0] == trees[1]


def test_a_copy_of_a_copy_is_the_same_file(opened: Opener, tmp_path: Path) -> None:
    for form in ("oci-archive", "docker-archive"):
        image = opened(docker_archive(tmp_path / f"in-{form}", LAYERS))
        copy(image, Target(form, tmp_path / f"one-{form}"), tmp_path)
        copy(opened(tmp_path / f"one-{form}"), Target(form, tmp_path / f"two-{form}"), tmp_path)
        one, two = ((tmp_path / f"{n}-{form}").read_bytes() for n in ("one", "two"))
        assert one == two


@pytest.mark.parametrize("form", FORMS)
def test_without_finish_nothing_is_there(opened: Opener, tmp_path: Path, form: str) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(RuntimeError):
        with ImageWriter(Target(form, there / "out"), SilentProgress()) as writer:
            writer.add_layer([LAYERS[0]], Compression.NONE)
            raise RuntimeError
    assert os.listdir(there) == []


def test_a_layout_that_was_there_is_left_as_it_was(opened: Opener, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "layout", LAYERS[:2])
    before = sorted(str(p) for p in layout.rglob("*")), (layout / "index.json").read_bytes()
    with ImageWriter(Target("oci", layout), SilentProgress()) as writer:
        writer.add_layer([LAYERS[0]], Compression.NONE)  # the layout has this blob
        writer.add_layer([LAYERS[2]], Compression.GZIP)
    assert (sorted(str(p) for p in layout.rglob("*")),
            (layout / "index.json").read_bytes()) == before  # fmt: skip


def test_a_blob_that_was_cut_off_is_made_whole(tmp_path: Path) -> None:
    blob = tmp_path / "out/blobs/sha256" / hashlib.sha256(LAYERS[0]).hexdigest()
    blob.parent.mkdir(parents=True)
    (tmp_path / "out/oci-layout").touch()
    blob.write_bytes(LAYERS[0][:100])
    with ImageWriter(Target("oci", tmp_path / "out"), SilentProgress()) as writer:
        writer.add_layer([LAYERS[0]], Compression.NONE)
    assert blob.read_bytes() == LAYERS[0]


def test_a_layer_that_is_not_what_it_was(opened: Opener, tmp_path: Path) -> None:
    path = oci_archive(tmp_path / "in", LAYERS, compress="gzip")
    image = opened(path)
    with layers_of(image, tmp_path) as layers:
        blob = image.layers[0]
        with open(path, "r+b") as file:
            file.seek(blob.offset + blob.size - 1)
            file.write(b"\xee")
        with pytest.raises(VerificationFailed, match="layer 1 of 3"):
            with ImageWriter(Target("oci-archive", tmp_path / "out"), SilentProgress()) as writer:
                writer.carry_layer(blob, layers[0])
    assert not (tmp_path / "out").exists()


def test_a_symlinks_target_is_replaced(opened: Opener, tmp_path: Path) -> None:
    image = opened(docker_archive(tmp_path / "in", LAYERS))
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    copy(image, Target("oci-archive", tmp_path / "link"), tmp_path)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").stat().st_size > 1000


def test_the_file_gets_the_umasks_mode(opened: Opener, tmp_path: Path) -> None:
    image = opened(docker_archive(tmp_path / "in", LAYERS))
    before = os.umask(0o027)
    try:
        copy(image, Target("oci-archive", tmp_path / "out"), tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_no_directory_and_no_device_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ImgmountError, match="no regular file"):
            ImageWriter(Target("oci-archive", path), SilentProgress())
    (tmp_path / "used").mkdir()
    (tmp_path / "used/x").touch()
    for path in (tmp_path / "used", tmp_path / "fifo"):
        with pytest.raises(ImgmountError, match=str(path)):
            ImageWriter(Target("oci", path), SilentProgress())


def test_added_layers_have_both_digests(tmp_path: Path) -> None:
    with ImageWriter(Target("oci", tmp_path / "out"), SilentProgress()) as writer:
        pieces = [LAYERS[0][:1000], LAYERS[0][1000:]]
        packed = writer.add_layer(pieces, Compression.GZIP)
        assert packed.diff_id == "sha256:" + hashlib.sha256(LAYERS[0]).hexdigest()
        stored = (tmp_path / "out/blobs/sha256" / packed.digest.hex).read_bytes()
        assert packed.digest == "sha256:" + hashlib.sha256(stored).hexdigest()
        assert packed.size == len(stored) and stored[4:8] == bytes(4)  # the time in gzip's header


@pytest.mark.parametrize(
    ("text", "form", "target"),
    [
        ("a.tar", None, ("oci-archive", "a.tar")),
        ("a.tar", "docker-archive", ("docker-archive", "a.tar")),
        ("oci:dir", None, ("oci", "dir")),
        ("oci-archive:a:b", None, ("oci-archive", "a:b")),
        ("docker-archive:/x/y", "docker-archive", ("docker-archive", "/x/y")),
        ("./oci:dir", None, ("oci-archive", "oci:dir")),
        ("other:x", None, ("oci-archive", "other:x")),
    ],
)
def test_targets(text: str, form: str | None, target: tuple[str, str]) -> None:
    found = parse_target(text, form)
    assert (found.form, str(found.path)) == target


@pytest.mark.parametrize(("text", "form"), [("", None), ("oci:", None), ("oci:d", "oci-archive")])
def test_bad_targets(text: str, form: str | None) -> None:
    with pytest.raises(UsageError):
        parse_target(text, form)


def test_a_layer_that_is_made_again_has_a_limit(tmp_path: Path) -> None:
    """A user may have written the size of a sparse file into the store."""
    entry = b'{"type":1,"name":"f","size":%d}' % (1 << 40)
    (tmp_path / "split.gz").write_bytes(gzip.compress(entry))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_text("")
    os.truncate(tmp_path / "tree/f", 1 << 40)
    layer = UnpackedLayer(
        Digest("sha256:" + "0" * 64), 1, tmp_path / "tree", tmp_path / "split.gz", "the layer"
    )
    target = Target("oci-archive", tmp_path / "out")
    with ImageWriter(target, SilentProgress(), UnpackLimit(1 << 22, 0)) as writer:
        with pytest.raises(MalformedImage, match=r"the layer: .* 4 MiB, the limit"):
            writer.rebuild_layer(layer, Compression.NONE)
    assert not (tmp_path / "out").exists()
