"""`imgmount help [VERB]`: prints the list of verbs, or the help of one verb."""

from __future__ import annotations

from importlib import import_module

from fusemount.cli.main import VERBS, usage
from fusemount.errors import UsageError


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    if argv[0] not in VERBS:
        raise UsageError(f"no verb {argv[0]!r} (imgmount help)")
    print(import_module("fusemount.cli." + VERBS[argv[0]][0]).parser().format_help(), end="")
    return 0
