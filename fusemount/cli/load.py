"""`imgmount load [FILE|DIR...]`: copies all images of archives, layouts or standard input into the
store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.cli.arguments import Parser, add_unpack_flag, open_store
from fusemount.errors import UsageError

if TYPE_CHECKING:
    from fusemount.budget import Budget
    from fusemount.imagename import ImageName
    from fusemount.sources.medium import Medium
    from fusemount.store import Store, StoredImage


def parser() -> Parser:
    p = Parser("load", "Bring all images of an archive or layout into the store.")
    p.add_argument("file", nargs="*", metavar="FILE|DIR",
                   help="docker-archive, OCI archive or layout, compressed or not; "
                        "- or none: standard input")  # fmt: skip
    p.add_argument("-i", "--input", metavar="FILE", action="append", default=[], help="likewise")
    p.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_unpack_flag(p)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.budget import Budget
    from fusemount.cli.transfers import shown_transfers
    from fusemount.transfer.archiveload import load_medium

    files = [*args.input, *args.file] or ["-"]
    if "-" in files and sys.stdin.isatty():
        raise UsageError("load: standard input is a terminal: name a file with -i")
    store = open_store(create=True, max_unpacked=args.max_unpacked)
    quiet = args.quiet or not sys.stderr.isatty()
    for file in files:
        lines: list[str] = []
        budget = Budget(store.unpack)

        def loaded(image: StoredImage, names: Sequence[ImageName], to: list[str] = lines) -> None:
            to += [f"Loaded image: {name.familiar}" for name in names]
            if not names:
                to.append(f"Loaded image ID: {image.image_id}")

        try:
            with _medium(store, file, budget, quiet=quiet) as medium:
                with shown_transfers(quiet=quiet) as progress:
                    load_medium(store, medium, progress, loaded=loaded, budget=budget)
        finally:
            for line in lines:
                print(line)
    return 0


def _medium(
    store: Store, file: str, budget: Budget, *, quiet: bool
) -> AbstractContextManager[Medium]:
    from fusemount.cli.bars import terminal_progress
    from fusemount.layer import SilentProgress
    from fusemount.transfer.spool import medium_at, medium_of

    progress = SilentProgress() if quiet else terminal_progress()
    if file == "-":
        return medium_of(store, sys.stdin.fileno(), "standard input", progress, budget)
    return medium_at(store, Path(file), progress, budget)
