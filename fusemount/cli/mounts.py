"""`imgmount mounts`: lists the mounts, with their users and the times of mounting."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from fusemount.cli.arguments import Parser
from fusemount.cli.environment import directories
from fusemount.cli.tables import table

if TYPE_CHECKING:
    from fusemount.daemon.mountrecords import Mounted


def parser() -> Parser:
    p = Parser("mounts", "List what is mounted.")
    p.add_argument("--json", action="store_true", help="all that is known, as a JSON array")
    return p


def _described(mounted: Mounted) -> dict[str, object]:
    return {**asdict(mounted.record), "user": mounted.record.user, "state": mounted.state}


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.daemon.mountrecords import listing

    found = listing(directories().runtime)
    if args.json:
        print(json.dumps([_described(m) for m in found], indent=4))
        return 0
    rows = [
        (m.record.mountpoint, m.record.image, m.record.image_id.removeprefix("sha256:")[:12],
         "ro" if m.record.read_only else "rw", m.record.user, str(m.record.pid), m.state,
         m.record.since)
        for m in found
    ]  # fmt: skip
    print(table(("MOUNTPOINT", "IMAGE", "IMAGE ID", "MODE", "USER", "PID", "STATE", "SINCE"), rows))
    return 0
