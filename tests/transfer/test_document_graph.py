"""Documents of an image form a graph: each is read a few times at most, however often it is named,
and what a list says of a blob is compared every time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imagewriter import Files, ImageSpec, docker_files, oci_files, sha256, write_archive
from manifests import bytes_of
from realregistry import RealRegistry
from storing import checked, clean, layer, load, save
from transferring import pushed

from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, VerificationFailed
from fusemount.image.model import ATTESTATION_NOTE, DOCKER, OCI, ORIGINAL
from fusemount.store import Store
from fusemount.store.layout import Layout
from fusemount.store.listing import listing
from fusemount.store.removal import prune, remove
from fusemount.transfer.archiveload import MediumSource

INDEX = OCI + "index.v1+json"
MANY = 20  # MANY**3 readings of one manifest take half a minute
Entry = dict[str, Any]


class Image:
    """Blobs of one image that are put together by hand."""

    def __init__(self) -> None:
        self.files: Files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(self, data: bytes, kind: str, **more: Any) -> Entry:
        self.files[f"blobs/sha256/{sha256(data)}"] = data
        return {"mediaType": kind, "digest": Digest.of(data), "size": len(data)} | more

    def config(self, *layers: bytes, **more: Any) -> Entry:
        data = ImageSpec(layers, config=more).config_bytes
        return self.blob(data, DOCKER + "container.image.v1+json")

    def manifest(self, config: Entry, *layers: Entry, **more: Any) -> Entry:
        kind = DOCKER + "distribution.manifest.v2+json"
        head = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
        return self.blob(json.dumps(head | more).encode(), kind)

    def index(self, *entries: Entry, **more: Any) -> Entry:
        head = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return self.blob(json.dumps(head | more).encode(), INDEX)

    def archive(self, path: Path, **tops: Entry) -> Path:
        named = [
            top | {"annotations": {"org.opencontainers.image.ref.name": f"{name}:1"}}
            for name, top in tops.items()
        ]
        index = json.dumps({"schemaVersion": 2, "manifests": named}).encode()
        return write_archive(path, self.files | {"index.json": index})

    def layer(self, data: bytes) -> Entry:
        return self.blob(data, DOCKER + "image.rootfs.diff.tar")


LAYER = layer("shown")


def simple(image: Image) -> Entry:
    return image.manifest(image.config(LAYER), image.layer(LAYER))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Digest]:
    """How often each document is read."""
    found: Counter[Digest] = Counter()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def document(self: object, wanted: Any) -> Any:
            found[getattr(wanted, "digest", wanted)] += 1
            return real(self, wanted)

        return document

    for owner in (MediumSource, Layout):
        monkeypatch.setattr(owner, "document", counted(owner.document))
    return found


def test_each_document_is_read_a_few_times(
    store: Store, registry: RealRegistry, tmp_path: Path, reads: Counter[Digest]
) -> None:
    image = Image()
    config, row = image.config(LAYER), image.layer(LAYER)
    manifests = [image.manifest(config, row, annotations={"n": str(i)}) for i in range(MANY)]
    below = image.index(*manifests[:1] * MANY, *manifests)
    middle = image.index(*[below] * MANY)
    proof = below | {"annotations": {ATTESTATION_NOTE: "attestation-manifest"}}
    top = image.index(*[middle] * MANY, *[proof] * MANY)
    archive = image.archive(tmp_path / "in.tar", top=top, middle=middle, below=below)
    steps: list[Callable[[], object]] = [
        lambda: load(store, archive),
        lambda: listing(store),
        lambda: save(store, "top:1", "oci-archive", tmp_path / "out.tar"),
        lambda: pushed(store, "top:1", f"{registry.domain}/graph/a:1"),
        lambda: clean(store, images=3),
        lambda: remove(store, "below:1"),
        lambda: prune(store, everything=True),
    ]
    for step in steps:
        reads.clear()
        step()
        assert max(reads.values(), default=0) <= 10, reads.most_common(3)
    assert (tmp_path / "out.tar").stat().st_size < 3 * archive.stat().st_size


def test_indexes_that_share_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 80
    image = Image()
    config, row = image.config(LAYER), image.layer(LAYER)
    manifests = [image.manifest(config, row, annotations={"n": str(i)}) for i in range(count)]
    shared = image.index(*manifests)
    between = [image.index(shared, annotations={"n": str(i)}) for i in range(count)]
    archive = image.archive(tmp_path / "in.tar", top=image.index(*between))
    looked: list[Digest] = []
    real = Layout.has_blob

    def has_blob(self: Layout, digest: Digest) -> bool:
        looked.append(digest)
        return real(self, digest)

    monkeypatch.setattr(Layout, "has_blob", has_blob)
    for step in (
        lambda: load(store, archive),
        lambda: listing(store),
        lambda: remove(store, "top:1"),
    ):
        looked.clear()
        step()
        assert len(looked) <= 20 * 3 * count < count**2


def test_what_lists_name_is_limited(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image()
    shared = image.index(*[simple(image)] * 30)
    tops = {f"t{i}": image.index(shared, annotations={"n": str(i)}) for i in range(10)}
    archive = image.archive(tmp_path / "in.tar", **tops)
    monkeypatch.setattr("fusemount.transfer.documents.MENTIONS_MAX", 200)
    with pytest.raises(MalformedImage, match="list more than 200 manifests and layers, the limit"):
        load(store, archive)
    clean(store)
    monkeypatch.undo()
    assert len(load(store, archive)) == 10


def test_deep_indexes_in_any_order(store: Store, tmp_path: Path) -> None:
    image = Image()
    chain = [simple(image)]
    for level in range(7):
        chain.append(image.index(chain[-1], annotations={"n": str(level)}))
    load(store, image.archive(tmp_path / "in.tar", deep=chain[-1]))
    chain.append(image.index(chain[-1]))
    for entries in (chain[-1:], chain, chain[::-1]):  # innermost first, each is found beside it
        archive = image.archive(tmp_path / "in.tar", deeper=image.index(*entries))
        with pytest.raises(MalformedImage, match="nested over 8 deep"):
            load(store, archive)
    clean(store, images=1)


# ---- claims -------------------------------------------------------------------------------------


def diff_id_in_a_manifest(image: Image) -> Entry:
    row = image.layer(LAYER)
    return image.manifest(image.config(LAYER, layer("good")), row, row)


def diff_id_in_another_manifest(image: Image) -> Entry:
    row = image.layer(LAYER)
    wrong = image.manifest(image.config(layer("good"), architecture="arm64"), row)
    return image.index(image.manifest(image.config(LAYER), row), wrong)


def size_of_a_layer(image: Image) -> Entry:
    row = image.layer(LAYER)
    config = image.config(LAYER)
    return image.index(image.manifest(config, row), image.manifest(config, row | {"size": 7}))


def size_of_a_config(image: Image) -> Entry:
    config, row = image.config(LAYER), image.layer(LAYER)
    return image.index(image.manifest(config, row), image.manifest(config | {"size": 7}, row))


def size_of_a_manifest(image: Image) -> Entry:
    manifest = simple(image)
    return image.index(manifest, manifest | {"size": 7})


def type_of_a_manifest(image: Image) -> Entry:
    manifest = simple(image)
    return image.index(manifest, manifest | {"mediaType": INDEX})


def type_of_a_layer(image: Image) -> Entry:
    config, row = image.config(LAYER), image.layer(LAYER)
    secret = row | {"mediaType": OCI + "layer.v1.tar+encrypted"}
    return image.index(image.manifest(config, row), image.manifest(config, secret))


def type_of_a_config(image: Image) -> Entry:
    data = b'{"architecture":"amd64","os":"linux"}'
    config = image.blob(data, OCI + "config.v1+json")
    other = config | {"mediaType": "application/vnd.example"}
    return image.index(image.manifest(config), image.manifest(other))


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (diff_id_in_a_manifest, "listed with the diff_id"),
        (diff_id_in_another_manifest, "listed with the diff_id"),
        (size_of_a_layer, "bytes and with 7"),
        (size_of_a_config, "it is listed with 7"),
        (size_of_a_manifest, "it is listed with 7"),
        (type_of_a_manifest, "it is listed as"),
        (type_of_a_layer, "encrypted"),
        (type_of_a_config, "no container image"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_second_claim(
    store: Store, tmp_path: Path, claim: Callable[[Image], Entry], told: str
) -> None:
    image = Image()
    with pytest.raises((VerificationFailed, MalformedImage), match=told):
        load(store, image.archive(tmp_path / "in.tar", evil=claim(image)))
    prune(store)
    clean(store, images=0)
    honest = oci_files([ImageSpec([LAYER, layer("good")], tags=("good:1",))])
    load(store, write_archive(tmp_path / "good.tar", honest))
    clean(store, images=1)


def test_a_docker_archive_with_one_file_twice(store: Store, tmp_path: Path) -> None:
    spec = ImageSpec([LAYER, layer("good")], tags=("evil:1",))
    files = docker_files([spec])
    (entry,) = json.loads(bytes_of(files, "manifest.json"))
    lowest = entry["Layers"][0]
    files["manifest.json"] = json.dumps([entry | {"Layers": [lowest, lowest]}]).encode()
    with pytest.raises(VerificationFailed, match=rf"diff_id is {Digest.of(LAYER)}, the config"):
        load(store, write_archive(tmp_path / "in.tar", files))
    prune(store)
    clean(store, images=0)
    load(store, write_archive(tmp_path / "good.tar", docker_files([spec])))
    clean(store, images=1)


def test_an_entry_of_layerdb_that_leads_elsewhere(store: Store, tmp_path: Path) -> None:
    """An older version has kept what an image claimed.  Loading another image mends it."""
    spec = ImageSpec([LAYER, layer("good")], tags=("good:1",))
    archive = write_archive(tmp_path / "good.tar", oci_files([spec]))
    summary = load(store, archive)[0].summary
    entry = store.layout.layerdb / summary.chain[1].hex
    for name in ("cache-id", "diff"):
        (entry / name).write_text(summary.layers[0].digest.hex)
        assert checked(store).mismatches
        load(store, archive)
        clean(store, images=1)


# ---- documents that another reader takes --------------------------------------------------------


def test_half_a_surrogate(store: Store, registry: RealRegistry, tmp_path: Path) -> None:
    image = Image()
    manifest = image.manifest(image.config(LAYER), image.layer(LAYER), x="\ud800")
    load(store, image.archive(tmp_path / "in.tar", half=manifest))
    assert store.find("half:1").summary.original == manifest["digest"]
    where = f"{registry.domain}/half/a"
    same = pushed(store, "half:1", f"{where}:1", compression=Compression.NONE)
    assert same.pushed.digest == manifest["digest"]
    pushed(store, "half:1", f"{where}:2")  # its layer is compressed, and the manifest written anew
    clean(store, images=1)


def test_a_number_that_json_has_not(store: Store, tmp_path: Path) -> None:
    image = Image()
    data = bytes_of(image.files, f"blobs/sha256/{simple(image)['digest'][7:]}")
    kind = DOCKER + "distribution.manifest.v2+json"
    manifest = image.blob(data[:-1] + b',"x":1e999}', kind)
    with pytest.raises(ImgmountError, match=r"1e999|JSON"):
        load(store, image.archive(tmp_path / "in.tar", large=manifest))


def test_a_config_that_is_listed_as_an_attestation(store: Store, tmp_path: Path) -> None:
    for more in ({"manifests": [1]}, {"layers": [1]}):
        image = Image()
        config = image.config(LAYER, **more)
        proof = config | {"annotations": {ATTESTATION_NOTE: "attestation-manifest"}}
        manifest = image.manifest(config, image.layer(LAYER))
        load(store, image.archive(tmp_path / "in.tar", proof=image.index(manifest, proof)))
        clean(store)


def test_an_original_that_is_none_is_not_kept(store: Store, tmp_path: Path) -> None:
    private = layer("private")
    files = oci_files([ImageSpec([private], tags=("private:1",))])
    image = Image()
    kind = OCI + "manifest.v1+json"
    config = image.config(LAYER) | {"mediaType": OCI + "config.v1+json"}
    row = image.layer(LAYER) | {"mediaType": OCI + "layer.v1.tar"}
    head = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [row]}
    notes = {"annotations": {ORIGINAL: Digest.of(private)}}
    claim = image.blob(json.dumps(head | notes).encode(), kind)
    load(store, image.archive(tmp_path / "claim.tar", claim=claim))
    load(store, write_archive(tmp_path / "private.tar", files))
    remove(store, "private:1")
    assert not store.layout.has_blob(Digest.of(private))
    clean(store, images=1)


def test_the_original_that_comes_after_its_counterpart(store: Store, tmp_path: Path) -> None:
    image = Image()
    load(store, image.archive(tmp_path / "in.tar", first=(docker := simple(image))))
    save(store, "first:1", "oci-archive", tmp_path / "oci.tar")
    remove(store, "first:1")
    assert load(store, tmp_path / "oci.tar")[0].summary.original is None
    load(store, tmp_path / "in.tar")
    prune(store)
    assert store.find("first:1").summary.original == docker["digest"]
    assert store.layout.has_blob(docker["digest"])
    clean(store, images=1)


# ---- names and damage ---------------------------------------------------------------------------


def test_names_and_images_of_an_archive(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = [f"n:{i}" for i in range(11)]
    archive = write_archive(tmp_path / "in.tar", docker_files([ImageSpec([LAYER], tags=tags)]))
    monkeypatch.setattr("fusemount.image.parse.NAMES_MAX", 10)
    with pytest.raises(MalformedImage, match="11 names of images, the limit is 10"):
        load(store, archive)
    monkeypatch.undo()
    assert len(load(store, archive)[0].names) == 11
    specs = [ImageSpec([layer(f"{i}")], tags=(f"i:{i}",)) for i in range(3)]
    monkeypatch.setattr("fusemount.transfer.archiveload.IMAGES_MAX", 2)
    image = Image()
    named = image.archive(tmp_path / "one.tar", **dict.fromkeys("abc", simple(image)))
    assert [len(each.names) for each in load(store, named)] == [3]  # one image is loaded once
    for files in (docker_files(specs), oci_files(specs)):
        with pytest.raises(MalformedImage, match="3 images in it, the limit is 2"):
            load(store, write_archive(tmp_path / "many.tar", files))


def test_beside_a_damaged_image_others_go(store: Store, tmp_path: Path) -> None:
    """A config that cannot be read keeps what its manifest lists, and nothing else."""
    for name in ("bad", "good"):
        spec = ImageSpec([layer("base"), layer(name)], tags=(f"{name}:1",))
        load(store, write_archive(tmp_path / "in.tar", oci_files([spec])))
    bad = store.find("bad:1").summary
    assert bad.config is not None
    store.layout.blob(bad.config).write_bytes(b"{")
    store.layout.summaries.unlink()
    remove(store, "good:1")
    assert not store.layout.has_blob(Digest.of(layer("good")))
    prune(store)
    left = {row.digest.hex for row in bad.layers} | {bad.config.hex}
    assert {path.name for path in store.layout.blobs.iterdir()} > left


def test_an_index_of_another_program_that_lists_a_layer(store: Store, tmp_path: Path) -> None:
    image, other = Image(), Image()
    row = image.layer(LAYER)
    manifest = image.manifest(image.config(LAYER), row)
    claim = other.layer(layer("other")) | {"mediaType": manifest["mediaType"]}
    load(store, image.archive(tmp_path / "in.tar", index=image.index(manifest, claim)))
    single = other.manifest(other.config(layer("other")), other.layer(layer("other")))
    load(store, other.archive(tmp_path / "other.tar", other=single))
    store.layout.children(store.find("index:1").digest).unlink()
    store.layout.summaries.unlink()
    (child,) = store.find("index:1").summary.children
    assert child != claim["digest"]
    clean(store, images=2)
    remove(store, "other:1")
    assert not store.layout.has_blob(claim["digest"])
    clean(store, images=1)
