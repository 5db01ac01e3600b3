"""Reads stores of docker and containers: names, additional stores, damage, what is not read."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from storewriter import ContainersRoot, DockerRoot, diff_id, tar_split, write

from fusemount.digest import chain_ids
from fusemount.errors import (
    ImageNotFound,
    ImgmountError,
    MalformedImage,
    NotPermitted,
    PlatformMismatch,
    VerificationFailed,
)
from fusemount.layer import UnpackedLayer, open_directories
from fusemount.settings import Platform
from fusemount.sources import Image

Opener = Callable[..., Image]
CHAINS = chain_ids([diff_id("a0"), diff_id("a1")])


@pytest.fixture
def docker(tmp_path: Path) -> DockerRoot:
    return DockerRoot(tmp_path / "docker")


@pytest.fixture
def storage(tmp_path: Path) -> ContainersRoot:
    return ContainersRoot(tmp_path / "storage")


def error_of(opened: Opener, reference: str, kind: type[ImgmountError]) -> str:
    with pytest.raises(kind) as caught:
        opened(reference)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_link_on_the_way_to_a_layer_is_not_followed(
    opened: Opener, storage: ContainersRoot, depth: int
) -> None:
    """Otherwise the store's owner could show directories of others, even of root."""
    storage.add("a", "localhost/a:1")
    storage.save()
    image = opened(f"containers-storage:[{storage.root}]a:1")
    for layer in open_directories(image.directories, origin=image.origin):
        layer.close()
    way = (image.directories[0], *image.directories[0].parents)[depth]
    way.rename(storage.root.parent / "elsewhere")
    way.symlink_to(storage.root.parent / "elsewhere")
    image = opened(f"containers-storage:[{storage.root}]a:1")
    with pytest.raises(ImageNotFound, match="symbolic links"):
        open_directories(image.directories, origin=image.origin)


@pytest.mark.parametrize("what", ["images", "layers", "manifest"])
def test_podmans_links_are_not_followed(opened: Opener, storage: ContainersRoot, what: str) -> None:
    storage.add("a", "localhost/a:1")
    storage.save()
    places = {"manifest": "overlay-images/*/manifest"}
    (path,) = storage.root.glob(places.get(what, f"overlay-{what}/{what}.json"))
    move_away(path)
    with pytest.raises(ImgmountError, match="a symlink where none may be"):
        opened(f"containers-storage:[{storage.root}]a:1")


@pytest.mark.parametrize("what", ["cache-id", "size", "diff", "parent", "repositories.json"])
def test_dockers_links_are_not_followed(opened: Opener, docker: DockerRoot, what: str) -> None:
    """Otherwise the store's owner could have root read files that only root may read."""
    docker.add("a", "a:1")
    for path in list(docker.image.rglob(what)):
        move_away(path)
    with pytest.raises(ImgmountError, match="a symlink where none may be"):
        opened(f"docker:[{docker.root}]a:1")


@pytest.mark.parametrize("below", ["", "overlay2/imagedb/content/sha256"])
def test_dockers_directories_are_no_links(opened: Opener, docker: DockerRoot, below: str) -> None:
    docker.add("a", "a:1")
    move_away(docker.root / "image" / below)
    with pytest.raises(ImgmountError, match=r"[Ss]ymlink|symbolic links"):
        opened(f"docker:[aufs@{docker.root}]a:1" if not below else f"docker:[{docker.root}]a:1")


@pytest.mark.parametrize("what", ["cache-id", "size"])
def test_no_message_quotes_a_file(opened: Opener, docker: DockerRoot, what: str) -> None:
    docker.add("a", "a:1")
    for path in docker.image.rglob(what):
        path.write_text("root:$6$secret:1:2")
    why = error_of(opened, f"docker:[{docker.root}]a:1", MalformedImage)
    assert f"/{what})" in why and "secret" not in why


