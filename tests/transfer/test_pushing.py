"""Pushes to docker-registry and compares with skopeo; no blob is uploaded twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imagewriter import ImageSpec, docker_archive, oci_files, sha256, write_archive
from manifests import attestation, dockers, platforms
from mounted import Command, mounted
from picture import Pictured
from realregistry import RealRegistry
from storing import clean, layer, load
from transferring import dumped, inspected, pulled, pushed, raw, shown, skopeo_copy, upload

from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, MalformedImage
from fusemount.store import Store

OCI = "application/vnd.oci.image."


def as_skopeo_copies(where: str, base: Path) -> list[bytes]:
    """The dump of a layout into which skopeo, which verifies, has brought it."""
    base.mkdir()
    skopeo_copy(f"docker://{where}", f"oci:{base}/layout:t", "--src-tls-verify=false")
    return dumped(f"oci:{base}/layout:t", base)


def test_as_it_was_pulled(
    store: Store, registry: RealRegistry, pictured: Pictured, tmp_path: Path
) -> None:
    where, there = f"{registry.domain}/asis/a:1", f"{registry.domain}/asis/b:2"
    source = f"oci:{pictured.layout}:t"
    skopeo_copy(source, f"docker://{where}", "--dest-tls-verify=false", "--format", "v2s2")
    pulled(store, where)
    went = pushed(store, where, there)
    assert raw(there) == raw(where) and went.pushed.digest == Digest.of(raw(there))
    layers = [f"Mounted from {where.split('/', 1)[1][:-2]}"] * len(pictured.layers)
    assert went.words == [*layers, "Pushed"]
    assert set(pushed(store, where, there).words) == {"Layer already exists"}
    assert set(pushed(store, where, where).words) == {"Layer already exists"}
    assert store.find(f"{there[:-2]}@{went.pushed.digest}").digest == store.find(where).digest
    assert as_skopeo_copies(there, tmp_path / "copied") == pictured.lines
    clean(store, images=1)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_plain_layers_are_compressed(
    store: Store, other: Store, registry: RealRegistry, pictured: Pictured, tmp_path: Path, how: str
) -> None:
    load(store, pictured.archive)
    where = f"{registry.domain}/packed/{how}:1"
    went = pushed(store, "pictured:1", where, compression=Compression(how))
    assert set(went.words) == {"Pushed"}
    manifest = json.loads(raw(where))
    kinds = {entry["mediaType"] for entry in manifest["layers"]}
    assert kinds == {f"{OCI}layer.v1.tar+{how}"}
    assert manifest["config"]["digest"] == store.find("pictured:1").image_id
    config = inspected(where, "--config")
    assert config["rootfs"]["diff_ids"] == ["sha256:" + sha256(x) for x in pictured.layers]
    assert as_skopeo_copies(where, tmp_path / "copied") == pictured.lines
    again = pushed(store, "pictured:1", where, compression=Compression(how))
    assert set(again.words) == {"Layer already exists"}
    assert again.pushed == went.pushed
    elsewhere = f"{registry.domain}/elsewhere/{how}:1"
    moved = pushed(store, "pictured:1", elsewhere, compression=Compression(how))
    assert moved.words == [f"Mounted from packed/{how}"] * len(pictured.layers) + ["Pushed"]
    assert raw(elsewhere) == raw(where)
    assert pulled(other, where).pulled.image.image_id == store.find("pictured:1").image_id
    assert shown(other, where) == pictured.lines
    clean(store, images=1)
    clean(other, images=1)


def test_another_compression_is_another_blob(
    store: Store, other: Store, registry: RealRegistry, pictured: Pictured
) -> None:
    load(store, pictured.archive)
    where = f"{registry.domain}/several/compressions"
    for how in ("zstd", "gzip", "zstd", "none"):
        pushed(store, "pictured:1", f"{where}:{how}", compression=Compression(how))
        kinds = {entry["mediaType"] for entry in json.loads(raw(f"{where}:{how}"))["layers"]}
        assert kinds == {f"{OCI}layer.v1.tar" + ("" if how == "none" else f"+{how}")}
        pulled(other, f"{where}:{how}")
        assert shown(other, f"{where}:{how}") == pictured.lines
    clean(other)


def test_docker_s_manifest_keeps_its_words(
    store: Store, other: Store, registry: RealRegistry, pictured: Pictured
) -> None:
    docker = "application/vnd.docker."
    upload(
        registry.domain, "words/a", "1",
        dockers(oci_files([ImageSpec(pictured.layers, tags=("t",))])),
    )  # fmt: skip
    pulled(store, f"{registry.domain}/words/a:1")
    for how, suffix in (("gzip", ".gzip"), ("zstd", "")):
        where = f"{registry.domain}/words/{how}:1"
        pushed(store, f"{registry.domain}/words/a:1", where, compression=Compression(how))
        manifest = json.loads(raw(where))
        assert manifest["mediaType"] == docker + "distribution.manifest.v2+json"
        kinds = {entry["mediaType"] for entry in manifest["layers"]}
        assert kinds == {docker + "image.rootfs.diff.tar" + suffix}
        pulled(other, where)
        assert shown(other, where) == pictured.lines


def test_a_layer_that_is_twice_in_an_image(
    store: Store, registry: RealRegistry, tmp_path: Path
) -> None:
    same = layer("same")
    load(store, docker_archive(tmp_path / "twice.tar", [same, layer("x"), same], tags=["twice:1"]))
    went = pushed(store, "twice:1", f"{registry.domain}/twice:1")
    assert len(went.begun) == 3  # two layers and the config
    digests = [entry["digest"] for entry in json.loads(raw(f"{registry.domain}/twice:1"))["layers"]]
    assert digests[0] == digests[2] != digests[1]
    pulled(store, f"{registry.domain}/twice:1")
    clean(store)


def test_all_platforms(store: Store, registry: RealRegistry) -> None:
    where, there = f"{registry.domain}/every/a:1", f"{registry.domain}/every/b:1"
    upload(registry.domain, "every/a", "1", platforms())
    pulled(store, where, all_platforms=True)
    pushed(store, where, there)
    assert raw(there) == raw(where)
    for arch in ("amd64", "arm64", "s390x"):
        assert inspected(there, "--config", "--override-arch", arch)["architecture"] == arch


def test_an_index_without_its_attestation(store: Store, registry: RealRegistry) -> None:
    """The pull left it out.  It stays if the registry has it, and is left out if not."""
    more, entry = attestation()
    where, there = f"{registry.domain}/attested/a:1", f"{registry.domain}/attested/b:1"
    upload(registry.domain, "attested/a", "1", platforms(entry) | more)
    pulled(store, where, all_platforms=True)
    pushed(store, where, f"{where}again")
    assert raw(f"{where}again") == raw(where)
    pushed(store, where, there)
    children = [each["platform"]["os"] for each in json.loads(raw(there))["manifests"]]
    assert children == ["linux"] * 3
    assert len(json.loads(raw(where))["manifests"]) == 4


def test_an_index_of_which_a_part_is_here(
    store: Store, other: Store, registry: RealRegistry, tmp_path: Path
) -> None:
    """It is pushed only to a registry that has the other manifests."""
    where = f"{registry.domain}/part/a:1"
    upload(registry.domain, "part/a", "1", platforms())
    pulled(store, where, all_platforms=True)
    index = json.loads(raw(where))
    store.layout.blob(Digest(index["manifests"][1]["digest"])).unlink()
    with pytest.raises(ImageNotFound, match=r"linux/arm64.*--all-platforms"):
        pushed(store, where, f"{registry.domain}/part/b:1")
    assert raw(where) == json.dumps(index).encode() or pushed(store, where, f"{where}again")


def test_what_was_committed(registry: RealRegistry, pictured: Pictured, tmp_path: Path) -> None:
    command = Command(tmp_path / "dirs")
    where = f"{registry.domain}/committed/a:1"
    with mounted(command, pictured.archive, tmp_path / "m") as at:
        (at / "new").write_text("new\n")
        (at / "etc/motd").unlink()
        ident = command("commit", at, "changed:1").stdout.strip()
    told = command("push", "changed:1", where).stdout
    assert f"The push refers to repository [{where[:-2]}]" in told
    assert f"1: digest: {Digest.of(raw(where))} size: {len(raw(where))}" in told
    assert json.loads(raw(where))["config"]["digest"] == ident
    lines = as_skopeo_copies(where, tmp_path / "copied")
    assert lines == dumped("changed:1", tmp_path / "d", tmp_path / "dirs/root")
    paths = {line.split()[0] for line in lines}
    assert b"/new" in paths and b"/etc/motd" not in paths and b"/etc/passwd" in paths
    clean(Store(tmp_path / "dirs/root"), images=1)


def test_an_original_that_is_only_claimed(
    store: Store, registry: RealRegistry, tmp_path: Path
) -> None:
    """Whoever makes an image may write any digest into the annotation."""
    private = oci_files([ImageSpec([layer("private")], tags=("private",))])
    load(store, write_archive(tmp_path / "private.tar", private))
    files = oci_files([ImageSpec([layer("shown")], tags=("shown",))])
    (top,) = json.loads(bytes(files["index.json"]))["manifests"]  # type: ignore[arg-type]
    manifest = json.loads(bytes(files[f"blobs/sha256/{top['digest'][7:]}"]))  # type: ignore[arg-type]
    original = store.find("private").digest
    data = json.dumps(manifest | {"annotations": {"dev.imgmount.original": original}}).encode()
    files[f"blobs/sha256/{sha256(data)}"] = data
    top |= {"digest": f"sha256:{sha256(data)}", "size": len(data)}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    load(store, write_archive(tmp_path / "shown.tar", files))
    where = f"{registry.domain}/claimed/a:1"
    pushed(store, "shown", where)
    assert json.loads(raw(where))["config"] == manifest["config"]


def test_a_manifest_that_compression_makes_too_long(
    store: Store, registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = load(store, docker_archive(tmp_path / "in.tar", [layer("x")], tags=["a:1"]))
    size = len(store.layout.document(image.digest))
    monkeypatch.setattr("fusemount.image.fields.parse_json.__defaults__", (size + 1,))
    where = f"{registry.domain}/long/a:1"
    with pytest.raises(MalformedImage, match=rf"for the registry: .* the limit is {size + 1}"):
        pushed(store, "a:1", where)
    with pytest.raises(ImageNotFound):
        pulled(store, where)


def test_an_oci_form_that_is_too_long(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form has one more annotation than the manifest with Docker's media types."""
    files = dockers(oci_files([ImageSpec([layer("x")], tags=("t",))]))
    (top,) = json.loads(bytes(files["index.json"]))["manifests"]  # type: ignore[arg-type]
    archive = write_archive(tmp_path / "in.tar", files)
    monkeypatch.setattr("fusemount.image.fields.parse_json.__defaults__", (top["size"] + 1,))
    with pytest.raises(MalformedImage, match=rf"the OCI form of manifest {top['digest']}.* limit"):
        load(store, archive)
    assert len(list(store.layout.blobs.iterdir())) == 3  # as the archive has, for prune to delete
