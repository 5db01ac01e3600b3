"""Law: reads images in the data root of a docker, and never locks or writes there.

    ROOT/image/DRIVER/repositories.json                    names and repo digests -> image IDs
    ROOT/image/DRIVER/imagedb/content/sha256/<ID>          configs
    ROOT/image/DRIVER/layerdb/sha256/<chain ID>/           diff, parent, size, cache-id,
                                                           tar-split.json.gz (layer/unpacked.py)
    ROOT/DRIVER/<cache-id>/diff                            the layer, in overlayfs' format
    ROOT/vfs/dir/<cache-id>                                driver vfs: the layer with all below it

docker replaces each file by a rename, so it is consistent in itself.  If an image is removed
between the reading of two files, it shows as damaged.  No symlink below ROOT is followed, because a
store may be a stranger's; docker makes none there.  No message quotes a line of a layer's files.

Sources: moby's image/store.go, layer/filestore.go, reference/store.go, daemon/graphdriver/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from fusemount.beneath import names_below
from fusemount.dataclass import dataclass
from fusemount.digest import Digest, chain_ids
from fusemount.errors import ImageNotFound, MalformedImage, NotPermitted
from fusemount.image.fields import DOCUMENT_BYTES_MAX, object_of, parse_json, shown
from fusemount.image.model import ImageConfig
from fusemount.image.parse import LAYERS_MAX, parse_config
from fusemount.layer import UnpackedLayer
from fusemount.layer.marks import origin_of_store
from fusemount.reference import Reference, normalised_name
from fusemount.settings import ImageOptions, Platform
from fusemount.sources.choose import choose
from fusemount.sources.image import Candidate, Image, verified
from fusemount.sources.medium import Directory, Links, read_document

NAMES_BYTES_MAX = 256 << 20  # repositories.json: some hundred bytes a name
LINE_MAX = 4096  # bytes of a file in a layer's directory
_HEX = re.compile(r"[0-9a-f]{64}")
_CACHE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,254}")
_OVERLAYS = ("overlay2", "fuse-overlayfs")
_WHOLE = "vfs"  # one directory has the files of a layer and of all layers below it


def open_docker(reference: Reference, options: ImageOptions) -> Image:
    """Raises ImageNotFound, MalformedImage, VerificationFailed, PlatformMismatch, NotPermitted."""
    root, label = reference.path, f"docker:[{reference.path}]"
    drivers = _drivers(root, reference.driver)
    with ExitStack() as undo:
        medium = Directory(root, Links.NONE)
        undo.callback(medium.close)
        candidates: list[Candidate] = []
        for driver in drivers:
            candidates += _Driver(medium, root, driver, options.verify).candidates(reference.name)
        if not candidates:
            raise ImageNotFound(_nothing(root))
        return choose(candidates, reference.name, options, label, given_as="docker:")


def _drivers(root: Path, wanted: str) -> list[str]:
    """Graph drivers that keep images at the root.  Raises ImageNotFound, NotPermitted."""
    try:
        there = names_below(root, root / "image")
    except FileNotFoundError:
        raise ImageNotFound(_nothing(root)) from None
    except PermissionError as error:
        raise NotPermitted(f"{root}/image: {error.strerror}: docker's images are root's") from error
    except OSError as error:
        raise ImageNotFound(f"{root}/image: {error.strerror}") from None
    if wanted and wanted not in there:
        raise ImageNotFound(
            f"{root}: docker keeps nothing by driver {wanted!r} there, only by {', '.join(there)}"
        )
    first = [driver for driver in (*_OVERLAYS, _WHOLE) if driver in there]
    return [wanted] if wanted else [*first, *(driver for driver in there if driver not in first)]


def _nothing(root: Path) -> str:
    if not os.path.exists(root):
        return f"{root}: no such directory; docker:[DATA-ROOT]NAME says where docker keeps images"
    remapped = sorted(str(path.parent) for path in root.glob("[0-9]*.[0-9]*/image"))
    if remapped:  # dockerd --userns-remap; owners show as they are on disk
        return f"{root}: docker keeps its images in {remapped[0]}: docker:[{remapped[0]}]NAME"
    if os.path.exists(root / "containers") and not os.path.exists(root / "image"):
        return (
            f"{root}: this docker keeps its images in containerd's store, which is not read in "
            "place; `docker save` writes them to a file"
        )
    return f"{root}: docker keeps no image there"


@dataclass(frozen=True)
class _Driver:
    """The images of one graph driver."""

    medium: Directory
    root: Path
    driver: str
    verify: bool

    @property
    def base(self) -> str:
        return f"image/{self.driver}"

    def candidates(self, wanted: str | None) -> list[Candidate]:
        """All images.  If no name is wanted, only images with names, if there are any.

        Images without a name are steps of builds.
        """
        names = self._names()
        content = self.root / self.base / "imagedb/content/sha256"
        try:
            idents = [each for each in names_below(self.root, content) if _HEX.fullmatch(each)]
        except FileNotFoundError:
            idents = []
        except OSError as error:
            raise NotPermitted(f"{content}: {error.strerror}") from error
        idents += sorted(names.keys() - set(idents))  # named, but missing: an error if chosen
        named = [ident for ident in idents if ident in names]
        if wanted is None and named:
            idents = named
        return [self._candidate(ident, names.get(ident, ())) for ident in idents]

    def _names(self) -> Mapping[str, tuple[str, ...]]:
        """{hex digits of an ID: its names and repo digests, in docker's order}"""
        name = f"{self.base}/repositories.json"
        where = f"{self.medium.label}: {name}"
        data = read_document(self.medium, name, NAMES_BYTES_MAX)
        if data is None:
            return {}
        found: dict[str, list[str]] = {}
        repositories = object_of(parse_json(data, where, NAMES_BYTES_MAX), where)
        repositories = repositories.object("Repositories") or repositories
        for repository in repositories.document:
            for reference, ident in repositories.text_mapping(repository).items():
                try:
                    if "@" in reference:
                        Digest(reference.partition("@")[2])
                    found.setdefault(Digest(ident).hex, []).append(reference)
                except ValueError as error:
                    raise repositories.bad(shown(reference), str(error)) from None
        return {ident: tuple(sorted(each, key=normalised_name)) for ident, each in found.items()}

    def _candidate(self, ident: str, names: tuple[str, ...]) -> Candidate:
        tags = tuple(name for name in names if "@" not in name)
        digests = tuple(name for name in names if "@" in name)

        def open_it(_: tuple[str, ...]) -> Image:
            return self._open(ident, tags, digests)

        return Candidate(
            key=ident,
            names=tags,
            ids=(f"sha256:{ident}", *(name.partition("@")[2] for name in digests)),
            platform=lambda: self._platform(ident),
            open=open_it,
        )

    def _platform(self, ident: str) -> Platform:
        return self._config(ident)[0].platform

    def _config(self, ident: str) -> tuple[ImageConfig, bytes]:
        name = f"{self.base}/imagedb/content/sha256/{ident}"
        data = read_document(self.medium, name, DOCUMENT_BYTES_MAX)
        where = f"{self.medium.label}: image {ident[:12]}"
        if data is None:
            raise MalformedImage(f"{where}: has a name, but no configuration ({name})")
        verified(data, Digest(f"sha256:{ident}"), where, self.verify)
        return parse_config(data, where), data

    def _open(self, ident: str, tags: tuple[str, ...], digests: tuple[str, ...]) -> Image:
        config, data = self._config(ident)
        layers = self._layers(ident, config.diff_ids)
        trees = tuple(layer.tree for layer in layers)
        manifests = {name.partition("@")[2] for name in digests}
        return Image(
            source=f"{self.medium.label}: image {ident[:12]}",
            config=config,
            config_digest=Digest(f"sha256:{ident}"),
            manifest_digest=Digest(manifests.pop()) if len(manifests) == 1 else None,
            repo_tags=tags,
            platform=config.platform,
            layers=(),
            files=(),
            directories=trees[-1:] if self.driver == _WHOLE else trees,
            unpacked=layers,
            origin=origin_of_store(self.root),
            config_bytes=data,
            repo_digests=digests,
        )

    # ---- layers -------------------------------------------------------------------------------

    def _layers(self, ident: str, diff_ids: tuple[Digest, ...]) -> tuple[UnpackedLayer, ...]:
        label = f"{self.medium.label}: image {ident[:12]}"
        if self.driver not in (*_OVERLAYS, _WHOLE):
            raise ImageNotFound(
                f"{label}: its layers are kept by graph driver {self.driver}, which is not read in "
                "place; `docker save` writes them to a file"
            )
        if len(diff_ids) > LAYERS_MAX:
            raise MalformedImage(f"{label}: {len(diff_ids)} layers, the limit is {LAYERS_MAX}")
        layers: list[UnpackedLayer] = []
        chains = chain_ids(diff_ids)
        for i, (diff_id, chain) in enumerate(zip(diff_ids, chains, strict=True)):
            where = f"{label}: layer {i + 1} of {len(diff_ids)} ({chain.hex[:12]}…)"
            layers.append(self._layer(where, diff_id, chain, chains[i - 1] if i else ""))
        return tuple(layers)

    def _layer(self, where: str, diff_id: Digest, chain: Digest, parent: str) -> UnpackedLayer:
        place = f"{self.base}/layerdb/sha256/{chain.hex}"
        if self._line(place, "diff", where) != diff_id:
            raise MalformedImage(f"{where}: its diff is another than the image's")
        if parent and self._line(place, "parent", where) != parent:
            raise MalformedImage(f"{where}: stands on another layer than in the image")
        size = self._line(place, "size", where)
        if not re.fullmatch(r"[0-9]{1,18}", size):
            raise MalformedImage(f"{where}: its size is no number ({place}/size)")
        cache_id = self._line(place, "cache-id", where)
        if not _CACHE_ID.fullmatch(cache_id):
            raise MalformedImage(f"{where}: its cache-id is no name ({place}/cache-id)")
        inside = f"dir/{cache_id}" if self.driver == _WHOLE else f"{cache_id}/diff"
        tree = self.root / self.driver / inside
        if not os.path.isdir(tree):
            raise MalformedImage(f"{where}: its directory {tree} is not there")
        split = self.root / place / "tar-split.json.gz"
        return UnpackedLayer(diff_id, int(size), tree, split, where, self.root)

    def _line(self, place: str, name: str, where: str) -> str:
        data = read_document(self.medium, f"{place}/{name}", LINE_MAX)
        if data is None:
            raise MalformedImage(f"{where}: not there, or not all of it ({place}/{name})")
        return data.decode("utf-8", "replace").strip()
