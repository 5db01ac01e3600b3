"""Pulls images that skopeo and others pushed: IDs and digests stay the same."""

from __future__ import annotations

import json

import pytest
from imagewriter import ImageSpec, oci_files, sha256
from manifests import PLATFORMS, attestation, dockers, platforms
from oracle import run
from picture import Pictured
from realregistry import RealRegistry
from storing import clean, layer, names
from transferring import inspected, layer_digests, pulled, raw, shown, skopeo_copy, upload

from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, PlatformMismatch
from fusemount.imagename import parse_name
from fusemount.settings import Platform
from fusemount.store import Store
from fusemount.transfer.pull import PullOptions, all_tags

FORMS = {
    "oci-gzip": ("--format", "oci"),
    "v2s2-gzip": ("--format", "v2s2"),
    "oci-zstd": ("--format", "oci", "--dest-compress-format", "zstd"),
}  # fmt: skip


def check_pulled(store: Store, where: str, pictured: Pictured) -> None:
    """Compares with skopeo's output and with the archive."""
    came = pulled(store, where)
    manifest = raw(where)
    image = came.pulled.image
    # A manifest of Docker's types has an OCI counterpart.
    own = image.summary.original or image.digest
    assert came.pulled.digest == own == Digest.of(manifest)
    assert image.image_id == json.loads(manifest)["config"]["digest"]
    assert [row.digest for row in image.summary.layers] == layer_digests(manifest)
    config = inspected(where, "--config")
    assert [row.diff_id for row in image.summary.layers] == config["rootfs"]["diff_ids"]
    assert [row.diff_id for row in image.summary.layers] == [
        "sha256:" + sha256(each) for each in pictured.layers
    ]
    assert image.repo_digests == (f"{where.rpartition(':')[0]}@{Digest.of(manifest)}",)
    assert set(came.words) == {"Pull complete"} and came.pulled.new
    assert shown(store, where) == pictured.lines
    clean(store, images=1)


@pytest.mark.parametrize("form", FORMS)
def test_what_skopeo_pushed(
    store: Store, registry: RealRegistry, pictured: Pictured, form: str
) -> None:
    where = f"{registry.domain}/skopeo/{form}:1"
    source = f"docker-archive:{pictured.archive}"
    skopeo_copy(source, f"docker://{where}", "--dest-tls-verify=false", *FORMS[form])
    check_pulled(store, where, pictured)


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_what_stands_otherwise(
    store: Store, registry: RealRegistry, pictured: Pictured, compress: str
) -> None:
    where = f"{registry.domain}/raw/{compress}:1"
    files = oci_files([ImageSpec(pictured.layers, tags=("t",), compress=compress)])
    upload(registry.domain, f"raw/{compress}", "1", files)
    check_pulled(store, where, pictured)


def test_a_layouts_readers_know_what_docker_pushed(
    store: Store, registry: RealRegistry, pictured: Pictured
) -> None:
    """They find only OCI's media types; `umoci gc` deletes what no OCI manifest leads to."""
    where = f"{registry.domain}/readers/a:1"
    source = f"docker-archive:{pictured.archive}"
    skopeo_copy(source, f"docker://{where}", "--dest-tls-verify=false", "--format", "v2s2")
    image = pulled(store, where).pulled.image
    assert image.summary.original is not None
    document = json.loads(run("skopeo", "inspect", f"oci:{store.root}:{where}").stdout)
    assert document["Digest"] == image.digest
    assert len(document["Layers"]) == len(pictured.layers)
    run("umoci", "gc", "--layout", store.root)
    assert not store.layout.blob(image.summary.original).exists()
    clean(store, images=1)
    assert store.find(where).image_id == image.image_id


def test_uncompressed_layers_in_dockers_words(
    store: Store, registry: RealRegistry, pictured: Pictured
) -> None:
    files = dockers(oci_files([ImageSpec(pictured.layers, tags=("t",))]))
    upload(registry.domain, "raw/docker", "1", files)
    check_pulled(store, f"{registry.domain}/raw/docker:1", pictured)


