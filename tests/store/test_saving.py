"""Checks that save, load, save gives the same bytes and image, from each form of archive."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from imagewriter import (
    Files,
    ImageSpec,
    docker_archive,
    docker_files,
    oci_archive,
    oci_files,
    oci_layout,
    write_archive,
    write_directory,
)
from oracle import run
from storing import LAYERS, clean, files, layer, load, names, save
from tarwriter import TarWriter

from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, VerificationFailed
from fusemount.imagename import parse_name
from fusemount.sources.writing import Target
from fusemount.store import Store
from fusemount.store.removal import prune
from fusemount.transfer.reports import SilentTransfers
from fusemount.transfer.save import save as save_images

FORMS = ["docker-archive", "oci-archive", "oci"]
WRITERS: dict[str, Callable[..., Path]] = {
    "1.10": docker_archive,
    "25": partial(docker_archive, style="25"),
    "reversed": partial(docker_archive, reverse=True),
    "archive": oci_archive,
    "layout": oci_layout,
}


def content(path: Path) -> bytes | dict[str, bytes]:
    if path.is_file():
        return path.read_bytes()
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def other(tmp_path: Path, number: int) -> Store:
    return Store(tmp_path / f"store{number}", create=True)


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("writer", range(len(WRITERS)), ids=list(WRITERS))
def test_save_load_save_gives_the_same_bytes(
    store: Store, tmp_path: Path, writer: int, compress: str
) -> None:
    write = list(WRITERS.values())[writer]
    form = FORMS[(writer + len(compress)) % len(FORMS)]
    load(store, write(tmp_path / "in", [*LAYERS, LAYERS[0]], compress=compress, tags=["a/b:1"]))
    image = store.find("a/b:1")
    first = save(store, "a/b:1", form, tmp_path / "first")
    second = other(tmp_path, 2)
    load(second, first)
    assert names(second) == {"a/b:1"}
    assert second.find("a/b:1").image_id == image.image_id
    if form != "docker-archive":
        assert second.find("a/b:1").digest == image.digest
    again = save(second, "a/b:1", form, tmp_path / "again")
    assert content(first) == content(again)
    clean(store, images=1)
    clean(second, images=1)


@pytest.mark.parametrize("form", FORMS)
def test_through_other_forms_to_the_same_archive(store: Store, tmp_path: Path, form: str) -> None:
    """A docker-archive has the same bytes, however the layers were compressed before."""
    load(store, oci_archive(tmp_path / "in", LAYERS, compress="gzip", tags=["a:1"]))
    wanted = save(store, "a:1", "docker-archive", tmp_path / "wanted").read_bytes()
    second = other(tmp_path, 2)
    load(second, save(store, "a:1", form, tmp_path / "between"))
    assert save(second, "a:1", "docker-archive", tmp_path / "again").read_bytes() == wanted


@pytest.mark.parametrize("wrap", ["gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("writer", [docker_archive, oci_archive])
def test_a_compressed_archive_is_the_same_image(
    store: Store, tmp_path: Path, writer: Callable[..., Path], wrap: str
) -> None:
    load(store, writer(tmp_path / "plain", LAYERS, tags=["a:1"]))
    (image,) = load(store, writer(tmp_path / "wrapped", LAYERS, tags=["b:1"], wrap=wrap))
    assert {name.familiar for name in image.names} == {"a:1", "b:1"}
    clean(store, images=1)


@pytest.mark.parametrize("form", ["oci-archive", "oci"])
def test_an_index_is_saved_whole(store: Store, tmp_path: Path, form: str) -> None:
    images = [
        ImageSpec([LAYERS[0], layer(arch)], config={"architecture": arch}, compress="gzip")
        for arch in ("amd64", "arm64", "s390x")
    ]
    load(store, oci_layout(tmp_path / "in", images=images, nested="multi:1"))
    first = save(store, "multi:1", form, tmp_path / "first")
    second = other(tmp_path, 2)
    load(second, first)
    assert len(second.find("multi:1").summary.children) == 3
    assert content(first) == content(save(second, "multi:1", form, tmp_path / "again"))
    clean(second, images=1)
    with pytest.raises(ImageNotFound, match="3 images"):
        save(store, "multi:1", "docker-archive", tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("form", FORMS)
def test_several_images_and_names(store: Store, tmp_path: Path, form: str) -> None:
    load(store, docker_archive(tmp_path / "a", LAYERS, tags=["a:1"]))
    load(store, docker_archive(tmp_path / "b", [LAYERS[0], layer("b")], tags=["b:1"]))
    store.tag("a:1", parse_name("localhost:5000/x/a:2"))
    wanted = ["a:1", "localhost:5000/x/a:2", "b:1"]
    first = save(store, wanted, form, tmp_path / "first")
    second = other(tmp_path, 2)
    load(second, first)
    assert names(second) == set(wanted)
    assert second.find("a:1").digest == second.find("localhost:5000/x/a:2").digest
    assert content(first) == content(save(second, wanted, form, tmp_path / "again"))


def test_what_an_old_docker_finds(store: Store, tmp_path: Path) -> None:
    load(
        store, oci_archive(tmp_path / "in", LAYERS, compress="gzip", tags=["docker.io/library/a:1"])
    )
    with tarfile.open(save(store, "a:1", "docker-archive", tmp_path / "out")) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert entry["RepoTags"] == ["a:1"]
        for name, wanted in zip(entry["Layers"], LAYERS, strict=True):
            assert tar.extractfile(name).read() == wanted  # type: ignore[union-attr]
        config = tar.extractfile(entry["Config"]).read()  # type: ignore[union-attr]
        assert Digest.of(config) == store.find("a:1").image_id


def test_an_archive_of_docker_19_has_no_config(store: Store, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "in", LAYERS, style="1.9", tags=["a:1"])
    with pytest.raises(MalformedImage, match=r"1\.10"):
        load(store, archive)
    clean(store, images=0)


def test_a_layout_keeps_its_other_images(store: Store, tmp_path: Path) -> None:
    out = oci_layout(tmp_path / "out", [layer("theirs")], tags=["theirs:1"])
    load(store, oci_archive(tmp_path / "in", LAYERS, tags=["a:1"]))
    save(store, "a:1", "oci", out)
    save(store, "a:1", "oci", out)
    second = other(tmp_path, 2)
    load(second, out)
    assert names(second) == {"theirs:1", "a:1"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
@pytest.mark.parametrize("how", ["flipped", "gone", "cut"])
def test_what_is_damaged_is_not_saved(
    store: Store, tmp_path: Path, form: str, what: str, how: str
) -> None:
    load(store, oci_archive(tmp_path / "in", LAYERS, compress="gzip", tags=["a:1"]))
    image = store.find("a:1")
    digest = {
        "layer": image.summary.layers[0].digest, "config": image.image_id, "manifest": image.digest,
    }[what]  # fmt: skip
    blob = store.layout.blob(digest)
    data = blob.read_bytes()
    if how == "gone":
        blob.unlink()
    else:
        blob.write_bytes(data[:-7] if how == "cut" else data[:-20] + b"X" + data[-19:])
    if form == "docker-archive" and what == "manifest":
        return  # it is not in the archive
    with pytest.raises((MalformedImage, VerificationFailed, ImgmountError)) as told:
        save(store, "a:1", form, tmp_path / "out")
    assert "\n" not in str(told.value) and digest in str(told.value)
    assert not (tmp_path / "out").exists()
    assert not list(store.layout.leases.iterdir())


def test_an_image_comes_in_with_what_it_had(store: Store, tmp_path: Path) -> None:
    """A blob that is no layer, a config with other diff_ids: the store gets nothing."""
    before = files(store)
    wrong = ImageSpec(LAYERS, config={"rootfs": {"type": "layers", "diff_ids": []}})
    for writer in (docker_archive, oci_archive, oci_layout):
        with pytest.raises(ImgmountError):
            load(store, writer(tmp_path / writer.__name__, images=[wrong]))
        assert store.images() == []
    noise = TarWriter().raw(b"noise" * 999).tar()
    with pytest.raises(ImgmountError):
        load(store, oci_archive(tmp_path / "noise", [noise]))
    assert store.images() == []
    prune(store)
    assert set(files(store)) <= set(before) | {"repositories.json", "cache/summaries.json"}


def test_docker_members_in_a_directory_are_told_apart(store: Store, tmp_path: Path) -> None:
    """Each layer is a file of its own: all begin at byte 0, and some have the same size."""
    tars = [layer("one"), layer("two")]
    assert len(tars[0]) == len(tars[1])
    docker = docker_files([ImageSpec(tars, tags=["a:1"])])
    empty = b'{"schemaVersion":2,"manifests":[]}'
    load(store, write_directory(tmp_path / "in", docker | {"index.json": empty}))
    clean(store, images=1)
    assert [row.diff_id for row in store.find("a:1").summary.layers] == [*map(Digest.of, tars)]


def test_members_whose_names_hold_spaces_are_told_apart(store: Store, tmp_path: Path) -> None:
    """Joined with spaces, both images would have the key "a b c"."""
    good, evil = ImageSpec([layer("good")]), ImageSpec([layer("evil"), layer("good")])
    manifest = [
        {"Config": "a b", "RepoTags": ["good:1"], "Layers": ["c"]},
        {"Config": "a", "RepoTags": ["evil:1"], "Layers": ["b", "c"]},
    ]
    files: Files = {
        "a b": good.config_bytes, "a": evil.config_bytes, "b": evil.layers[0], "c": good.layers[0],
        "manifest.json": json.dumps(manifest).encode(),
    }  # fmt: skip
    archive = write_archive(tmp_path / "in.tar", files)
    load(store, archive)
    for name, spec in (("good:1", good), ("evil:1", evil)):
        told = run("skopeo", "inspect", "--config", f"docker-archive:{archive}:{name}").stdout
        assert (
            told == spec.config_bytes.strip() + b"\n"
            or json.loads(told)["rootfs"] == (json.loads(spec.config_bytes)["rootfs"])
        )
        assert store.find(name).image_id == Digest.of(spec.config_bytes)


@pytest.mark.parametrize("first", [{}, {"Config": "missing.json", "RepoTags": ["a:1"]}])
def test_an_archive_of_two_faces(store: Store, tmp_path: Path, first: dict[str, object]) -> None:
    """manifest.json and index.json name different images; a mount shows that of manifest.json."""
    one, two = ImageSpec([layer("one")], tags=("a:2",)), ImageSpec([layer("two")], tags=("a:2",))
    files = oci_files([one]) | docker_files([two], "1.10")
    listed = json.loads(bytes(files["manifest.json"]))  # type: ignore[arg-type]
    files["manifest.json"] = json.dumps([*([first] if first else []), *listed]).encode()
    archive = write_archive(tmp_path / "in.tar", files)
    if first:  # its first image cannot be opened: then nobody can tell whether both are the same
        with pytest.raises(MalformedImage, match=r"missing\.json"):
            load(store, archive)
        assert not store.images()
    else:
        load(store, archive)
        assert store.find("a:2").image_id == Digest.of(two.config_bytes)


@pytest.mark.parametrize("beside", ["another name", "another platform"])
def test_a_name_of_two_images(store: Store, tmp_path: Path, beside: str) -> None:
    """Both images are in index.json, and it gives manifest.json's name to the other one."""
    other = ImageSpec([layer("other")], tags=("a:2",))
    right = ImageSpec([layer("right")], tags=("b:2",))
    files = oci_files([other, right])
    index = json.loads(bytes(files["index.json"]))  # type: ignore[arg-type]
    if beside == "another platform":
        index["manifests"].reverse()  # the last of one name counts
        for entry, arch in zip(index["manifests"], ("amd64", "s390x"), strict=True):
            entry |= {"platform": {"os": "linux", "architecture": arch}}
            entry["annotations"] |= index["manifests"][-1]["annotations"]
        files["index.json"] = json.dumps(index).encode()
    listed = docker_files([replace(right, tags=("a:2",))], "25")["manifest.json"]
    archive = write_archive(tmp_path / "in.tar", files | {"manifest.json": listed})
    load(store, archive)
    told = run("skopeo", "inspect", "--config", f"docker-archive:{archive}:a:2").stdout
    assert Digest.of(right.config_bytes) == store.find("a:2").image_id
    assert json.loads(told)["rootfs"] == json.loads(right.config_bytes)["rootfs"]


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_what_could_not_be_read_again_is_not_saved(
    store: Store, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image has thousands of names."""
    (image,) = load(store, docker_archive(tmp_path / "in.tar", [layer("x")], tags=["a:1"]))
    target = Target(form, tmp_path / "out")
    chosen = tuple(parse_name(f"name{i}:1") for i in range(400))
    monkeypatch.setattr("fusemount.image.parse.MANIFESTS_MAX", 300)
    monkeypatch.setattr("fusemount.image.fields.parse_json.__defaults__", (3000,))
    document = "manifest" if form == "docker-archive" else "index"
    with pytest.raises(MalformedImage, match=rf"the new {document}\.json.* the limit is"):
        save_images(store, [(image, chosen)], target, SilentTransfers())
    assert not target.path.exists()
    save_images(store, [(image, chosen[:4])], target, SilentTransfers())
    assert target.path.exists()
