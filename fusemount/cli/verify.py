"""`imgmount verify [IMAGE...]`: recomputes all digests and indexes of the store, and prints every
mismatch."""

from __future__ import annotations

import json
from dataclasses import asdict

from fusemount.cli.arguments import Parser, open_store
from fusemount.errors import VerificationFailed


def parser() -> Parser:
    p = Parser("verify", "Recompute every digest, diff_id, index and map of the store; name every "
                         "mismatch, and what nothing leads to.")  # fmt: skip
    p.add_argument("image", nargs="*", metavar="IMAGE", help="these alone; else the whole store")
    p.add_argument("--json", action="store_true", help="the report as a JSON object")
    p.add_argument("-q", "--quiet", action="store_true", help="mismatches alone")
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.bars import terminal_progress
    from fusemount.escape import printable
    from fusemount.layer import SilentProgress
    from fusemount.store.verify import verify

    store = open_store()
    only = [store.find(name).digest for name in args.image]
    progress = SilentProgress() if args.quiet else terminal_progress()
    report = verify(store, progress, only or None)
    if args.json:
        print(json.dumps(asdict(report), indent=4))
    else:
        for line in report.mismatches:
            print(printable(line))
        for name in () if args.quiet else report.unreached:
            print(f"{printable(name)}: nothing leads to it (imgmount prune)")
    looked_at = f"{_many(report.images, 'image')}, {_many(report.blobs, 'blob')}"
    if report.mismatches:
        wrong = _many(len(report.mismatches), "mismatch", "es")
        raise VerificationFailed(f"{store.root}: {wrong} in {looked_at}")
    if not args.quiet and not args.json:
        print(f"{looked_at}: as they should be")
    return 0


def _many(number: int, what: str, more: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else more}"
