"""Options of the client: hosts, certificates, proxies, time limits.

Law: no I/O and no httpx.  The functions that take an environment get it from `cli`: only that room
may read the process' own (tests/words/test_floors.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from fusemount import __version__
from fusemount.dataclass import dataclass
from fusemount.imagename import DOCKER_HUB

DOCKER_HUB_HOST = "registry-1.docker.io"
EVERY_HOST = "*"


@dataclass(frozen=True)
class Proxies:
    """http, https: URLs of proxies.  direct: hosts and domains (with or without a leading dot) that
    are reached without a proxy, or "*" for all."""

    http: str = ""
    https: str = ""
    direct: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegistryOptions:
    """How the client connects to registries.

    insecure: hosts (`host[:port]`, or "*") for which plain http is allowed and certificates are not
    checked.  For this machine plain http is always allowed.
    ca_files: PEM files of certificate authorities, trusted besides the system's.
    certificate_directories: roots of `HOST[:PORT]/{*.crt,*.cert,*.key}`, as docker and podman have
    them; the first root that has a directory for the host counts.
    certificate_directory: used instead of the roots; it holds the files themselves (--cert-dir).
    retry_delays: seconds before the second, third … attempt; their number limits the attempts.
    retry_after_max: seconds; a request that is told to wait longer fails.
    connect_seconds: limit for making a connection.
    reply_seconds: limit for the head of an answer.
    written_seconds: the same after a PUT or PATCH, because a registry may first move the data.
    progress_bytes, progress_seconds: a body that brings fewer bytes in that time counts as broken.
    upload_chunk: bytes of one PATCH; 0: a blob is uploaded in one PUT.
    """

    insecure: frozenset[str] = frozenset()
    ca_files: tuple[Path, ...] = ()
    certificate_directories: tuple[Path, ...] = ()
    certificate_directory: Path | None = None
    proxies: Proxies = Proxies()
    user_agent: str = f"imgmount/{__version__}"
    retry_delays: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    retry_after_max: float = 120.0
    connect_seconds: float = 20.0
    reply_seconds: float = 120.0
    written_seconds: float = 900.0
    progress_bytes: int = 32 << 10
    progress_seconds: float = 30.0
    upload_chunk: int = 0

    def is_insecure(self, host: str) -> bool:
        """host: `host[:port]`.  An entry of `insecure` without a port counts for every port."""
        named = {each.lower() for each in self.insecure}
        return bool(named & {EVERY_HOST, host.lower(), bare_host(host).lower()})

    def allows_plain(self, host: str) -> bool:
        return self.is_insecure(host) or is_local(host)


def registry_host(domain: str) -> str:
    """The `host[:port]` that serves the images of a domain."""
    return DOCKER_HUB_HOST if domain == DOCKER_HUB else domain


def bare_host(host: str) -> str:
    """The host without its port, and an IPv6 address without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def is_local(host: str) -> bool:
    """True for localhost, 127.0.0.0/8 and ::1.  Other names are not looked up."""
    name = bare_host(host).lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def certificate_directories(environ: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """The roots that podman and docker use, the user's own first (containers-certs.d(5))."""
    system = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    home = environ.get("HOME")
    if uid == 0 or not home:
        return system
    config = Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config")
    return (config / "containers/certs.d", config / "docker/certs.d", *system)


def proxies(environ: Mapping[str, str]) -> Proxies:
    """The proxy variables, read as curl and Go read them: lower case first."""

    def value(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    direct = tuple(word.strip() for word in value("no_proxy").split(",") if word.strip())
    return Proxies(value("http_proxy"), value("https_proxy"), direct)
