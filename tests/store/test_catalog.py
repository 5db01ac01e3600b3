"""Checks index.json, the files derived from it, and how images are found by name and ID."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imagewriter import ImageSpec, oci_archive, oci_layout, sha256
from storing import LAYERS, clean, layer, load, names

from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, UsageError
from fusemount.imagename import parse_name
from fusemount.store import Catalog, Store
from fusemount.store.removal import prune, remove
from fusemount.store.summary import Summaries

REF_NAME, FULL_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"


def brought(store: Store, tmp_path: Path, tag: str, text: str = "x") -> Digest:
    archive = oci_archive(tmp_path / "in.tar", [layer(text)], tags=[tag])
    return load(store, archive)[0].digest


def index(store: Store) -> dict[str, object]:
    return dict(json.loads(store.layout.index.read_bytes()))


def repositories(store: Store) -> object:
    return json.loads(store.layout.repositories.read_bytes())["Repositories"]


def test_a_name_is_written_as_others_read_it(store: Store, tmp_path: Path) -> None:
    digest = brought(store, tmp_path, "ubuntu:22.04")
    (entry,) = index(store)["manifests"]  # type: ignore[misc]
    assert entry["digest"] == digest
    assert entry["annotations"] == {
        REF_NAME: "ubuntu:22.04", FULL_NAME: "docker.io/library/ubuntu:22.04",
    }  # fmt: skip


def test_a_name_moves_and_leaves_its_image_dangling(store: Store, tmp_path: Path) -> None:
    one = brought(store, tmp_path, "a:1", "one")
    two = brought(store, tmp_path, "a:1", "two")
    assert store.find("a:1").digest == two
    assert store.find(one).names == () and store.find(one).is_dangling
    store.tag(one, parse_name("b:1"))
    assert names(store) == {"a:1", "b:1"} and not store.find("b:1").is_dangling
    store.tag("b:1", parse_name("a:1"))  # the name moves back: now the other image dangles
    assert store.find(two).is_dangling
    assert {name.familiar for name in store.find(one).names} == {"a:1", "b:1"}
    clean(store, images=2)


def test_a_tag_is_no_id(store: Store, tmp_path: Path) -> None:
    digest = brought(store, tmp_path, "a:1")
    for text in (f"sha256:{digest.hex}", "sha256:1", f"a@{digest}"):
        with pytest.raises(UsageError):
            store.tag("a:1", parse_name(text))


def test_entries_of_others_stay_as_they_are(store: Store, tmp_path: Path) -> None:
    digest = brought(store, tmp_path, "a:1")
    document = index(store)
    (ours,) = document["manifests"]  # type: ignore[misc]
    theirs = [
        {**ours, "annotations": {REF_NAME: "latest"}},
        {**ours, "annotations": {REF_NAME: "Some thing", "x": "y"}, "data": "e30="},
        {**ours, "annotations": {}, "artifactType": "a/b", "urls": ["http://x"],
         "platform": {"os": "windows", "architecture": "amd64", "os.version": "10", "z": [1]}},
        {"mediaType": "m", "digest": "sha512:" + "a" * 128, "size": 3, "q": {"deep": None}},
    ]  # fmt: skip
    document |= {"manifests": [ours, *theirs], "annotations": {"k": "v"}, "strange": 7}
    store.layout.index.write_text(json.dumps(document))
    store.tag("a:1", parse_name("b:1"))
    after = index(store)
    written = after["manifests"]
    assert all(each in written for each in theirs[:2] + theirs[3:])  # type: ignore[operator]
    assert after["annotations"] == {"k": "v"} and after["strange"] == 7
    new = [e for e in written if e.get("annotations", {}).get(REF_NAME) == "b:1"]  # type: ignore
    assert len(new) == 1 and new[0]["digest"] == digest
    assert store.find("Some thing").digest == digest
    assert store.find("latest").digest == digest
    removed = remove(store, "Some thing")
    assert removed.deleted == []
    with pytest.raises(ImageNotFound):
        store.find("Some thing")
    clean(store, images=1)


def test_what_others_named_in_their_way_does_not_dangle(store: Store, tmp_path: Path) -> None:
    brought(store, tmp_path, "a:1")
    document = index(store)
    document["manifests"][0]["annotations"] = {REF_NAME: "Not Ours"}  # type: ignore[index]
    store.layout.index.write_text(json.dumps(document))
    prune(store)
    clean(store, images=1)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"manifests":{}}', b'{"manifests":[{"digest":"sha256:1"}]}', b"\xff\xfe"],
)
def test_a_damaged_index_is_one_line(store: Store, tmp_path: Path, data: bytes) -> None:
    brought(store, tmp_path, "a:1")
    before = sorted(store.layout.blobs.iterdir())
    store.layout.index.write_bytes(data)
    for work in (store.images, lambda: store.find("a:1"), lambda: prune(store, everything=True),
                 lambda: store.tag("a:1", parse_name("b:1"))):  # fmt: skip
        with pytest.raises(MalformedImage, match=r"index\.json") as told:
            work()
        assert "\n" not in str(told.value)
    assert store.layout.index.read_bytes() == data
    assert sorted(store.layout.blobs.iterdir()) == before


def test_an_index_that_is_gone_is_damage_and_not_an_empty_store(
    store: Store, tmp_path: Path
) -> None:
    brought(store, tmp_path, "a:1")
    store.layout.index.unlink()
    with pytest.raises(MalformedImage, match=r"index\.json: not there"):
        prune(store, everything=True)
    assert len(list(store.layout.blobs.iterdir())) == 3


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").images() == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["strange", "index.html"])
def test_something_else_does_not_become_a_store(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ImgmountError, match=name):
        Store(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_blobs_without_a_marker_are_not_taken_over(store: Store, tmp_path: Path) -> None:
    brought(store, tmp_path, "a:1")
    (store.root / "oci-layout").unlink()
    with pytest.raises(ImgmountError, match="oci-layout"):
        Store(store.root, create=True)


# ---- what is derived ----------------------------------------------------------------------


def test_repositories_are_as_docker_has_them(store: Store, tmp_path: Path) -> None:
    digest = brought(store, tmp_path, "localhost:5000/a/b:1")
    ident = store.find(digest).image_id
    known = f"localhost:5000/a/b@{digest}"
    store.change(
        lambda catalog: catalog.with_image(
            store.find(digest).descriptor, [parse_name("ubuntu:22.04")], [known]
        )
    )
    assert repositories(store) == {
        "localhost:5000/a/b": {"localhost:5000/a/b:1": ident, known: ident},
        "ubuntu": {"ubuntu:22.04": ident},
    }
    remove(store, "ubuntu:22.04")
    assert "ubuntu" not in repositories(store)  # type: ignore[operator]
    clean(store, images=1)


def test_layerdb_says_what_the_layers_are(store: Store, tmp_path: Path) -> None:
    load(store, oci_archive(tmp_path / "in", LAYERS, compress="gzip"))
    below = ""
    for tar, row in zip(LAYERS, store.images()[0].summary.layers, strict=True):
        diff_id = "sha256:" + sha256(tar)
        ident = "sha256:" + sha256(f"{below} {diff_id}".encode()) if below else diff_id
        directory = store.layout.layerdb / ident[7:]
        found = {path.name: path.read_text() for path in directory.iterdir()}
        wanted = {"diff": diff_id, "size": str(len(tar)), "cache-id": row.digest.hex}
        assert found == (wanted | {"parent": below} if below else wanted)
        below = ident


@pytest.mark.parametrize("data", [b"", b"{}", b"[]\n[]", b"null\nnull", b"\xff" * 99])
def test_summaries_that_are_no_good_are_found_out_again(
    store: Store, tmp_path: Path, data: bytes
) -> None:
    digest = brought(store, tmp_path, "a:1")
    right = store.find("a:1").summary
    store.layout.summaries.write_bytes(data)
    assert store.find("a:1").summary == right
    store.tag("a:1", parse_name("b:1"))
    assert Summaries(store.layout).of(digest) == right and store.layout.summaries.stat().st_size > 9
    store.layout.summaries.unlink()
    assert store.find("a:1").summary == right


def test_a_summary_that_was_tampered_with_is_not_believed(store: Store, tmp_path: Path) -> None:
    """prune deletes what the summaries list."""
    digest = brought(store, tmp_path, "a:1")
    head, rest = store.layout.summaries.read_bytes().split(b"\n")
    layer_digest = store.find("a:1").summary.layers[0].digest
    wrong = rest.replace(layer_digest.encode(), b"sha256:" + b"0" * 64)
    assert wrong != rest
    store.layout.summaries.write_bytes(head + b"\n" + wrong)
    prune(store)
    assert store.layout.blob(layer_digest).exists()
    assert Summaries(store.layout).of(digest).layers[0].digest == layer_digest
    clean(store, images=1)


def test_the_summary_of_an_index_knows_what_came_later(store: Store, tmp_path: Path) -> None:
    """Another pull brings another platform of an index that the store has already."""
    images = [
        ImageSpec([layer(arch)], config={"architecture": arch}) for arch in ("amd64", "arm64")
    ]
    layout = oci_layout(tmp_path / "in", images=images, nested="multi:1")
    top = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    listed = json.loads((layout / "blobs/sha256" / top[7:]).read_bytes())["manifests"]
    second = layout / "blobs/sha256" / listed[1]["digest"][7:]
    data = second.read_bytes()
    second.unlink()
    load(store, layout)
    assert len(store.find("multi:1").summary.children) == 1
    second.write_bytes(data)
    load(store, layout)
    assert len(store.find("multi:1").summary.children) == 2
    prune(store)
    clean(store, images=1)
    assert store.layout.blob(Digest(listed[1]["digest"])).exists()


# ---- finding ------------------------------------------------------------------------------


def test_an_image_is_found(store: Store, tmp_path: Path) -> None:
    digest = brought(store, tmp_path, "docker.io/library/ubuntu:22.04")
    store.tag(digest, parse_name("ubuntu"))
    store.tag(digest, parse_name("localhost/own:1"))
    ident = store.find(digest).image_id
    for text in (
        "ubuntu:22.04", "ubuntu", "ubuntu:latest", "library/ubuntu", "docker.io/library/ubuntu",
        "localhost/own:1", "own:1", f"ubuntu@{digest}", f"ubuntu:22.04@{digest}",
        f"index.docker.io/library/ubuntu@{digest}", digest, digest.hex, digest.hex[:12], ident,
        ident.hex, ident.hex[:7], ident[:19],
    ):  # fmt: skip
        assert store.find(text).digest == digest, text
    other = Digest.of(b"other")
    for text in ("debian", "ubuntu:1", "x/own:1", f"ubuntu@{other}", f"debian@{digest}", "f" * 12,
                 "UBUNTU", "", other, "own"):  # fmt: skip
        with pytest.raises(ImageNotFound) as told:
            store.find(text)
        assert "\n" not in str(told.value)


def test_what_is_not_found_says_what_is_alike(store: Store, tmp_path: Path) -> None:
    brought(store, tmp_path, "ubuntu:22.04")
    with pytest.raises(ImageNotFound, match=r"it has ubuntu:22\.04"):
        store.find("ubuntu:24.04")


def test_a_short_id_of_several_is_ambiguous(store: Store, tmp_path: Path) -> None:
    digests = [brought(store, tmp_path, f"a:{n}", f"text {n}") for n in range(30)]
    ids = [store.find(digest).image_id.hex for digest in digests]
    first = max("0123456789abcdef", key=lambda digit: sum(i.startswith(digit) for i in ids))
    twice = [i[:2] for i in ids]
    prefix = next((p for p in twice if twice.count(p) > 1), None)
    assert prefix is not None, f"30 texts give no two IDs alike: {first}"
    with pytest.raises(ImageNotFound, match="several images"):
        store.find(prefix)


def test_a_name_goes_before_an_id(store: Store, tmp_path: Path) -> None:
    one = brought(store, tmp_path, "a:1", "one")
    two = brought(store, tmp_path, "b:1", "two")
    short = store.find(one).image_id.hex[:12]
    store.tag(two, parse_name(short))
    assert store.find(short).digest == two
    assert store.find(store.find(one).image_id).digest == one


def test_of_two_entries_with_one_tag_the_last_counts(store: Store, tmp_path: Path) -> None:
    brought(store, tmp_path, "a:1", "one")
    two = brought(store, tmp_path, "b:1", "two")
    document = index(store)
    for entry in document["manifests"]:  # type: ignore[attr-defined]
        entry["annotations"] = {REF_NAME: "a:1"}
    store.layout.index.write_text(json.dumps(document))
    assert store.find("a:1").digest == two
    assert Catalog.read(store.layout).tagged(parse_name("a:1")).digest == two  # type: ignore


def test_what_could_not_be_read_again_is_not_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image with a million names would make the whole store unreadable."""
    brought(store, tmp_path, "a:1")
    before = store.layout.index.read_bytes()
    monkeypatch.setattr("fusemount.store.catalog.INDEX_BYTES_MAX", len(before) + 100)
    many = oci_archive(tmp_path / "b.tar", [layer("b")], tags=[f"name{i}:1" for i in range(50)])
    with pytest.raises(ImgmountError, match="too many names"):
        load(store, many)
    assert len(store.layout.index.read_bytes()) <= len(before) + 100
    assert store.find("a:1")
