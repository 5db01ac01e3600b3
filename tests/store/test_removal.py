"""Checks which names, layers and images a removal takes away, and which stay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from bringing import another_holds, assert_empty, brought
from imagewriter import ImageSpec, oci_archive, oci_layout
from storing import checked, clean, files, layer, load, names

from fusemount.digest import Digest, chain_ids
from fusemount.errors import ImageInUse, ImageNotFound
from fusemount.image.model import Descriptor
from fusemount.imagename import ImageName, parse_name
from fusemount.store import Entry, Layout, Store, children
from fusemount.store.intake import put_document
from fusemount.store.locks import MOUNT
from fusemount.store.removal import Removed, prune, remove, remove_all, users
from fusemount.store.summary import Summaries
from fusemount.store.usage import usage


def test_the_last_name_takes_the_image_along(store: Store, tmp_path: Path) -> None:
    image = brought(store, tmp_path, "a:1", "x", "y", how="gzip")
    store.tag("a:1", parse_name("b:1"))
    removed = remove(store, "a:1")
    assert (removed.untagged, removed.deleted) == (["a:1"], [])
    clean(store, images=1)
    removed = remove(store, "b:1")
    chain = chain_ids([row.diff_id for row in image.summary.layers])
    assert removed.untagged == ["b:1"]
    assert removed.deleted == [image.image_id, image.digest, *reversed(chain)]
    assert removed.freed > 0
    assert_empty(store)


def test_an_id_of_several_names_asks_for_force(store: Store, tmp_path: Path) -> None:
    image = brought(store, tmp_path, "a:1", "x")
    store.tag("a:1", parse_name("b:1"))
    with pytest.raises(ImageInUse, match="a:1, b:1"):
        remove(store, image.image_id.hex[:12])
    assert remove(store, image.image_id.hex[:12], force=True).untagged == ["a:1", "b:1"]
    assert_empty(store)


def test_a_digest_means_the_names_of_its_repository(store: Store, tmp_path: Path) -> None:
    image = brought(store, tmp_path, "a:1", "x")
    store.tag("a:1", parse_name("a:2"))
    store.tag("a:1", parse_name("b:1"))
    assert remove(store, f"a@{image.digest}").untagged == ["a:1", "a:2"]
    assert names(store) == {"b:1"}
    with pytest.raises(ImageNotFound):
        remove(store, f"a@{image.digest}")


@pytest.mark.parametrize("text", ["", "a:2", "sha256:", "A", "f" * 12])
def test_what_is_not_there_takes_nothing(store: Store, tmp_path: Path, text: str) -> None:
    brought(store, tmp_path, "a:1", "x")
    before = files(store)
    with pytest.raises(ImageNotFound):
        remove(store, text, force=True)
    assert files(store) == before


def test_shared_layers_stay(store: Store, tmp_path: Path) -> None:
    brought(store, tmp_path, "a:1", "base", "a", how="gzip")
    brought(store, tmp_path, "b:1", "base", "b", how="gzip")
    assert len(list(store.layout.blobs.iterdir())) == 3 + 2 + 2
    remove(store, "a:1")
    clean(store, images=1)
    assert len(list(store.layout.blobs.iterdir())) == 2 + 2
    remove(store, "b:1")
    assert_empty(store)


def test_one_layer_in_two_compressions(store: Store, tmp_path: Path) -> None:
    """layerdb has the layer once.  Its cache-id leads to a blob that exists, whichever goes."""
    for first, second in (("gzip", "none"), ("none", "gzip")):
        brought(store, tmp_path, "a:1", "base", how=first)
        brought(store, tmp_path, "b:1", "base", how=second)
        assert store.find("a:1").image_id == store.find("b:1").image_id
        remove(store, "a:1")
        clean(store, images=1)
        (directory,) = store.layout.layerdb.iterdir()
        wanted = store.find("b:1").summary.layers[0].digest.hex
        assert (directory / "cache-id").read_text() == wanted
        remove(store, "b:1")
        assert_empty(store)


def test_an_index_goes_with_all_that_only_it_has(store: Store, tmp_path: Path) -> None:
    arm = ImageSpec([layer("base"), layer("arm")], config={"architecture": "arm64"})
    amd = ImageSpec([layer("base"), layer("amd")])
    load(store, oci_layout(tmp_path / "one", images=[amd, arm], nested="multi:1"))
    load(store, oci_archive(tmp_path / "two", images=[amd]))
    clean(store, images=2)
    remove(store, "multi:1")
    clean(store, images=1)
    assert len(list(store.layout.blobs.iterdir())) == 2 + 2
    load(store, tmp_path / "one")
    remove(store, "test:latest")
    clean(store, images=1)
    assert len(store.find("multi:1").summary.children) == 2
    remove(store, "multi:1")
    assert_empty(store)


def test_beside_a_damaged_image_nothing_goes_that_may_be_its_own(
    store: Store, tmp_path: Path
) -> None:
    bad = brought(store, tmp_path, "bad:1", "base", "bad")
    brought(store, tmp_path, "good:1", "base", "good")
    manifest = store.layout.blob(bad.digest)
    data = manifest.read_bytes()
    manifest.write_bytes(b"{}")
    store.layout.summaries.unlink()
    remove(store, "good:1")
    prune(store)
    manifest.write_bytes(data)
    stale = ["repositories.json: not what index.json says"]  # the text was no ID of the damaged one
    assert checked(store).mismatches == stale
    prune(store)
    clean(store, images=1)


def test_a_damaged_image_can_be_removed(store: Store, tmp_path: Path) -> None:
    image = brought(store, tmp_path, "bad:1", "base")
    brought(store, tmp_path, "good:1", "base", "good")
    store.layout.blob(image.digest).write_bytes(b"{")
    store.layout.summaries.unlink()
    assert store.find("bad:1").summary.what == "damaged"
    assert usage(store).images[0].mounts == 0
    assert remove(store, "bad:1").untagged == ["bad:1"]
    prune(store)
    clean(store, images=1)


def test_indexes_within_indexes_are_seen_once(store: Store, tmp_path: Path) -> None:
    """Thirty levels, each listing the next one twice: a billion paths to one image."""
    image = brought(store, tmp_path, "a:1", "x")
    kind = "application/vnd.oci.image.index.v1+json"
    below = [{"mediaType": image.descriptor.media_type, "digest": image.digest,
              "size": image.descriptor.size}]  # fmt: skip
    for level in range(30):
        above = []
        for side in "ab":
            head = {"schemaVersion": 2, "mediaType": kind, "annotations": {"l": f"{level}{side}"}}
            data = json.dumps(head | {"manifests": below}).encode()
            digest = put_document(store.layout, data)
            above.append({"mediaType": kind, "digest": digest, "size": len(data)})
        below = above
    top = Descriptor(kind, Digest(str(below[0]["digest"])), int(str(below[0]["size"])))
    store.add(top, [parse_name("deep:1")])
    assert len(Summaries(store.layout).blobs(top.digest)) == 30 * 2 - 1 + 3
    remove(store, "deep:1")
    prune(store)
    clean(store, images=1)


def test_a_mounted_image_stays(store: Store, tmp_path: Path) -> None:
    image = brought(store, tmp_path, "a:1", "x", how="gzip")
    store.tag("a:1", parse_name("b:1"))
    needed = sorted(Summaries(store.layout).blobs(image.digest))
    with another_holds(store, MOUNT, needed) as pid:
        (user,) = users(store, image, Summaries(store.layout))
        assert (user.holder.pid, user.holder.where) == (pid, "/mnt/x")
        assert usage(store).images[0].mounts == 1
        remove(store, "b:1")  # only the name goes
        with pytest.raises(ImageInUse, match="/mnt/x"):
            remove(store, "a:1")
        prune(store, everything=True)
        clean(store, images=1)
        remove(store, "a:1", force=True)
        prune(store, everything=True)
        assert all(store.layout.blob(digest).exists() for digest in needed)
        clean(store, images=0)
    prune(store)
    assert_empty(store)


def test_usage_tells_shared_from_unique(store: Store, tmp_path: Path) -> None:
    a = brought(store, tmp_path, "a:1", "base", "a")
    brought(store, tmp_path, "b:1", "base", "b")
    size = len(layer("base"))
    documents = [a.digest, a.image_id]
    own = len(layer("a")) + sum(store.layout.blob(d).stat().st_size for d in documents)
    found = usage(store)
    assert (found.images[0].shared, found.images[0].unique) == (size, own)
    on_disk = sum(path.stat().st_size for path in store.layout.blobs.iterdir())
    assert found.blobs == on_disk == found.reclaimable
    assert (found.orphans, found.parts) == (0, 0) and found.cache > 0
    (store.layout.blobs / ("0" * 64)).write_bytes(b"x" * 77)
    assert usage(store).orphans == 77
    with another_holds(store, MOUNT, sorted(Summaries(store.layout).blobs(a.digest))):
        assert usage(store).reclaimable == on_disk - own - size


def test_a_name_leaves_the_digests_of_other_repositories(store: Store, tmp_path: Path) -> None:
    """As in docker, an image that was pulled by digest stays, without a tag."""
    image = brought(store, tmp_path, "a:1", "x")
    digest = f"docker.io/site/b@{image.digest}"
    store.add(image.descriptor, [], [digest])
    assert remove(store, "a:1").untagged == ["a:1"]
    (left,) = store.images()
    assert (left.names, left.repo_digests) == ((), (digest,))
    assert remove(store, f"site/b@{image.digest}").deleted
    clean(store, images=0)


def test_an_id_of_two_manifests_is_several_names(store: Store, tmp_path: Path) -> None:
    """One config with layers compressed or not: one image ID, as in docker."""
    plain = brought(store, tmp_path, "a:1", "x")
    packed = brought(store, tmp_path, "b:1", "x", how="gzip")
    assert plain.image_id == packed.image_id and plain.digest != packed.digest
    with pytest.raises(ImageInUse, match="a:1, b:1"):
        remove(store, plain.image_id)
    assert remove(store, plain.image_id, force=True).untagged == ["a:1", "b:1"]
    clean(store, images=0)


def test_several_in_one_step(store: Store, tmp_path: Path) -> None:
    for name, own in (("a:1", "a"), ("b:1", "b"), ("c:1", "c")):
        brought(store, tmp_path, name, "base", own)
    first, error, second = remove_all(store, ["a:1", "nothing", "b:1"])
    assert isinstance(error, ImageNotFound)
    assert isinstance(first, Removed) and isinstance(second, Removed)
    assert (first.untagged, second.untagged) == (["a:1"], ["b:1"])
    assert not set(first.deleted) & set(second.deleted)
    clean(store, images=1)


def test_the_cost_of_a_name_grows_with_the_names(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with their square: one small archive may give an image 100,000 names."""
    (image,) = load(store, oci_archive(tmp_path / "in.tar", [layer("x")], tags=["first:1"]))
    compared = [0]

    def counted(kind: type) -> None:
        own = kind.__eq__

        def same(one: object, other: object) -> bool:
            compared[0] += 1
            return own(one, other)

        monkeypatch.setattr(kind, "__eq__", same)

    costs = []
    counted(ImageName)
    counted(Entry)
    for count in (100, 200):
        names = [parse_name(f"n{count}-{i}:1") for i in range(count)]
        compared[0] = 0
        store.add(image.descriptor, names)
        remove(store, names[count // 2].familiar)
        costs.append(compared[0])
    assert costs[1] < 3 * costs[0] < 3 * 3000, costs


def test_an_index_of_many_names_is_walked_as_one_of_few(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = ImageSpec([layer("arm")], config={"architecture": "arm64"})
    files = oci_layout(tmp_path / "in", images=[ImageSpec([layer("amd")]), arm], nested="multi:1")
    (image,) = load(store, files)
    walked, own = [0], children.own

    def counted(layout: Layout, index: Digest, listed: Iterable[Digest]) -> tuple[Digest, ...]:
        walked[0] += 1
        return own(layout, index, listed)

    monkeypatch.setattr(children, "own", counted)
    costs = []
    for count in (2, 50):
        walked[0] = 0
        store.add(image.descriptor, [parse_name(f"n{count}-{i}:1") for i in range(count)])
        with store.lease("test", "") as lease:
            store.hold(lease, image)
        remove(store, f"n{count}-0:1")
        prune(store)
        costs.append(walked[0])
    assert costs[0] == costs[1], costs
