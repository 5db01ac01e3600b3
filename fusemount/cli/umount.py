"""`imgmount umount MOUNTPOINT`: unmounts, and waits until the daemon has ended."""

from __future__ import annotations

from pathlib import Path

from fusemount.cli.arguments import Parser
from fusemount.cli.environment import directories


def parser() -> Parser:
    p = Parser("umount", "Unmount, and wait until what was written is safe.")
    p.add_argument("mountpoint", type=Path)
    how = p.add_mutually_exclusive_group()
    how.add_argument("-l", "--lazy", action="store_true", help="detach it even when it is busy")
    how.add_argument("-f", "--force", action="store_true",
                     help="write out, and end it for everybody who has it, also in other mount "
                          "namespaces: their programs get ENOTCONN")  # fmt: skip
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.daemon.umount import umount_image

    notice = umount_image(args.mountpoint, directories(), lazy=args.lazy, force=args.force)
    if notice:
        print(notice)
    return 0
