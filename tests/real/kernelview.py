"""Dumps stacked layers as the kernel's overlayfs shows them.

Law: a stack that is in ten archives is unpacked and dumped once in a session.  Stacks are the same
if the SHA-256 of their uncompressed tars are, whatever the archives' metadata say.

In one case the kernel cannot be right by itself: GNU tar makes the parent directories for which a
layer has no entry, and overlayfs then shows these.  Here they get the attributes of the directory
in the layers below (the last entry wins).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from oracle import dump_directory, overlay, run, unpack


class KernelView:
    """Unpacked layers and dumps below one directory."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lines: dict[tuple[Path, ...], list[bytes]] = {}

    def layers(self, tars: Sequence[bytes]) -> list[Path]:
        """The layers, bottom first, each unpacked by itself, with whiteouts in overlayfs' form."""
        found: list[Path] = []
        chain = hashlib.sha256()
        for tar in tars:
            chain.update(hashlib.sha256(tar).digest())
            unpacked = self._base / chain.hexdigest()[:16]
            if not unpacked.exists():
                unpack(tar, unpacked)
                self._settle_implied(unpacked, self._names(tar), found)
            found.append(unpacked)
        return found

    def _names(self, tar: bytes) -> set[bytes]:
        file = self._base / "layer.tar"
        file.write_bytes(tar)
        listed = run("tar", "-t", "--quoting-style=literal", "-f", file).stdout
        file.unlink()
        return {os.path.normpath(b"/" + name).lstrip(b"/") for name in listed.splitlines()}

    def _settle_implied(self, layer: Path, names: set[bytes], below: Sequence[Path]) -> None:
        base = os.fsencode(layer)
        for here, _, _ in os.walk(base):
            path = here[len(base) + 1 :]
            if path in names:
                continue
            givers = [os.path.join(os.fsencode(b), path) for b in reversed(below)]
            giver = next((g for g in givers if os.path.isdir(g) and not os.path.islink(g)), None)
            if giver is None:
                os.utime(here, (0, 0))
            else:
                _copy_attributes(giver, here)

    def dump(self, layers: Sequence[Path]) -> list[bytes]:
        """The dump lines, contents included, of a read-only mount of these layers."""
        stack = tuple(layers)
        if stack not in self._lines:
            with overlay(stack, self._base / "merged") as at:
                self._lines[stack] = dump_directory(at)
        return self._lines[stack]


def _copy_attributes(source: bytes, target: bytes) -> None:
    """Copies all attributes except overlayfs' marks."""
    st = os.stat(source)
    os.chown(target, st.st_uid, st.st_gid)
    os.chmod(target, st.st_mode & 0o7777)
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
