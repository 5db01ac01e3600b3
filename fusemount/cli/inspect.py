"""`imgmount inspect IMAGE...`: prints what `docker image inspect` prints, and every digest."""

from __future__ import annotations

import json
from typing import Any

from fusemount.cli.arguments import (
    Parser,
    add_image_flags,
    image_options_of,
    reference_of,
)
from fusemount.cli.environment import directories
from fusemount.cli.template import Map, Nil, Struct, Template
from fusemount.errors import ImgmountError

# The fields that docker has for every image (api/types/container.Config). Only templates see them.
_EMPTY_CONFIG: dict[str, Any] = {
    **dict.fromkeys(("Hostname", "Domainname", "User", "Image", "WorkingDir", "StopSignal"), ""),
    **dict.fromkeys(
        ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"), False
    ),
    **dict.fromkeys(("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"), Nil()),
    **dict.fromkeys(("Labels", "Volumes", "ExposedPorts"), Map()),
    "Healthcheck": None,
}
_MAPS = ("Labels", "Volumes", "ExposedPorts")  # the image chooses their keys


def parser() -> Parser:
    p = Parser("inspect", "Print an image's configuration, digests and layers as JSON.")
    p.add_argument("image", nargs="+")
    p.add_argument("-f", "--format", metavar="TEMPLATE", help="a Go template instead of JSON")
    add_image_flags(p)
    return p


def run(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from fusemount.cli.bars import terminal_progress
    from fusemount.image import docker_inspect
    from fusemount.sources import open_image
    from fusemount.sources.stored import kept_layers

    template = Template("{{json .}}" if args.format == "json" else args.format or "")
    found, failed = [], None
    for name in args.image:
        try:
            with open_image(
                reference_of(name), image_options_of(args), directories(), terminal_progress()
            ) as image:
                found.append(docker_inspect(image.described(), kept_layers(image)))
        except ImgmountError as error:
            # As in docker, the images that were found are printed before the error.
            failed = failed or error
    if args.format:
        for each in found:
            print(template.fill(_for_template(each)))
    elif found or failed is None:
        print(json.dumps(found, indent=4, allow_nan=False))
    if failed is not None:
        raise failed
    return 0


def _for_template(described: dict[str, Any]) -> dict[str, Any]:
    """Fills the fields that the image's config lacks with empty values, as docker does."""
    config = {key: value for key, value in described["Config"].items() if value is not None}
    maps = {
        key: Map(sorted(config[key].items())) for key in _MAPS if isinstance(config.get(key), dict)
    }
    return described | {"Config": Struct(config | maps, _EMPTY_CONFIG)}