def test_again_and_what_is_there(store: Store, registry: RealRegistry, pictured: Pictured) -> None:
    """The second pull says that it exists; another image with the same layers brings none."""
    spec = ImageSpec(pictured.layers, tags=("t",), compress="gzip")
    upload(registry.domain, "again/a", "1", oci_files([spec]))
    first = pulled(store, f"{registry.domain}/again/a:1")
    second = pulled(store, f"{registry.domain}/again/a:1")
    assert set(second.words) == {"Already exists"} and not second.pulled.new
    assert second.pulled.image.digest == first.pulled.image.digest
    more = ImageSpec([*pictured.layers, layer("more")], tags=("t",), compress="gzip")
    upload(registry.domain, "again/a", "1", oci_files([more]))
    third = pulled(store, f"{registry.domain}/again/a:1")
    assert third.pulled.new
    assert third.words == ["Already exists"] * len(pictured.layers) + ["Pull complete"]
    assert store.find(f"{registry.domain}/again/a:1").digest == third.pulled.image.digest
    assert [i.names for i in store.images() if i.digest == first.pulled.image.digest] == [()]
    clean(store, images=2)


def test_one_platform_of_several(store: Store, registry: RealRegistry) -> None:
    digest = upload(registry.domain, "multi/a", "1", platforms())
    name = f"{registry.domain}/multi/a:1"
    for arch in PLATFORMS:
        came = pulled(store, name, platform=Platform("linux", arch))
        config = inspected(name, "--config", "--override-arch", arch)
        assert config["architecture"] == arch
        image = came.pulled.image
        assert [row.diff_id for row in image.summary.layers] == config["rootfs"]["diff_ids"]
        assert came.pulled.digest == digest
        assert store.find(f"{registry.domain}/multi/a@{digest}").digest == image.digest
        assert store.find(name).digest == image.digest
    with pytest.raises(PlatformMismatch, match=r"no image for linux/ppc64le, only for linux/amd64"):
        pulled(store, name, platform=Platform("linux", "ppc64le"))
    clean(store, images=3)


def test_all_platforms_without_attestations(store: Store, registry: RealRegistry) -> None:
    more, entry = attestation()
    digest = upload(registry.domain, "multi/b", "1", platforms(entry) | more)
    name = f"{registry.domain}/multi/b:1"
    one = pulled(store, name)
    assert one.pulled.image.summary.platform == f"linux/{one.pulled.image.summary.platform[6:]}"
    assert "unknown" not in one.pulled.image.summary.platform
    came = pulled(store, name, all_platforms=True)
    assert came.pulled.image.digest == digest == came.pulled.digest
    assert len(came.pulled.image.summary.children) == 3
    clean(store)


def test_by_digest(store: Store, registry: RealRegistry, pictured: Pictured) -> None:
    """A name without a tag; a tag beside a digest is ignored, as in docker."""
    spec = ImageSpec(pictured.layers, tags=("t",), compress="gzip")
    digest = upload(registry.domain, "by/digest", "1", oci_files([spec]))
    where = f"{registry.domain}/by/digest"
    came = pulled(store, f"{where}@{digest}")
    assert came.pulled.image.digest == digest and came.pulled.image.names == ()
    assert pulled(store, f"{where}:nonsense@{digest}").pulled.image.names == ()
    for text in (f"{where}@{digest}", f"{where}:any@{digest}", digest, digest[7:19]):
        assert store.find(text).digest == digest
    assert names(store) == set()
    with pytest.raises(ImageNotFound):
        pulled(store, f"{where}@sha256:{'0' * 64}")
    clean(store, images=1)


def test_every_tag(store: Store, registry: RealRegistry) -> None:
    for tag in ("1", "2", "latest"):
        spec = ImageSpec([layer("all"), layer(tag)], tags=("t",), compress="gzip")
        upload(registry.domain, "all/tags", tag, oci_files([spec]))
    found = all_tags(parse_name(f"{registry.domain}/all/tags"), PullOptions())
    assert {name.tag for name in found} == {"1", "2", "latest"}
    for name in found:
        pulled(store, str(name))
    assert names(store) == {f"{registry.domain}/all/tags:{t}" for t in ("1", "2", "latest")}
    clean(store, images=3)


def test_what_is_not_there(store: Store, registry: RealRegistry) -> None:
    for text in ("nothing/here:1", "multi/a:nosuch"):
        with pytest.raises(ImageNotFound) as told:
            pulled(store, f"{registry.domain}/{text}")
        assert text in str(told.value) and "\n" not in str(told.value)
    clean(store, images=0)
