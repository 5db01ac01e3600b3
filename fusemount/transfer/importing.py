"""Law: makes an image of one layer from a root file system's tar, as `docker import` does."""

from __future__ import annotations

from fusemount.budget import Budget
from fusemount.codec import decompress, recognise
from fusemount.dataclass import dataclass
from fusemount.image.changeline import apply_changes
from fusemount.image.nextconfig import rfc3339
from fusemount.image.platforms import normalised, this_machine
from fusemount.imagename import ImageName
from fusemount.settings import UNLIMITED, Platform
from fusemount.sources.writing import compact_json
from fusemount.store import Store, StoredImage
from fusemount.store.intake import Claims, Part, Read, take_layer
from fusemount.transfer.newimage import add_new_image
from fusemount.transfer.remadetar import reading
from fusemount.transfer.reports import Transfers


@dataclass(frozen=True)
class ImportOptions:
    """created_ns: nanoseconds since 1970.  platform: None means this machine's."""

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
    """Reads a tar, compressed or not; it need not be seekable.  what: its name in messages.

    Raises UsageError, MalformedImage, NoSpace, ImgmountError.
    """
    container = apply_changes({}, list(options.changes))  # raises before anything is read
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
        config = compact_json(document)
        names = [name.tagged()] if name is not None else []
        return add_new_image(store, lease, config, [layer], platform, names)


def _storable(read: Read, what: str, budget: Budget) -> tuple[Read, Budget]:
    """(the stream that is stored, the budget for storing it).

    It is decompressed if no media type names its compression; then that spends the budget.
    """
    compression, whole = recognise(read)
    if compression.media_suffix is not None:
        return whole, budget
    return reading(decompress(whole, compression, what, budget)), Budget(UNLIMITED)
