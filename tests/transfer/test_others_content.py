"""An image consists of what came with it: a digest alone brings it nothing of the store's other
images, which a push, save or copy would publish as parts of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from imagewriter import (
    Files,
    ImageSpec,
    docker_files,
    oci_archive,
    oci_files,
    sha256,
    write_archive,
    write_directory,
)
from manifests import bytes_of
from realregistry import RealRegistry
from storewriter import DockerRoot, config_of, tar_split, write
from storing import clean, layer, load, names, save
from transferring import copied, pushed, shown

from fusemount.cli.main import main
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, MalformedImage, VerificationFailed
from fusemount.image.model import OCI
from fusemount.store import Store
from fusemount.store.removal import remove

PRIVATE = ImageSpec([layer("private")], tags=("private",))
SHOWN = ImageSpec([layer("shown")], tags=("shown",))


def top(files: Files) -> dict[str, object]:
    (entry,) = json.loads(bytes_of(files, "index.json"))["manifests"]
    assert isinstance(entry, dict)
    return {key: value for key, value in entry.items() if key != "annotations"}


def listing(name: str, files: Files, *entries: dict[str, object]) -> Files:
    """The blobs, and an index of that name with these entries."""
    kind = OCI + "index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    note = {"org.opencontainers.image.ref.name": name}
    entry = {"mediaType": kind, "digest": Digest.of(data), "size": len(data), "annotations": note}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return files | {"blobs/sha256/" + sha256(data): data, "index.json": index}


def test_a_manifest_that_did_not_come(
    store: Store, other: Store, registry: RealRegistry, tmp_path: Path
) -> None:
    private, own = oci_files([PRIVATE]), oci_files([SHOWN])
    write_archive(tmp_path / "private.tar", private)
    write_archive(tmp_path / "claims.tar", listing("claims", own, top(own), top(private)))
    secret = bytes_of(private, f"blobs/sha256/{str(top(private)['digest'])[7:]}")
    for loads in (("private.tar", "claims.tar"), ("claims.tar", "private.tar")):
        for name in loads:
            load(store, tmp_path / name)
        assert store.find("claims").summary.children == (top(own)["digest"],)
        with pytest.raises(
            ImageNotFound, match=rf"{top(private)['digest']} .* did not come with it"
        ):
            pushed(store, "claims", f"{registry.domain}/others/claims:1")
        for form in ("oci-archive", "docker-archive"):
            saved = save(store, "claims", form, tmp_path / f"{form}.tar").read_bytes()
            assert PRIVATE.layers[0] not in saved and secret not in saved
        load(other, tmp_path / "oci-archive.tar")
        assert shown(store, "claims") == shown(other, "claims")
        copied(f"store:[{store.root}]claims", f"store:[{other.root}]again:1", tmp_path / "d")
        assert not other.layout.has_blob(Digest.of(secret))
        clean(store, images=2)
        remove(store, "claims")
        assert shown(store, "private")
        remove(store, "private")
        clean(store, images=0)


def test_a_manifest_that_comes_later(store: Store, tmp_path: Path) -> None:
    """One load of an index adds to what another one brought."""
    one, two = oci_files([PRIVATE]), oci_files([SHOWN])
    entries = (top(one), top(two))
    for files, there in ((one, 1), (two, 2), (one, 2)):
        load(store, write_archive(tmp_path / "in.tar", listing("both", files, *entries)))
        assert len(store.find("both").summary.children) == there
    clean(store, images=1)
    store.layout.children(store.find("both").digest).unlink()  # as if another program had brought
    assert len(store.find("both").summary.children) == 2  # the index
    load(store, tmp_path / "in.tar")
    assert len(store.find("both").summary.children) == 2


def test_an_index_that_lists_a_layer(store: Store, tmp_path: Path) -> None:
    """It is no manifest, be it there before the index or after it."""
    files, other = oci_files([PRIVATE]), oci_files([SHOWN])
    blobs = [name for name in files if name.startswith("blobs/")]
    entries = [
        top(files) | {"digest": f"sha256:{name[13:]}", "size": len(bytes_of(files, name))}
        for name in blobs
    ]
    write_archive(tmp_path / "index.tar", listing("index", other, top(other), *entries))
    write_archive(tmp_path / "image.tar", files)
    for loads in (("image.tar", "index.tar"), ("index.tar", "image.tar")):
        for name in loads:
            load(store, tmp_path / name)
        clean(store, images=2)
        for name in ("private", "index"):
            remove(store, name)


@pytest.mark.parametrize("what", ["config", "layers"])
def test_a_blob_that_is_not_in_the_layout(store: Store, tmp_path: Path, what: str) -> None:
    """The store has it of an image that nobody had to give to whoever made this one."""
    private = oci_files([PRIVATE])
    load(store, write_directory(tmp_path / "private", private))
    manifest = json.loads(bytes_of(private, f"blobs/sha256/{str(top(private)['digest'])[7:]}"))
    entry = manifest[what] if what == "config" else manifest[what][0]
    name = f"blobs/sha256/{entry['digest'][7:]}"
    left = {key: value for key, value in private.items() if key != name}
    left["index.json"] = json.dumps({"manifests": [top(private)]}).encode()
    remove(store, "private")
    load(store, write_archive(tmp_path / "again.tar", private))
    with pytest.raises(MalformedImage, match=r"not in it|not there"):
        load(store, write_archive(tmp_path / "without.tar", left))
    if what == "layers":  # nor is a part that was left by a pull a part of the archive
        remove(store, "private")
        store.layout.part(Digest(entry["digest"])).write_bytes(PRIVATE.layers[0])
        with pytest.raises(MalformedImage, match="not in it"):
            load(store, write_archive(tmp_path / "without.tar", left))
        load(store, tmp_path / "again.tar")
    other = left | {name: bytes(entry["size"])}
    with pytest.raises(VerificationFailed, match=rf"digest is \S+, .*{entry['digest']}"):
        load(store, write_archive(tmp_path / "wrong.tar", other))
    clean(store, images=1)


def test_a_layer_of_other_bytes_in_a_docker_archive(store: Store, tmp_path: Path) -> None:
    load(store, oci_archive(tmp_path / "private.tar", images=[PRIVATE]))
    files = docker_files([ImageSpec(PRIVATE.layers, tags=("claims:1",))], "1.10")
    (name,) = (name for name, data in files.items() if data == PRIVATE.layers[0])
    files[name] = layer("guessed")  # of the same size
    with pytest.raises(VerificationFailed, match="diff_id"):
        load(store, write_archive(tmp_path / "claims.tar", files))
    assert names(store) == {"private:latest"}
    clean(store, images=1)


def test_an_unpacked_layer_of_which_only_the_diff_id_is_there(store: Store, tmp_path: Path) -> None:
    """The data root of another user names the layer, and has no files of it, and no tar-split."""
    load(store, oci_archive(tmp_path / "private.tar", images=[PRIVATE]))
    diff_id, docker = Digest.of(PRIVATE.layers[0]), DockerRoot(tmp_path / "docker")
    assert store.layout.has_blob(diff_id)
    config = config_of([diff_id])
    ident = Digest.of(config)
    write(docker.image / "imagedb/content/sha256" / ident.hex, config)
    docker.add_layer(docker.layer(diff_id), "claims0", diff_id)
    named = {"Repositories": {"claims": {"claims:1": ident}}}
    write(docker.image / "repositories.json", json.dumps(named))
    claims = f"docker:[{docker.root}]claims:1"
    with pytest.raises(ImageNotFound, match="keeps nothing to make its tar of"):
        copied(claims, "claims:1", store.root.parent)
    split = docker.layer(diff_id) / "tar-split.json.gz"
    split.write_bytes(tar_split({"type": 2, "payload": base64.b64encode(layer("x")).decode()}))
    with pytest.raises(VerificationFailed, match="the manifest says"):
        copied(claims, "claims:1", store.root.parent)
    assert names(store) == {"private:latest"}
    split.write_bytes(
        tar_split({"type": 2, "payload": base64.b64encode(PRIVATE.layers[0]).decode()})
    )
    copied(claims, "claims:1", store.root.parent)
    assert names(store) == {"private:latest", "claims:1"}


def test_a_commit_over_a_layer_of_other_bytes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --no-verify the base's layer is what its bytes are, whatever digest names them."""
    load(store, oci_archive(tmp_path / "private.tar", images=[PRIVATE]))
    files = oci_files([PRIVATE])
    files[f"blobs/sha256/{sha256(PRIVATE.layers[0])}"] = layer("guessed")  # of the same size
    base = write_directory(tmp_path / "layout", files)
    (tmp_path / "upper").mkdir()
    for kind, name in (("CACHE", "c"), ("STATE", "s"), ("RUNTIME", "r"), ("ROOT", "root")):
        monkeypatch.setenv(f"IMGMOUNT_{kind}_DIR", str(tmp_path / name))
    words = ["commit", "--no-verify", "--base", f"oci:{base}", str(tmp_path / "upper"), "claims:1"]
    code = main(words)
    assert code != 0 or b"private" not in b"".join(shown(store, "claims:1"))
    assert code == VerificationFailed.exit_code and names(store) == {"private:latest"}
