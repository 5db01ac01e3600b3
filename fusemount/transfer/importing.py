"""Law: a root file system's tar becomes an image of one layer, as `docker import` makes it."""

from __future__ import annotations

import json

from fusemount.budget import Budget
from fusemount.codec import decompress
from fusemount.compression import MAGIC_BYTES, Compression, detect
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.image.changeline import apply_changes
from fusemount.image.model import Descriptor
from fusemount.image.nextconfig import rfc3339
from fusemount.image.platforms import normalised, this_machine
from fusemount.imagename import ImageName
from fusemount.settings import UNLIMITED, Platform
from fusemount.store import Store, StoredImage
from fusemount.store.intake import Claims, Part, Read, put_document, take_layer
from fusemount.transfer.archiveload import MANIFEST_TYPE, docker_manifest
from fusemount.transfer.reports import Transfers

_KEPT = (Compression.NONE, Compression.GZIP, Compression.ZSTD)


@dataclass(frozen=True)
class ImportOptions:
    """created_ns: since 1970.  platform: None is the machine's own."""

    created_ns: int
    changes: tuple[str, ...] = ()
    message: str = ""
    platform: Platform | None = None


def import_tar(
    store: Store,
    read: Read,
    what: str,
    name: ImageName | None,
    options: ImportOptions,
    progress: Transfers,
) -> StoredImage:
    """read: of a tar, compressed or not, that need not be seekable; what: its name in messages.

    Raises UsageError, MalformedImage, NoSpace, ImgmountError.
    """
    container = apply_changes({}, list(options.changes))  # a bad one shows before anything is read
    with store.lease("import", what) as lease:
        task = progress.begin(what, 0)
        with Part(store.layout, None) as part:
            source, budget = _storable(read, what, Budget(store.unpack))
            layer = take_layer(
                store.layout, lease, part, source, Claims(), what, budget, task.advance
            )
        task.done("Imported")
        created = rfc3339(options.created_ns)
        platform = normalised(options.platform) if options.platform else this_machine()
        step = {"created": created, "comment": options.message or f"Imported from {what}"}
        document = {
            "created": created,
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": container,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [step],
        }
        config = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        manifest = docker_manifest(config, [layer])
        lease.hold([Digest.of(config), Digest.of(manifest)])
        put_document(store.layout, config)
        digest = put_document(store.layout, manifest)
        descriptor = Descriptor(MANIFEST_TYPE, digest, len(manifest), platform=platform)
        return store.add(descriptor, [name.tagged()] if name is not None else [])


def _storable(read: Read, what: str, budget: Budget) -> tuple[Read, Budget]:
    """The stream as it is, or unpacked where no media type has a word for its compression; and what
    it may still spend."""
    head = b""
    while len(head) < MAGIC_BYTES and (data := read(MAGIC_BYTES - len(head))):
        head += data
    compression = detect(head)

    def whole(n: int) -> bytes:
        nonlocal head
        if head:
            data, head = head[:n], head[n:]
            return data
        return read(n)

    if compression in _KEPT:
        return whole, budget
    pieces = decompress(whole, compression, what, budget)
    rest = b""

    def plain(n: int) -> bytes:
        nonlocal rest
        rest = rest or next(pieces, b"")
        data, rest = rest[:n], rest[n:]
        return data

    return plain, Budget(UNLIMITED)
