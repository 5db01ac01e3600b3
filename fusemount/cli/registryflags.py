"""The flags that pull, push and copy share: credentials, connections to registries, platforms."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fusemount.cli.arguments import Parser
from fusemount.errors import UsageError

if TYPE_CHECKING:
    from fusemount.transfer.pull import RegistryAccess


def add_registry_flags(parser: Parser) -> None:
    parser.add_argument("--creds", metavar="USER[:PASSWORD]", help="instead of what is logged in")
    parser.add_argument("--authfile", metavar="FILE", type=Path,
                        help="instead of auth.json and docker's config.json")  # fmt: skip
    parser.add_argument("--tls-verify", choices=("true", "false"), default="true",
                        help="false: plain http and unknown certificates will do")  # fmt: skip
    parser.add_argument("--ca-file", metavar="FILE", type=Path, action="append", default=[],
                        help="an authority to believe besides the system's")  # fmt: skip
    parser.add_argument("--cert-dir", metavar="DIR", type=Path,
                        help="instead of /etc/docker/certs.d and its like")  # fmt: skip


def add_platform_flags(parser: Parser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="which variant to take")
    which.add_argument("--all-platforms", action="store_true", help="every variant")


def access_of(args: argparse.Namespace) -> RegistryAccess:
    from fusemount.registry.credentials import (
        CredentialSources,
        credential_sources,
        parse_credentials,
    )
    from fusemount.registry.options import (
        EVERY_HOST,
        RegistryOptions,
        certificate_directories,
        proxies,
    )
    from fusemount.transfer.pull import RegistryAccess

    explicit = parse_credentials(args.creds) if args.creds else None
    sources = credential_sources(os.environ, os.geteuid(), explicit)
    if args.authfile is not None:
        sources = CredentialSources(explicit, (args.authfile,), required=True)
    for file in args.ca_file:
        if not file.is_file():
            raise UsageError(f"--ca-file {file}: no such file")
    options = RegistryOptions(
        insecure=frozenset((EVERY_HOST,)) if args.tls_verify == "false" else frozenset(),
        ca_files=tuple(args.ca_file),
        certificate_directories=certificate_directories(os.environ, os.geteuid()),
        certificate_directory=args.cert_dir,
        proxies=proxies(os.environ),
    )
    return RegistryAccess(options, sources)
