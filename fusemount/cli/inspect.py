"""`imgmount inspect IMAGE...`: what `docker image inspect` prints."""

from __future__ import annotations

import json

from fusemount.cli.arguments import (
    Parser,
    add_image_flags,
    directories,
    image_options_of,
    reference_of,
)


def parser() -> Parser:
    p = Parser("inspect", "Print an image's configuration as JSON.")
    p.add_argument("image", nargs="+")
    add_image_flags(p)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.progress import terminal_progress
    from fusemount.image import docker_inspect
    from fusemount.sources import open_image

    found = []
    for name in args.image:
        with open_image(
            reference_of(name), image_options_of(args), directories(), terminal_progress()
        ) as image:
            found.append(docker_inspect(image.described()))
    print(json.dumps(found, indent=4))
    return 0
