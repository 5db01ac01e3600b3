"""`imgmount du`: prints what the store takes on disk and what could be freed, as
`docker system df` does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from fusemount.cli.arguments import Parser, open_store
from fusemount.cli.environment import directories

if TYPE_CHECKING:
    from fusemount.store import Store
    from fusemount.store.usage import Use

_HEADS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
_IMAGE_COLUMNS = (
    "Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers",
)  # fmt: skip


def parser() -> Parser:
    p = Parser("du", "Print what the store takes on disk, and what could go.")
    p.add_argument("-v", "--verbose", action="store_true", help="image by image")
    p.add_argument("--format", metavar="TEMPLATE", help="a Go template for each row")
    p.add_argument("--json", action="store_true", help="all that is known, as a JSON object")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.tables import formatted, is_table, print_rows, template_of
    from fusemount.store.usage import usage

    store = open_store()
    use, chunks = usage(store), _chunks()
    if args.json:
        print(json.dumps(_object(store, use, chunks), indent=4))
        return 0
    if not args.verbose:
        print_rows(list(_rows(use, chunks)), _HEADS, template_of(args.format, tuple(_HEADS)))
        return 0

    from fusemount.cli.imagerows import HEADS

    rows, heads = list(_images(store, use)), HEADS | {"Containers": "MOUNTS"}
    template = template_of(args.format, _IMAGE_COLUMNS)
    if is_table(args.format):
        print(f"Images space usage:\n\n{formatted(rows, heads, template)}\n\n{_rest(use, chunks)}")
    else:
        print_rows(rows, heads, template)
    return 0


class _Chunks(NamedTuple):
    """The caller's chunk cache, which is not in the store, in bytes.  limit: of a mount without
    cache-size=."""

    size: int
    limit: int


def _chunks() -> _Chunks:
    from fusemount.layer import chunkcache
    from fusemount.layer.cache import Cache

    directory = Cache(directories().cache).chunks
    return _Chunks(chunkcache.size(directory), chunkcache.default_size(directory))


def _rows(use: Use, chunks: _Chunks) -> Iterator[dict[str, str]]:
    """Docker's row for images, and one row for each other kind of data in the store."""
    from fusemount.cli.ages import human_size

    active = sum(1 for each in use.images if each.mounts)

    def row(kind: str, total: str, active: str, size: int, free: int) -> dict[str, str]:
        share = f" ({100 * free // size}%)" if size else ""
        return {"Type": kind, "TotalCount": total, "Active": active, "Size": human_size(size),
                "Reclaimable": human_size(free) + share}  # fmt: skip

    yield row("Images", str(len(use.images)), str(active), use.blobs, use.reclaimable)
    yield row("Cache", "", "", use.cache, use.cache)
    within = f"{human_size(chunks.size)} of {human_size(chunks.limit)}"
    yield row("Chunks", "", "", chunks.size, chunks.size) | {"Size": within}
    yield row("Orphans", "", "", use.orphans, use.orphans)
    yield row("Broken downloads", "", "", use.parts, use.parts)


def _rest(use: Use, chunks: _Chunks) -> str:
    from fusemount.cli.ages import human_size

    return "\n".join((
        f"Cache (indexes and unpacked layers, made again where they are missing): "
        f"{human_size(use.cache)}",
        f"Chunks (parts of layers, decompressed for reading): {human_size(chunks.size)} "
        f"of {human_size(chunks.limit)}",
        f"Orphans (blobs that nothing leads to): {human_size(use.orphans)}",
        f"Broken downloads: {human_size(use.parts)}",
    ))  # fmt: skip


def _images(store: Store, use: Use) -> Iterator[dict[str, str]]:
    """The rows of `ls`, newest first, with sizes on disk."""
    from fusemount.cli.ages import human_size
    from fusemount.cli.imagerows import image_rows
    from fusemount.store.listing import listed_of
    from fusemount.store.summary import Summaries

    summaries = Summaries(store.layout, tolerant=True)
    listed = [(listed_of(each.image, summaries), each) for each in use.images]
    for one, each in sorted(listed, key=lambda pair: pair[0].created, reverse=True):
        for row in image_rows([one]):
            yield row | {
                "Size": human_size(each.size),
                "SharedSize": human_size(each.shared),
                "UniqueSize": human_size(each.unique),
                "Containers": str(each.mounts),
            }


def _object(store: Store, use: Use, chunks: _Chunks) -> dict[str, Any]:
    return {
        "Images": [
            {
                "Id": each.image.image_id,
                "ManifestDigest": each.image.digest,
                "RepoTags": [name.familiar for name in each.image.names],
                "Size": each.size,
                "SharedSize": each.shared,
                "UniqueSize": each.unique,
                "Mounts": each.mounts,
            }
            for each in use.images
        ],
        "ImagesSize": use.blobs,
        "Reclaimable": use.reclaimable,
        "CacheSize": use.cache,
        "ChunksSize": chunks.size,
        "ChunksLimit": chunks.limit,
        "OrphansSize": use.orphans,
        "BrokenDownloadsSize": use.parts,
        "Root": str(store.root),
    }