def move_away(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


# ---- docker -------------------------------------------------------------------------------


def test_an_image_of_docker(opened: Opener, docker: DockerRoot) -> None:
    digest = diff_id("manifest")
    ident = docker.add("a", "x/a:1", "a:2", f"x/a@{digest}")
    docker.add("b", "localhost/b:latest")
    image = opened(f"docker:[{docker.root}]a:2")
    assert image.directories == (docker.tree("a0"), docker.tree("a1"))
    assert image.image_id == ident and image.manifest_digest == digest
    assert image.repo_tags == ("a:2", "x/a:1")  # docker.io/library/a:2, docker.io/x/a:1
    assert image.repo_digests == (f"x/a@{digest}",)
    assert image.layer_sizes == (7, 7) and image.described() is image
    assert opened(f"docker:[{docker.root}]b").repo_tags == ("localhost/b:latest",)


def test_vfs_has_whole_trees(opened: Opener, tmp_path: Path) -> None:
    docker = DockerRoot(tmp_path / "docker", "vfs")
    docker.add("a", "a:1")
    image = opened(f"docker:[{docker.root}]a:1")
    assert image.directories == (docker.tree("a1"),) and len(image.unpacked) == 2


def test_steps_of_builds_are_asked_for_by_id(opened: Opener, docker: DockerRoot) -> None:
    docker.add("a", "a:1")
    step = docker.add("step")
    assert opened(f"docker:[{docker.root}]").repo_tags == ("a:1",)
    assert opened(f"docker:[{docker.root}]{step[7:19]}").image_id == step


def test_an_image_without_layers(opened: Opener, docker: DockerRoot) -> None:
    docker.add("none", "none:1", layers=0)
    assert opened(f"docker:[{docker.root}]none:1").directories == ()


def test_several_graph_drivers(opened: Opener, docker: DockerRoot) -> None:
    docker.add("a", "a:1")
    vfs = DockerRoot(docker.root, "vfs")
    vfs.add("b", "b:1")
    assert opened(f"docker:[{docker.root}]b:1").directories == (vfs.tree("b1"),)
    why = error_of(opened, f"docker:[vfs@{docker.root}]a:1", ImageNotFound)
    assert "no image 'a:1' in it; it holds b:1" in why
    assert "only by overlay2, vfs" in error_of(
        opened, f"docker:[aufs@{docker.root}]a", ImageNotFound
    )


def test_what_is_not_read_in_place(opened: Opener, tmp_path: Path) -> None:
    root = tmp_path / "docker"
    DockerRoot(root, "btrfs").add("a", "a:1")
    assert "graph driver btrfs" in error_of(opened, f"docker:[{root}]a:1", ImageNotFound)
    (tmp_path / "new/containers").mkdir(parents=True)
    assert "containerd's store" in error_of(opened, f"docker:[{tmp_path}/new]a", ImageNotFound)
    (tmp_path / "mapped/100.100/image").mkdir(parents=True)
    assert "/mapped/100.100]NAME" in error_of(opened, f"docker:[{tmp_path}/mapped]a", ImageNotFound)
    assert "no such directory" in error_of(opened, f"docker:[{tmp_path}/no]a", ImageNotFound)


def test_a_store_that_others_may_not_read(
    opened: Opener, docker: DockerRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.add("a", "a:1")

    def refused(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fusemount.sources.docker_storage.os.listdir", refused)
    why = error_of(opened, f"docker:[{docker.root}]a:1", NotPermitted)
    assert why == f"{docker.root}/image: Permission denied: docker's images are root's"


def test_another_platform(opened: Opener, docker: DockerRoot) -> None:
    docker.add("a", "a:1", architecture="arm64")
    assert "linux/arm64" in error_of(opened, f"docker:[{docker.root}]a:1", PlatformMismatch)
    assert opened(f"docker:[{docker.root}]a:1", platform=Platform("linux", "arm64")).repo_tags


Damage = Callable[[DockerRoot], object]


@pytest.mark.parametrize(
    ("damage", "kind", "why"),
    [
        (lambda d: shutil.rmtree(d.layer(CHAINS[1])), MalformedImage, "layer 2 of 2 .* not there"),
        (lambda d: (d.layer(CHAINS[0]) / "cache-id").unlink(), MalformedImage, "not all of it"),
        (lambda d: write(d.layer(CHAINS[0]) / "cache-id", "../x"), MalformedImage, "cache-id is"),
        (lambda d: write(d.layer(CHAINS[0]) / "diff", CHAINS[1]), MalformedImage, "its diff is"),
        (lambda d: write(d.layer(CHAINS[1]) / "parent", "x"), MalformedImage, "another layer"),
        (lambda d: write(d.layer(CHAINS[1]) / "size", "-1"), MalformedImage, "its size is no"),
        (lambda d: shutil.rmtree(d.tree("a0")), MalformedImage, "its directory .* is not there"),
        (lambda d: write(d.image / "repositories.json", "{"), MalformedImage, "not JSON"),
        (lambda d: write(d.image / "repositories.json", '{"Repositories":{"a":{"a:1":"x"}}}'),
         MalformedImage, "a:1: not a sha256 digest"),
        (lambda d: shutil.rmtree(d.image / "imagedb"), MalformedImage, "but no configuration"),
        (lambda d: [write(p, b"{}") for p in d.image.glob("imagedb/content/sha256/*")],
         VerificationFailed, "digest is"),
    ],
)  # fmt: skip
def test_damage_in_docker(
    opened: Opener, docker: DockerRoot, damage: Damage, kind: type[ImgmountError], why: str
) -> None:
    docker.add("a", "a:1")
    damage(docker)
    with pytest.raises(kind, match=why):
        opened(f"docker:[{docker.root}]a:1")


def test_damage_to_another_image_does_not_matter(opened: Opener, docker: DockerRoot) -> None:
    docker.add("a", "a:1")
    broken = docker.add("b", "b:1")
    write(docker.image / "imagedb/content/sha256" / broken[7:], b"")
    assert opened(f"docker:[{docker.root}]a:1").repo_tags == ("a:1",)


# ---- containers ---------------------------------------------------------------------------


def test_an_image_of_containers(opened: Opener, storage: ContainersRoot) -> None:
    ident = storage.add("a", "localhost/a:1", "quay.io/a/a:2")
    for name in ("a:1", "quay.io/a/a:2", ident, f"@{ident}", f"localhost/a@{ident}", ""):
        image = opened(f"containers-storage:[{storage.root}]{name}")
        assert image.directories == (storage.tree("id-a0"), storage.tree("id-a1"))
        assert image.image_id == f"sha256:{ident}" and image.layer_sizes == (1024, 1024)
        assert image.repo_tags == ("localhost/a:1", "quay.io/a/a:2")


def test_layers_of_a_further_store(opened: Opener, storage: ContainersRoot, tmp_path: Path) -> None:
    shared = ContainersRoot(tmp_path / "shared")
    shared.add("s", "localhost/s:1")
    storage.add("a", "localhost/a:1", below="id-s1", below_ids=[diff_id("s0"), diff_id("s1")])
    where = f"containers-storage:[overlay@{storage.root}:overlay.imagestore={shared.root}]"
    trees = [shared.tree("id-s0"), shared.tree("id-s1")]
    assert opened(f"{where}s:1").directories == tuple(trees)
    trees += [storage.tree("id-a0"), storage.tree("id-a1")]
    assert opened(f"{where}a:1").directories == tuple(trees)
    why = error_of(opened, f"containers-storage:[{storage.root}]a:1", MalformedImage)
    assert "its layer id-s1 is not there" in why


def test_drivers_of_containers(opened: Opener, storage: ContainersRoot) -> None:
    storage.add("a", "localhost/a:1")
    vfs = ContainersRoot(storage.root, "vfs")
    vfs.add("b", "localhost/b:1")
    assert opened(f"containers-storage:[{storage.root}]b:1").directories == (vfs.tree("id-b1"),)
    why = error_of(opened, f"containers-storage:[btrfs@{storage.root}]a:1", ImageNotFound)
    assert "driver 'btrfs' keeps no images there, overlay does" in why
    ContainersRoot(storage.root, "btrfs").add("c", "localhost/c:1")
    why = error_of(opened, f"containers-storage:[{storage.root}]c:1", ImageNotFound)
    assert "kept by driver btrfs" in why
    (storage.root / "empty").mkdir()
    why = error_of(opened, f"containers-storage:[{storage.root}/empty]c:1", ImageNotFound)
    assert "no store of containers' images" in why


def test_a_list_of_manifests(opened: Opener, storage: ContainersRoot) -> None:
    ident = storage.add("a", "localhost/a:1")
    storage.document(ident, "manifest", b'{"schemaVersion": 2, "manifests": []}')
    why = error_of(opened, f"containers-storage:[{storage.root}]a:1", ImageNotFound)
    assert "a list of manifests" in why


def test_an_image_got_by_digest(opened: Opener, storage: ContainersRoot) -> None:
    listed, own = diff_id("list"), diff_id("own")
    storage.add("a", f"quay.io/a/a@{listed}", "localhost/a:1")
    storage.images[0]["big-data-names"] = ["manifest", f"manifest-{listed}"]
    storage.images[0]["digest"] = own
    storage.save()
    image = opened(f"containers-storage:[{storage.root}]quay.io/a/a@{listed}")
    assert image.repo_tags == ("localhost/a:1",)
    names = [f"{name}@{each}" for name in ("localhost/a", "quay.io/a/a") for each in (listed, own)]
    assert sorted(names) == list(image.repo_digests or ())


def _flag(storage: ContainersRoot) -> None:
    storage.layers[0]["flags"] = {"incomplete": True}


def _other_digest(storage: ContainersRoot) -> None:
    storage.layers[0]["diff-digest"] = diff_id("other")


def _loop(storage: ContainersRoot) -> None:
    storage.layers[0]["parent"] = "id-a1"


def _short(storage: ContainersRoot) -> None:
    storage.images[0]["layer"] = "id-a0"


def _climbing(storage: ContainersRoot) -> None:
    storage.images[0]["id"] = "../x"


def _no_config(storage: ContainersRoot) -> None:
    for path in (storage.root / "overlay-images").glob("*/=*"):
        path.unlink()


def _other_config(storage: ContainersRoot) -> None:
    for path in (storage.root / "overlay-images").glob("*/=*"):
        path.write_bytes(b"{}")


def _no_manifest(storage: ContainersRoot) -> None:
    for path in (storage.root / "overlay-images").glob("*/manifest"):
        path.unlink()


def _no_tree(storage: ContainersRoot) -> None:
    shutil.rmtree(storage.tree("id-a0"))


@pytest.mark.parametrize(
    ("damage", "kind", "why"),
    [
        (_flag, MalformedImage, "layer 1 of 2 .*not whole"),
        (_other_digest, MalformedImage, "the config says"),
        (_loop, MalformedImage, "more than 4096 layers"),
        (_short, MalformedImage, "lists 2 layers, 1 are there"),
        (_climbing, MalformedImage, "'../x' is no ID"),
        (_no_config, MalformedImage, "its configuration sha256:.* is not there"),
        (_other_config, VerificationFailed, "config: digest is"),
        (_no_manifest, MalformedImage, "its manifest is not there"),
        (_no_tree, MalformedImage, "its directory .* is not there"),
        (lambda s: (s.tree("id-a1").parent / "composefs-data").mkdir(), ImageNotFound, "composefs"),
    ],
)
def test_damage_in_containers(
    opened: Opener,
    storage: ContainersRoot,
    damage: Callable[[ContainersRoot], object],
    kind: type[ImgmountError],
    why: str,
) -> None:
    storage.add("a", "localhost/a:1")
    damage(storage)
    storage.save()
    with pytest.raises(kind, match=why):
        opened(f"containers-storage:[{storage.root}]a:1")


# ---- a layer's tar ------------------------------------------------------------------------


def _segment(data: bytes) -> dict[str, object]:
    return {"type": 2, "payload": base64.b64encode(data).decode(), "position": 0}


def _unpacked(base: Path, *entries: dict[str, object]) -> UnpackedLayer:
    write(base / "split", tar_split(*entries))
    return UnpackedLayer(diff_id("x"), 1, base / "tree", base / "split", "a layer")


def test_a_tar_made_again(tmp_path: Path) -> None:
    write(tmp_path / "tree/d/f", b"contents")
    (tmp_path / "tree/caf\udce9").write_bytes(b"raw")
    raw = base64.b64encode(b"caf\xe9").decode()
    layer = _unpacked(
        tmp_path, _segment(b"<head>"), {"type": 1, "name": "./d/f", "size": 8},
        _segment(b"<pad>"), {"type": 1, "name": "d", "payload": None},
        {"type": 1, "name_raw": raw, "size": 3}, _segment(b"<end>"),
    )  # fmt: skip
    assert b"".join(layer.tar()) == b"<head>contents<pad>raw<end>"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"type": 1, "name": "f", "size": 99}, "91 bytes shorter"),
        ({"type": 1, "name": "gone", "size": 1}, "No such file"),
        ({"type": 1, "name": "../../../../etc/passwd", "size": 1}, "No such file"),
        ({"type": 1, "name": "link", "size": 1}, "symbolic links"),
        ({"type": 1, "name": "linked/passwd", "size": 1}, "symbolic links"),
        ({"type": 1, "name": "d", "size": 1}, "no longer the file"),
        ({"type": 7}, "neither a file nor a segment"),
        ({"type": 2, "payload": "?"}, "payload"),
    ],
)
def test_a_tar_that_cannot_be_made(tmp_path: Path, entry: dict[str, object], why: str) -> None:
    write(tmp_path / "tree/f", b"contents")
    (tmp_path / "tree/link").symlink_to("/etc/passwd")
    (tmp_path / "tree/linked").symlink_to("/etc")
    (tmp_path / "tree/d").mkdir()
    with pytest.raises(MalformedImage, match=why):
        b"".join(_unpacked(tmp_path, entry).tar())


def test_a_split_that_is_cut_or_gone(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    layer = _unpacked(tmp_path, _segment(b"x" * 1000))
    whole = layer.split.read_bytes()
    layer.split.write_bytes(whole[:-10])
    with pytest.raises(MalformedImage, match="split: "):
        b"".join(layer.tar())
    layer.split.write_bytes(json.dumps({}).encode())
    with pytest.raises(MalformedImage, match="split: "):
        b"".join(layer.tar())
    layer.split.unlink()
    with pytest.raises(ImageNotFound, match="keeps nothing to make its tar of"):
        b"".join(layer.tar())
