"""Asks this machine's apt for its mirror and proxy.

Law: test images use the mirror that the machine uses for Debian bookworm, with the same proxy.  On
a machine that is no Debian they use the public mirror.
"""

from __future__ import annotations

import re
import shutil
import urllib.request
from pathlib import Path

from oracle import run

SUITE = "bookworm"
PUBLIC_MIRROR = "http://deb.debian.org/debian"
_WORTH_COPYING = re.compile(
    r"Acquire::(?:https?::.*Proxy.*|https?::Proxy|Check-Valid-Until|Check-Date|Retries) "
)


def mirror() -> str:
    """The base URL of a Debian archive that has the suite."""
    done = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages", check=False,
    )  # fmt: skip
    for line in done.stdout.decode().splitlines():
        address, release, component = line.split(" ")[:3]
        if release == SUITE and component == "main" and address.startswith("http"):
            return address.rstrip("/")
    return PUBLIC_MIRROR


def settings() -> list[str]:
    """The lines of apt.conf that are needed to reach the mirror from here."""
    lines = run("apt-config", "dump").stdout.decode().splitlines()
    return [line for line in lines if _WORTH_COPYING.match(line)]


def release_file() -> bytes:
    """The signed list of the mirror's contents: it changes with every package."""
    with urllib.request.urlopen(f"{mirror()}/dists/{SUITE}/InRelease", timeout=30) as answer:
        return bytes(answer.read())


def give_network(root: Path) -> None:
    """Lets apt in the root reach the servers that this machine's apt reaches."""
    (root / "etc/apt/sources.list").write_text(f"deb {mirror()} {SUITE} main\n")
    kept = root / "etc/apt/apt.conf.d/50host"
    lines = [*settings(), 'Acquire::Languages "none";', 'Acquire::GzipIndexes "true";']
    kept.write_text("".join(f"{line}\n" for line in lines))
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    shutil.copyfile("/etc/hosts", root / "etc/hosts")
