"""`imgmount run [FLAGS] IMAGE [COMMAND...]`: runs a command in an image, with docker's flags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fusemount.cli.arguments import (
    Parser,
    add_cache_size,
    add_image_flags,
    cache_size_of,
    follows_symlink_parents,
    image_options_of,
    reference_of,
)
from fusemount.cli.environment import directories
from fusemount.errors import UsageError

# Flags that take a value. split_command() needs them to find IMAGE: all words after IMAGE belong to
# the command, also those with dashes, and argparse has no way to say that.
_WITH_VALUE = frozenset(
    ("-v", "--volume", "-e", "--env", "-w", "--workdir", "-u", "--user", "--hostname",
     "--entrypoint", "--upper", "--work", "--platform", "--max-unpacked", "--log",
     "--symlink-parents", "--override-stat", "--cache-size")
)  # fmt: skip


def parser() -> Parser:
    p = Parser(
        "run",
        "Run a command in an image. All it changes is dropped when it ends, unless --upper.",
        usage="imgmount run [FLAGS] IMAGE [COMMAND...]",
    )
    for flags, text in (
        (("--rm",), "always so: nothing stays behind"),
        (("-i", "--interactive"), "always so: standard input is the command's"),
        (("-t", "--tty"), "always so: the terminal is the command's"),
        (("--read-only",), "the command cannot write to the image"),
    ):
        p.add_argument(*flags, action="store_true", help=text)
    p.add_argument("-v", "--volume", metavar="HOST:PATH[:ro]", action="append", default=[],
                   help="show a host directory or file")  # fmt: skip
    p.add_argument("-e", "--env", metavar="K[=V]", action="append", default=[])
    p.add_argument("-w", "--workdir", metavar="DIR")
    p.add_argument("-u", "--user", metavar="USER[:GROUP]")
    p.add_argument("--hostname", metavar="NAME")
    p.add_argument("--entrypoint", metavar="PROGRAM")
    p.add_argument("--upper", metavar="DIR", type=Path, help="keep changes there")
    p.add_argument("--work", metavar="DIR", type=Path)
    p.add_argument("--symlink-parents", choices=("follow", "replace"))
    p.add_argument("--log", metavar="FILE", type=Path)
    add_cache_size(p)
    add_image_flags(p)
    return p


def split_command(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the command line in two: (flags, [IMAGE, COMMAND...])."""
    i = 0
    while i < len(argv) and argv[i].startswith("-") and argv[i] != "-":
        word = argv[i]
        if word == "--":
            return list(argv[:i]), list(argv[i + 1 :])
        i += 2 if _takes_next(word) else 1
    return list(argv[:i]), list(argv[i:])


def _takes_next(word: str) -> bool:
    if word.startswith("--"):
        return word in _WITH_VALUE
    for length, letter in enumerate(word[1:], 2):  # -it, -itv HOST:PATH, -eK=V
        if "-" + letter in _WITH_VALUE:
            return length == len(word)
    return False


def run(argv: list[str]) -> int:
    flags, rest = split_command(argv)
    args = parser().parse_args(flags)
    if not rest:
        raise UsageError("run needs an image (imgmount run --help)")

    from fusemount.cli.bars import terminal_progress
    from fusemount.sandbox.command import RunOptions, parse_volume
    from fusemount.sandbox.run import run_image
    from fusemount.settings import MountOptions

    size = args.cache_size
    return run_image(
        reference_of(rest[0]),
        image_options_of(args),
        MountOptions(
            upper=args.upper.absolute() if args.upper else None,
            work=args.work.absolute() if args.work else None,
            follow_symlink_parents=follows_symlink_parents(args),
            log=args.log.absolute() if args.log else None,
            cache_size=cache_size_of(f"--cache-size {size}", size) if size else None,
        ),
        RunOptions(
            arguments=tuple(rest[1:]),
            volumes=tuple(parse_volume(text) for text in args.volume),
            environment=tuple(args.env),
            inherited=os.environ,
            working_dir=args.workdir,
            user=args.user,
            entrypoint=args.entrypoint,
            hostname=args.hostname,
            read_only=args.read_only,
        ),
        directories(),
        terminal_progress(),
    )
