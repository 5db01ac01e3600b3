"""Law: Debian's docker-registry on a loopback port of its own, gone when the block ends.

    with real_registry(base) as registry:                          plain
    with real_registry(base, tls=make_authority(base)) as …        TLS, by an authority of our own
        and clients=authority: only for clients with a certificate of this authority
    with real_registry(base, users={"alice": "secret"}) as …       Basic
    with real_registry(base, token=tokenserver) as …               Bearer; see tokenserver.py

base: an empty directory.  `registry.domain` is `127.0.0.1:PORT`, the beginning of the images'
names.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oracle import run
from tokenserver import TokenServer

_START_SECONDS, _STOP_SECONDS = 30, 20

_CONFIG = """
version: 0.1
log: {{level: error}}
storage:
  delete: {{enabled: true}}
  filesystem: {{rootdirectory: {base}/data}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http:
  secret: it signs the state of uploads, which last over a restart
  addr: {domain}
"""


@dataclass(frozen=True)
class Authority:
    """PEM files: ca has signed certificate, which is for 127.0.0.1 and localhost."""

    ca: Path
    certificate: Path
    key: Path


def make_authority(base: Path) -> Authority:
    (base / "believed").mkdir()  # alone in it, as a directory of certs.d
    ca, ca_key, request = base / "believed/ca.crt", base / "ca.key", base / "server.csr"
    found = Authority(ca, base / "server.crt", base / "server.key")
    new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-batch")
    run(*new, "-x509", "-days", "30", "-subj", "/CN=test CA", "-keyout", ca_key, "-out", ca)
    run(*new, "-subj", "/CN=test registry", "-keyout", found.key, "-out", request)
    names = base / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    run("openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-days", "30",
        "-CAcreateserial", "-extfile", names, "-out", found.certificate)  # fmt: skip
    return found


@dataclass
class RealRegistry:
    """A server that can be killed and started again on the same port and data."""

    base: Path
    domain: str
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        log = open(self.base / "log", "ab")
        with log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(self.base / "config.yml")], stdout=log, stderr=log
            )
        host, _, port = self.domain.rpartition(":")
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > end:
                    log_text = (self.base / "log").read_text()[-2000:]
                    raise AssertionError(f"no docker-registry: {log_text}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def blob_path(self, digest: str) -> Path:
        """Where the server keeps a blob's bytes."""
        hex_digits = digest.removeprefix("sha256:")
        blobs = self.base / "data/docker/registry/v2/blobs/sha256"
        return blobs / hex_digits[:2] / hex_digits / "data"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def real_registry(
    base: Path,
    tls: Authority | None = None,
    clients: Authority | None = None,
    users: Mapping[str, str] | None = None,
    token: TokenServer | None = None,
) -> Iterator[RealRegistry]:
    domain = f"127.0.0.1:{free_port()}"
    text = _CONFIG.format(base=base, domain=domain)
    if tls is not None:
        wanted = f", clientcas: [{clients.ca}]" if clients is not None else ""
        text += f"  tls: {{certificate: {tls.certificate}, key: {tls.key}{wanted}}}\n"
    if users is not None:
        lines = [run("htpasswd", "-Bbn", *pair).stdout.decode() for pair in users.items()]
        (base / "htpasswd").write_text("".join(lines))
        text += f"auth: {{htpasswd: {{realm: test, path: {base}/htpasswd}}}}\n"
    if token is not None:
        words: dict[str, Any] = {
            "realm": token.realm,
            "service": token.service,
            "issuer": token.issuer,
            "rootcertbundle": token.certificate,
        }
        inner = ", ".join(f"{key}: {value}" for key, value in words.items())
        text += f"auth: {{token: {{{inner}}}}}\n"
    (base / "config.yml").write_text(text)
    registry = RealRegistry(base, domain)
    try:
        registry.start()
        yield registry
    finally:
        registry.stop()
