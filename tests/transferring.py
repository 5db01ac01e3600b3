"""Law: pulls and pushes images by the functions that the verbs call, and keeps their reports.

came = pulled(store, "127.0.0.1:5000/a:t")       came.messages: {twelve digits: last message}
went = pushed(store, "a:1", "127.0.0.1:5000/b:1")
upload(domain, "a", "t", files)                  an image of imagewriter.oci_files, unchanged
shown(store, "a:1")                              dump lines with digests
"""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from imagewriter import Files
from oracle import run

from fusemount.capture.dumpimage import dump_image
from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.imagename import DOCKER_HUB, parse_name
from fusemount.layer import SilentProgress
from fusemount.reference import Reference, parse_reference
from fusemount.registry.client import Registry
from fusemount.registry.options import RegistryOptions
from fusemount.settings import Directories, ImageOptions, Platform
from fusemount.sources.opening import path_exists
from fusemount.store import Store
from fusemount.transfer.copying import CopyOptions, copy, source_end, target_end
from fusemount.transfer.pull import Pulled, PullOptions, RegistryAccess, pull
from fusemount.transfer.push import Pushed, PushOptions, push
from fusemount.transfer.reports import SilentTransfers

QUICK = RegistryAccess(RegistryOptions(retry_delays=(0.0, 0.0)))


class _Task:
    def __init__(self, messages: dict[str, str], name: str) -> None:
        self._messages, self._name = messages, name

    def advance(self, n: int) -> None:
        pass

    def say(self, what: str) -> None:
        self._messages[self._name] = what

    done = say


class Recorder:
    """Transfers that keep their reports.  messages: the last one of each; begun: the names, once
    each."""

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}
        self.begun: list[str] = []
        self._lock = threading.Lock()

    def begin(self, name: str, total: int) -> _Task:
        with self._lock:
            self.begun.append(name)
        return _Task(self.messages, name)

    def note(self, line: str) -> None:
        pass


@dataclass
class Came:
    pulled: Pulled
    messages: dict[str, str]

    @property
    def words(self) -> list[str]:
        return sorted(self.messages.values())


@dataclass
class Went:
    pushed: Pushed
    messages: dict[str, str]
    begun: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return sorted(self.messages.values())


def pulled(
    store: Store,
    text: str,
    *,
    platform: Platform | None = None,
    all_platforms: bool = False,
    access: RegistryAccess = QUICK,
) -> Came:
    recorder = Recorder()
    options = PullOptions(access, platform, all_platforms)
    return Came(pull(store, parse_name(text), options, recorder), recorder.messages)


def pushed(
    store: Store,
    what: str,
    where: str,
    *,
    compression: Compression = Compression.GZIP,
    access: RegistryAccess = QUICK,
) -> Went:
    recorder = Recorder()
    options = PushOptions(access, compression)
    done = push(store, store.find(what), parse_name(where), options, recorder)
    return Went(done, recorder.messages, recorder.begun)


def upload(domain: str, repository: str, tag: str, files: Files) -> Digest:
    """What imagewriter.oci_files made, to a plain registry; the first of index.json gets the tag.
    Returns its digest."""
    (top, *_) = json.loads(_bytes(files, "index.json"))["manifests"]

    async def main() -> Digest:
        async with Registry(domain, QUICK.options, None) as registry:
            return await _up(registry, repository, tag, files, top)

    return trio.run(main)


async def _up(
    registry: Registry, repository: str, reference: str, files: Files, entry: dict[str, Any]
) -> Digest:
    data = _blob(files, entry["digest"])
    document = json.loads(data)
    for child in document.get("manifests", ()):
        if f"blobs/{child['digest'].replace(':', '/')}" in files:
            await _up(registry, repository, child["digest"], files, child)
    blobs = [document["config"], *document["layers"]] if "config" in document else []
    for each in blobs:
        blob = _blob(files, each["digest"])

        async def pieces(offset: int, blob: bytes = blob) -> AsyncGenerator[bytes, None]:
            yield blob[offset:]

        await registry.upload_blob(repository, Digest(each["digest"]), len(blob), pieces)
    return await registry.put_manifest(repository, reference, entry["mediaType"], data)


def _bytes(files: Files, name: str) -> bytes:
    data = files[name]
    assert isinstance(data, bytes)
    return data


def _blob(files: Files, digest: str) -> bytes:
    return _bytes(files, f"blobs/{digest.replace(':', '/')}")


def copied(source: str, target: str, base: Path) -> Digest:
    """Copies as `imgmount copy`, with directories below base.  The image's ID."""
    directories = Directories(base / "cache", base / "state", base / "run", base / "root")
    options = CopyOptions(PullOptions(QUICK), PushOptions(QUICK))

    def refer(text: str) -> Reference:
        return parse_reference(text, path_exists, directories.store)

    ends = source_end(source, refer, DOCKER_HUB), target_end(target, directories.store, DOCKER_HUB)
    return copy(*ends, options, directories, SilentTransfers())


def dumped(reference: str, base: Path, store: Path | None = None) -> list[bytes]:
    """base: where its cache is made.  store: where names that are no files are looked for."""
    directories = Directories(base / "cache", base / "state", base / "run", store or base / "none")
    parsed = parse_reference(reference, path_exists, directories.store)
    lines = dump_image(parsed, ImageOptions(), directories, SilentProgress(), digest=True)
    return list(lines)


def shown(store: Store, text: str) -> list[bytes]:
    return dumped(f"store:[{store.root}]{text}", store.root.with_name(store.root.name + ".kept"))


def inspected(reference: str, *options: str) -> Any:
    """The output of skopeo inspect for docker://reference at a plain registry."""
    words = ("skopeo", "inspect", "--tls-verify=false", *options, f"docker://{reference}")
    return json.loads(run(*words).stdout)


def raw(reference: str) -> bytes:
    words = ("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{reference}")
    return run(*words).stdout


def skopeo_copy(source: str, target: str, *options: str) -> None:
    run("skopeo", "copy", "-q", *options, source, target)


def layer_digests(manifest: bytes) -> Sequence[str]:
    return [layer["digest"] for layer in json.loads(manifest)["layers"]]
