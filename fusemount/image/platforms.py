"""Law: decides which images run on a platform, by the rules of containerd's platforms package."""

from __future__ import annotations

import os
import re

from fusemount.errors import UsageError
from fusemount.settings import Platform

_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),  # a 32-bit process on a 64-bit core
    "loongarch64": ("loong64", ""),
}


def normalised(platform: Platform) -> Platform:
    """The platform with Go's names. The default variants of arm64 and amd64 are left out; a 32-bit
    arm without a variant becomes v7."""
    os_name = platform.os.lower()
    name = platform.architecture.lower()
    architecture, implied = _ALIASES.get(name, (name, ""))
    variant = platform.variant.lower() or implied
    if variant.isdigit():
        variant = "v" + variant
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if (architecture, variant) == ("arm", ""):
        variant = "v7"
    return Platform("darwin" if os_name == "macos" else os_name, architecture, variant)


def this_machine() -> Platform:
    return normalised(Platform("linux", os.uname().machine))


def parse_platform(text: str) -> Platform:
    """Parses `os/architecture[/variant]`, or `architecture` for Linux.  Raises UsageError."""
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"{text!r} is no platform: expected OS/ARCHITECTURE[/VARIANT]")
    return normalised(Platform(*parts))


def suiting(wanted: Platform) -> tuple[Platform, ...]:
    """The platforms whose programs run on the wanted one, best first."""
    wanted = normalised(wanted)
    chain = [wanted]
    if wanted.architecture == "amd64":
        if wanted.variant in ("v2", "v3", "v4"):
            below = range(int(wanted.variant[1]) - 1, 1, -1)
            chain += [Platform(wanted.os, "amd64", f"v{n}") for n in below]
            chain.append(Platform(wanted.os, "amd64"))
        chain.append(Platform(wanted.os, "386"))
    elif wanted.architecture == "arm64":
        if wanted.variant:
            chain.append(Platform(wanted.os, "arm64"))
        chain += [Platform(wanted.os, "arm", f"v{n}") for n in (8, 7, 6, 5)]
    elif wanted.architecture == "arm":
        top = int(wanted.variant[1:]) if re.fullmatch("v[0-9]{1,2}", wanted.variant) else 7
        chain += [Platform(wanted.os, "arm", f"v{n}") for n in range(min(top, 9) - 1, 4, -1)]
    return tuple(chain)


def rank(platform: Platform | None, wanted: Platform) -> int | None:
    """How well an image of a platform suits the wanted one: 0 is best, None not at all.

    An image without a platform suits every one, but worst: docker before 1.10 and hand-made images
    leave it out.
    """
    chain = suiting(wanted)
    if platform is None or not (platform.os and platform.architecture):
        return len(chain)
    found = normalised(platform)
    return chain.index(found) if found in chain else None
