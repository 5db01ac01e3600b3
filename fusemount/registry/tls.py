"""Makes the TLS context of a registry's client.

Law: the client trusts the system's certificate authorities, and those that the user keeps for a
host.

In the directory of a host, `*.crt` are authorities; `NAME.cert` with `NAME.key` is our own client
certificate (docker's "Verify repository client with certificates", containers-certs.d(5)).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from fusemount.errors import RegistryError
from fusemount.registry.options import RegistryOptions, registry_host


def tls_context(domain: str, options: RegistryOptions) -> ssl.SSLContext:
    """The context for a registry and for the hosts that it redirects to.  Raises RegistryError."""
    context = ssl.create_default_context()
    if not _system_has_authorities():
        import certifi

        context.load_verify_locations(certifi.where())
    for path in options.ca_files:
        _trust(context, path)
    directory = _directory_of(domain, options)
    if directory is not None:
        for path in _files(directory, ".crt"):
            _trust(context, path)
        for path in _files(directory, ".cert"):
            _add_client_certificate(context, path, path.with_suffix(".key"))
    if options.is_insecure(registry_host(domain)) or options.is_insecure(domain):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _system_has_authorities() -> bool:
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None:
        return True
    return paths.capath is not None and any(os.scandir(paths.capath))


def _directory_of(domain: str, options: RegistryOptions) -> Path | None:
    if options.certificate_directory is not None:
        return options.certificate_directory
    for root in options.certificate_directories:
        for name in dict.fromkeys((registry_host(domain), domain)):
            if (root / name).is_dir():
                return root / name
    return None


def _files(directory: Path, suffix: str) -> Iterator[Path]:
    try:
        yield from sorted(path for path in directory.iterdir() if path.suffix == suffix)
    except OSError as error:
        raise RegistryError(f"{directory}: {error.strerror}") from None


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise RegistryError(f"{path}: no certificate in PEM form") from None
    except OSError as error:
        raise RegistryError(f"{path}: {error.strerror}") from None


def _add_client_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise RegistryError(f"{certificate} and {key.name}: {error.reason}") from None
    except OSError as error:
        raise RegistryError(f"{certificate} and {key.name}: {error.strerror}") from None
