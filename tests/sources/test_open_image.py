"""Law: every archive form of T 22 gives the same image; bad ones a clear error and nothing open."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imagewriter import (
    ImageSpec,
    Link,
    docker_archive,
    docker_files,
    oci_archive,
    oci_files,
    oci_layout,
    sha256,
    write_archive,
    write_directory,
)
from tarwriter import TarWriter

from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    MalformedImage,
    PlatformMismatch,
    VerificationFailed,
)
from fusemount.image import docker_inspect, history_rows
from fusemount.layer import SilentProgress, open_layers
from fusemount.settings import Directories, ImageOptions, Platform
from fusemount.sources import Image

AMD64 = Platform("linux", "amd64")
LAYERS = [
    TarWriter().dir("etc").file("etc/a", b"one").tar(),
    TarWriter().whiteout("etc/a").file("etc/b", b"two" * 1000).tar(),
    TarWriter().tar(),
]
DIFF_IDS = tuple(Digest("sha256:" + sha256(layer)) for layer in LAYERS)
Opener = Callable[..., Image]


def blob_bytes(image: Image) -> list[bytes]:
    return [os.pread(blob.fd, blob.size, blob.offset) for blob in image.layers]


FORMS: dict[str, Callable[..., Path]] = {
    "docker 1.9": lambda p, layers, **k: docker_archive(p, layers, style="1.9", **k),
    "docker 1.10": lambda p, layers, **k: docker_archive(p, layers, style="1.10", **k),
    "docker 25": lambda p, layers, **k: docker_archive(p, layers, style="25", **k),
    "oci": oci_archive,
}


def test_t22_what_docker_saves_from_a_containerd_store(tmp_path: Path, opened: Opener) -> None:
    """manifest.json lists blobs that are gzip: their name is the digest of the gzip bytes."""
    path = docker_archive(tmp_path / "i.tar", LAYERS, style="25", compress="gzip")
    image = opened(path)
    for blob, layer in zip(image.layers, LAYERS, strict=True):
        data = os.pread(blob.fd, blob.size, blob.offset)
        assert blob.digest == Digest.of(data) and blob.diff_id == Digest.of(layer)
    directories = Directories(tmp_path / "c", tmp_path / "s", tmp_path / "r")
    for layer, tar in zip(
        open_layers(image, ImageOptions(AMD64), directories, SilentProgress()), LAYERS, strict=True
    ):
        with layer:
            assert b"".join(layer.tar.pieces()) == tar


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
@pytest.mark.parametrize("wrap", ["none", "gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("form", FORMS)
def test_t22_every_form_gives_the_same_layers(
    tmp_path: Path, opened: Opener, form: str, wrap: str, reverse: bool
) -> None:
    path = FORMS[form](tmp_path / "i.tar", LAYERS, wrap=wrap, reverse=reverse)
    image = opened(path)
    assert blob_bytes(image) == LAYERS
    assert image.repo_tags == ("test:latest",)
    assert image.platform == AMD64
    if form == "docker 1.9":
        assert image.config_digest is None and len(image.image_id) == 71
        assert [blob.diff_id for blob in image.layers] == [None] * 3
    else:
        config = ImageSpec(LAYERS).config_bytes
        assert image.config_digest == image.image_id == Digest.of(config)
        assert tuple(blob.diff_id for blob in image.layers) == DIFF_IDS
    assert [step.created_by for step in image.config.history] == [f"layer {i}" for i in range(3)]
    assert image.layers[1].description.startswith(f"{path}: layer 2 of 3 (")


def test_t22_a_wrapped_archive_is_unpacked_once(tmp_path: Path, opened: Opener) -> None:
    path = docker_archive(tmp_path / "i.tar.gz", LAYERS, wrap="gzip")
    opened(path)
    kept = list((tmp_path / "kept/cache/archives").iterdir())
    assert sorted(p.suffix for p in kept) == [".json", ".tar"]
    before = kept[0].stat().st_mtime_ns
    opened(path)
    assert kept[0].stat().st_mtime_ns == before
    docker_archive(path, LAYERS[:1], wrap="gzip")
    assert len(opened(path).layers) == 1


def test_t22_oci_directory(tmp_path: Path, opened: Opener) -> None:
    path = oci_layout(tmp_path / "d", LAYERS, compress="gzip")
    image = opened(f"oci:{path}:test:latest")
    assert tuple(blob.diff_id for blob in image.layers) == DIFF_IDS
    assert all(blob.digest is not None for blob in image.layers)
    assert image.manifest_digest is not None
    assert opened(path).image_id == image.image_id


def test_t22_an_oci_directory_of_symlinks(tmp_path: Path, opened: Opener) -> None:
    oci_layout(tmp_path / "store", LAYERS)
    (tmp_path / "d").mkdir()
    for path in (tmp_path / "store").iterdir():
        (tmp_path / "d" / path.name).symlink_to(path)
    assert blob_bytes(opened(tmp_path / "d")) == LAYERS


def test_t22_plain_root_file_system(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(LAYERS[0])
    for text in (path, f"tar:{path}", path):
        image = opened(text)
        assert blob_bytes(image) == LAYERS[:1]
        assert image.image_id == "" and image.config.diff_ids == ()
        assert [row.size for row in history_rows(image)] == [len(LAYERS[0])]
    with pytest.raises(ImageNotFound, match="without names"):
        opened(f"{path}:x")


def test_t22_manifest_json_wins_over_a_wrong_oci_manifest(tmp_path: Path, opened: Opener) -> None:
    files = docker_files([ImageSpec(LAYERS)], "25")
    files["index.json"] = oci_files([ImageSpec([])])["index.json"]
    image = opened(write_archive(tmp_path / "i.tar", files))
    assert blob_bytes(image) == LAYERS


def test_t22_repeated_layers_are_symlinks_or_hardlinks(tmp_path: Path, opened: Opener) -> None:
    layers = [LAYERS[0], LAYERS[1], LAYERS[0]]
    files = docker_files([ImageSpec(layers)])
    links = [name for name, data in files.items() if isinstance(data, Link)]
    assert len(links) == 1
    assert blob_bytes(opened(write_archive(tmp_path / "s.tar", files))) == layers
    assert blob_bytes(opened(write_archive(tmp_path / "r.tar", files, reverse=True))) == layers
    link = files[links[0]]
    assert isinstance(link, Link)
    files[links[0]] = Link(link.target.removeprefix("../"), hard=True)
    assert blob_bytes(opened(write_archive(tmp_path / "h.tar", files))) == layers


def test_t22_a_name_given_twice_the_last_wins(tmp_path: Path, opened: Opener) -> None:
    old = docker_files([ImageSpec(LAYERS[:1])])["manifest.json"]
    assert isinstance(old, bytes)
    path = docker_archive(tmp_path / "i.tar", LAYERS)
    path.write_bytes(TarWriter().file("manifest.json", old).tar(end=False) + path.read_bytes())
    assert len(opened(path).layers) == 3


def tagged(*tags: str, layer: int = 0, **config: Any) -> ImageSpec:
    return ImageSpec([LAYERS[layer]], tags, config)


@pytest.mark.parametrize("form", FORMS)
def test_m14_several_images_and_a_choice(tmp_path: Path, opened: Opener, form: str) -> None:
    images = [tagged("a:1", "b:latest"), tagged("quay.io/x/c:2", layer=1)]
    path = FORMS[form](tmp_path / "i.tar", (), images=images)
    with pytest.raises(ImageNotFound, match=r"which image.*a:1.*b:latest.*quay.io/x/c:2"):
        opened(path)
    for name in ("b", "b:latest", "docker.io/library/b", "a:1", "docker.io/library/a:1"):
        image = opened(f"{path}:{name}")
        assert blob_bytes(image) == LAYERS[:1]
    assert blob_bytes(opened(f"{path}:quay.io/x/c:2")) == LAYERS[1:2]
    for name in ("a", "c:2", "x/c:2", "nothing"):
        with pytest.raises(ImageNotFound, match=f"no image '{name}' in it; it holds a:1"):
            opened(f"{path}:{name}")


def test_m14_choice_by_id(tmp_path: Path, opened: Opener) -> None:
    images = [ImageSpec(LAYERS[:1], ()), ImageSpec(LAYERS[1:2], ())]
    for make in (docker_archive, oci_archive):
        path = make(tmp_path / "i.tar", images=images)
        with pytest.raises(ImageNotFound, match=r"FILE:ID: sha256:"):
            opened(path)
        ident = sha256(images[1].config_bytes)
        for name in (ident, ident[:12], f"sha256:{ident}", f"x@sha256:{ident}"):
            assert blob_bytes(opened(f"{path}:{name}")) == LAYERS[1:2]


def test_m14_zero_layers_and_empty_history(tmp_path: Path, opened: Opener) -> None:
    history = [{"created_by": "ENV A=1", "empty_layer": True}]
    for make in (docker_archive, oci_archive):
        image = opened(make(tmp_path / "i.tar", [], config={"history": history}))
        assert image.layers == ()
        assert [row.empty_layer for row in history_rows(image)] == [True]


def test_m14_layers_and_diff_ids_must_match_in_number(tmp_path: Path, opened: Opener) -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": DIFF_IDS[:1]}}
    path = docker_archive(tmp_path / "i.tar", LAYERS, config=config)
    with pytest.raises(MalformedImage, match="1 diff_ids, the manifest 3 layers"):
        opened(path)


def platforms() -> list[ImageSpec]:
    arm = ImageSpec(LAYERS[1:2], config={"architecture": "arm64", "variant": "v8"})
    attestation = ImageSpec([], config={"architecture": "unknown", "os": "unknown"})
    return [arm, ImageSpec(LAYERS[:1]), attestation]


@pytest.mark.parametrize("nested", ["", "test:latest"], ids=["flat", "nested"])
def test_m14_platform_choice(tmp_path: Path, opened: Opener, nested: str) -> None:
    path = oci_layout(tmp_path / "d", images=platforms(), nested=nested)
    assert blob_bytes(opened(path)) == LAYERS[:1]
    arm = opened(f"{path}:test", platform=Platform("linux", "aarch64"))
    assert blob_bytes(arm) == LAYERS[1:2]
    with pytest.raises(PlatformMismatch, match="for linux/s390x in it, only for linux/amd64"):
        opened(path, platform=Platform("linux", "s390x"))


def test_m14_platform_of_a_docker_archive(tmp_path: Path, opened: Opener) -> None:
    path = docker_archive(tmp_path / "i.tar", LAYERS, config={"architecture": "s390x"})
    with pytest.raises(PlatformMismatch, match=r"only for linux/s390x; .*--platform linux/s390x"):
        opened(path, platform=None)
    with pytest.raises(PlatformMismatch, match=r"only for linux/s390x$"):
        opened(path, platform=AMD64)
    assert opened(path, platform=Platform("linux", "s390x")).layers


def test_m14_a_save_of_one_platform_with_the_whole_index(tmp_path: Path, opened: Opener) -> None:
    files = oci_files(platforms(), nested="test:latest")
    absent = next(n for n, d in files.items() if d == LAYERS[1])
    config = next(n for n, d in files.items() if d == platforms()[0].config_bytes)
    manifest = next(n for n, d in files.items() if config[13:].encode() in d and "index" not in n)
    for name in (absent, config, manifest):
        del files[name]
    path = write_directory(tmp_path / "d", files)
    assert blob_bytes(opened(path)) == LAYERS[:1]
    with pytest.raises(PlatformMismatch):
        opened(path, platform=Platform("linux", "arm64"))


def test_m14_foreign_layer(tmp_path: Path, opened: Opener) -> None:
    files = oci_files([ImageSpec(LAYERS)])
    index = json.loads(files["index.json"])  # type: ignore[arg-type]
    name = "blobs/sha256/" + index["manifests"][0]["digest"][7:]
    manifest = json.loads(files[name])  # type: ignore[arg-type]
    layer = manifest["layers"][0]
    layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    layer["urls"] = ["https://example.org/layer"]
    del files["blobs/sha256/" + layer["digest"][7:]]
    data = json.dumps(manifest).encode()
    index["manifests"][0] |= {"digest": "sha256:" + sha256(data), "size": len(data)}
    files["blobs/sha256/" + sha256(data)] = data
    files["index.json"] = json.dumps(index).encode()
    with pytest.raises(MalformedImage, match=r"foreign layer.*https://example\.org/layer"):
        opened(write_directory(tmp_path / "d", files))


@pytest.mark.parametrize("beside", [True, False], ids=["beside an image", "alone"])
def test_m14_an_artifact_is_no_image(tmp_path: Path, opened: Opener, beside: bool) -> None:
    files = oci_files([ImageSpec([]), ImageSpec(LAYERS)] if beside else [ImageSpec([])])
    index = json.loads(files["index.json"])  # type: ignore[arg-type]
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2}
    empty["digest"] = "sha256:" + sha256(b"{}")
    data = json.dumps({"schemaVersion": 2, "config": empty, "layers": []}).encode()
    index["manifests"][0] |= {"digest": "sha256:" + sha256(data), "size": len(data)}
    index["manifests"][0].pop("platform")
    files |= {"blobs/sha256/" + sha256(each): each for each in (b"{}", data)}
    files["index.json"] = json.dumps(index).encode()
    path = write_directory(tmp_path / "d", files)
    if beside:
        assert blob_bytes(opened(path)) == LAYERS
        return
    with pytest.raises(ImageNotFound, match=r"only artifacts: .*oci\.empty"):
        opened(path)


@pytest.mark.parametrize("what", ["config", "manifest"])
def test_t23_documents_are_verified(tmp_path: Path, opened: Opener, what: str) -> None:
    spec = ImageSpec(LAYERS)
    files = oci_files([spec])
    config = "blobs/sha256/" + sha256(spec.config_bytes)
    manifest = next(n for n, d in files.items() if b"layers" in d and n != config and "b" in n[0])
    name = config if what == "config" else manifest
    files[name] += b" "  # type: ignore[operator]
    path = write_directory(tmp_path / "d", files)
    with pytest.raises(VerificationFailed) as caught:
        opened(path)
    assert name in str(caught.value) and str(caught.value).count("sha256:") == 2
    assert opened(path, verify=False).layers


def test_t23_the_config_of_a_docker_archive_is_verified(tmp_path: Path, opened: Opener) -> None:
    for style in ("1.10", "25"):
        spec = ImageSpec(LAYERS)
        files = docker_files([spec], style)
        name = next(n for n, d in files.items() if d == spec.config_bytes)
        files[name] += b" "  # type: ignore[operator]
        path = write_archive(tmp_path / "i.tar", files)
        with pytest.raises(VerificationFailed, match=name):
            opened(path)
        assert opened(path, verify=False).layers


def test_m14_inspect_is_what_docker_prints(tmp_path: Path, opened: Opener) -> None:
    tags = ("quay.io:443/a/b:1", "test:latest")
    image = opened(oci_layout(tmp_path / "d", LAYERS, tags=tags))
    found = docker_inspect(image)
    json.dumps(found)
    assert found["Id"] == image.config_digest
    assert found["RepoTags"] == list(tags)
    digest = image.manifest_digest
    assert found["RepoDigests"] == [f"quay.io:443/a/b@{digest}", f"test@{digest}"]
    assert found["RootFS"] == {"Type": "layers", "Layers": list(DIFF_IDS)}
    assert found["ChainIDs"][0] == DIFF_IDS[0] and len(found["ChainIDs"]) == 3
    chain = Digest.of(f"{DIFF_IDS[0]} {DIFF_IDS[1]}".encode())
    assert found["ChainIDs"][1] == chain
    assert found["Config"] == {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]}
    assert (found["Architecture"], found["Os"]) == ("amd64", "linux")
    assert found["Created"] == "2024-05-06T07:08:09Z"
    assert found["Size"] == sum(map(len, LAYERS))


def test_m14_history_is_newest_first_with_sizes(tmp_path: Path, opened: Opener) -> None:
    history = [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}]
    image = opened(docker_archive(tmp_path / "i.tar", LAYERS, config={"history": history}))
    rows = history_rows(image)
    assert [row.created_by for row in rows] == ["", "", "ENV", "ADD"]
    assert [row.size for row in rows] == [len(LAYERS[2]), len(LAYERS[1]), 0, len(LAYERS[0])]
