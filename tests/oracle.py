"""The suite's oracles: the results of GNU tar, the kernel's overlayfs and lstat(2), as dump lines.

Law: no code of imgmount takes part; only the line format is shared (fusemount.rootfs.treetext).

    unpack(tar, directory)             one layer alone, by GNU tar; `.wh.` made overlayfs' own
    overlay(layers_bottom_first, at)   context manager: the kernel's overlayfs over unpacked layers
    dump_directory(path, ...)          dump lines of a directory, in the order `imgmount dump` has
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fusemount.escape import escape, format_xattrs
from fusemount.rootfs.treetext import _TYPES, format_line

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"


def run(
    *command: str | Path, check: bool = True, **more: object
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end, bounded; its output is in the failure's text."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(c) for c in command],
        capture_output=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        **more,
    )
    if check and done.returncode:
        raise AssertionError(f"{command} gave {done.returncode}: {done.stderr.decode()[-2000:]}")
    return done


def unpack(layer: bytes, directory: Path) -> Path:
    """One layer alone in a new directory, whiteouts as overlayfs keeps them."""
    directory.mkdir(mode=0o755)
    os.utime(directory, ns=(0, 0))
    done = subprocess.run(
        ["tar", "-x", "-p", "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*",
         "-C", str(directory), "-f", "-"],
        input=layer, capture_output=True, timeout=300,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"GNU tar: {done.stderr.decode()}")
    for here, dirs, files in os.walk(os.fsencode(directory), topdown=False):
        st = os.lstat(here)
        for name in files + dirs:
            if name.startswith(PREFIX):
                _convert(here, name)
        os.utime(here, ns=(st.st_atime_ns, st.st_mtime_ns))
    return directory


def _convert(here: bytes, name: bytes) -> None:
    os.unlink(os.path.join(here, name))
    if name == OPAQUE:
        os.setxattr(here, "trusted.overlay.opaque", b"y")
    elif not os.path.lexists(os.path.join(here, name[len(PREFIX) :])):
        os.mknod(os.path.join(here, name[len(PREFIX) :]), stat.S_IFCHR, 0)
    elif os.path.isdir(os.path.join(here, name[len(PREFIX) :])):
        os.setxattr(os.path.join(here, name[len(PREFIX) :]), "trusted.overlay.opaque", b"y")


@contextmanager
def overlay(
    layers: Sequence[Path],
    at: Path,
    upper: Path | None = None,
    work: Path | None = None,
    marks: str = "redirect_dir=on,metacopy=on",
) -> Iterator[Path]:
    """The kernel's overlayfs, read-only without upper; unmounted at the end.

    marks: of an upper, which of the marks that change what a name stands for are made and obeyed.
    """
    at.mkdir(exist_ok=True)
    empty = at.with_name(at.name + ".empty")
    empty.mkdir(exist_ok=True)
    lower = [str(p) for p in reversed(layers)]
    if len(lower) == 1 and upper is None:
        lower.append(str(empty))
    options = "lowerdir=" + ":".join(lower)
    if upper:
        options += f",upperdir={upper},workdir={work},{marks}"
    else:
        options += ",redirect_dir=follow,metacopy=on"
    run("mount", "-t", "overlay", "overlay", "-o", options, at)
    try:
        yield at
    finally:
        run("umount", at)


def dump_directory(
    root: Path, *, digest: bool = True, hide: Sequence[bytes] = (b"trusted.overlay.",)
) -> list[bytes]:
    """Dump lines without a layer; nlink is counted over the names that were seen, because the
    kernel's overlayfs shows 1 for merged directories and old counts for replaced hardlinks."""
    base = os.fsencode(root)
    found = list(_walk(base, b""))
    names = Counter((st.st_dev, st.st_ino) for _, st in found if not stat.S_ISDIR(st.st_mode))
    subdirs = Counter(p.rpartition(b"/")[0] for p, st in found if stat.S_ISDIR(st.st_mode) and p)
    first: dict[tuple[int, int], bytes] = {}
    lines = []
    for path, st in found:
        full = base + path
        kind, target = _TYPES[stat.S_IFMT(st.st_mode)], b"-"
        if stat.S_ISLNK(st.st_mode):
            target = escape(os.readlink(full))
        key = (st.st_dev, st.st_ino)
        nlink = 2 + subdirs[path] if stat.S_ISDIR(st.st_mode) else names[key]
        if not stat.S_ISDIR(st.st_mode) and first.setdefault(key, path) != path:
            kind, target = b"h", escape(first[key])
        contents = b"-"
        if digest and stat.S_ISREG(st.st_mode):
            with open(full, "rb") as f:
                contents = b"sha256:" + hashlib.file_digest(f, "sha256").hexdigest().encode()
        fields = format_line(
            path or b"/", kind, st, target=target, xattrs=_xattrs(full, hide), digest=contents
        ).split(b" ")
        fields[7] = b"%d" % nlink
        lines.append(b" ".join(fields))
    return lines


def _xattrs(path: bytes, hide: Sequence[bytes]) -> bytes:
    found = {}
    for listed in os.listxattr(path, follow_symlinks=False):
        name = os.fsencode(listed)
        if not name.startswith(tuple(hide)):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return format_xattrs(found)


def _walk(base: bytes, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    st = os.lstat(base + path or b"/")
    yield path, st
    if stat.S_ISDIR(st.st_mode):
        for name in sorted(os.listdir(base + path)):
            yield from _walk(base, path + b"/" + name)


def without_layer(lines: Sequence[bytes]) -> list[bytes]:
    """Dump lines with the layer taken off, for comparing with a directory."""
    return [line.rsplit(b" ", 1)[0] + b" -" for line in lines]


def differences(ours: Sequence[bytes], theirs: Sequence[bytes]) -> str:
    """What differs, few lines; empty when nothing does. For `assert not differences(...)`."""
    extra = sorted(set(ours) - set(theirs))[:12]
    missing = sorted(set(theirs) - set(ours))[:12]
    if not extra and not missing:
        return "" if list(ours) == list(theirs) else "same lines, another order"
    return "\n".join(
        [f"ours:   {x.decode()}" for x in extra] + [f"theirs: {x.decode()}" for x in missing]
    )
