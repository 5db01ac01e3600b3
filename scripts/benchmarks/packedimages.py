"""Makes the images of the works on compressed layers, each in all FORMS, as OCI layouts.

Law: contents are those of real programs, because how well bytes compress decides the figures.  All
is made once for a size and kept; every file and layout appears under its name when it is whole.

    python    a small Debian with gcc, numpy of PyPI as a layer of its own, and files of the
              machine's /usr in layers of at most MORE bytes, until gzip layers have packed_mib
    entries   the same with 100,000 empty files in one layer more
    large     one file, `large`, of all layers' tars one after another
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import zstandard

from benchmarks.images import BLOCK, MIB, header
from benchmarks.storing import write_layout
from benchmarks.tools import SETUP_SECONDS, Failure, output
from benchmarks.works import Bench

FORMS = {"plain": "tar", "gzip": "tar+gzip", "zstd": "tar+zstd", "zstd in frames": "tar+zstd"}
"""gzip -6, zstd -3 of one frame, and zstd -3 in frames of 1 MiB; with the media type's end."""
FRAME = MIB
MORE = 400 * MIB
ENOUGH = 4 * MIB
UNPACKED = 3
"""What is packed to one byte by gzip, roughly."""
LARGE_AT = BLOCK
"""Where the contents of `large` begin in its tar."""


def layout(bench: Bench, name: str, form: str) -> Path:
    """The image's OCI layout, with all blobs in the page cache."""
    base = bench.base / f"packed-{bench.sizes.packed_mib}"
    base.mkdir(exist_ok=True)
    where = _made(
        base / f"{name}, {form}", lambda part: _layout(part, _tars(base, bench, name), form)
    )
    for blob in blobs(where):
        with open(blob, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
    return where


def blobs(layout: Path) -> list[Path]:
    """The layers, the largest first (manifest and config are smaller than ENOUGH)."""
    found = (layout / "blobs/sha256").iterdir()
    sizes = {path: path.stat().st_size for path in found}
    return sorted((p for p in sizes if _is_layer(p)), key=lambda p: -sizes[p])


def _is_layer(blob: Path) -> bool:
    with open(blob, "rb") as file:
        return file.read(1) != b"{"


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.exists():
        print(f"bench: making {path.name}", file=sys.stderr)
        part = path.with_name(path.name + ".part")
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
        make(part)
        part.rename(path)
    return path


def _layout(part: Path, tars: list[Path], form: str) -> None:
    (part / "blobs/sha256").mkdir(parents=True)
    layers: list[dict[str, str | int]] = []
    for tar in tars:
        packed = _packed(tar, form, part.parent)
        digest = _digest(packed)
        os.link(packed, part / "blobs/sha256" / digest)
        layers.append({
            "mediaType": f"application/vnd.oci.image.layer.v1.{FORMS[form]}",
            "digest": f"sha256:{digest}", "size": packed.stat().st_size,
        })  # fmt: skip
    write_layout(part, layers, [f"sha256:{_digest(tar)}" for tar in tars])


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _packed(tar: Path, form: str, base: Path) -> Path:
    if form == "plain":
        return tar
    pack = _frames if form == "zstd in frames" else _program(form)
    return _made(base / f"{tar.stem}, {form}", lambda part: pack(tar, part))


def _program(form: str) -> Callable[[Path, Path], None]:
    words = {"gzip": "gzip -6nc", "zstd": "zstd -3qc"}[form]

    def pack(tar: Path, part: Path) -> None:
        output(["sh", "-c", f'{words} <"$1" >"$2"', "sh", tar, part], SETUP_SECONDS)

    return pack


def _frames(tar: Path, part: Path) -> None:
    packer = zstandard.ZstdCompressor(level=3)
    with open(tar, "rb") as source, open(part, "wb") as out:
        while piece := source.read(FRAME):
            out.write(packer.compress(piece))


# ---- the tars ---------------------------------------------------------------------------------


def _tars(base: Path, bench: Bench, name: str) -> list[Path]:
    if name == "large":
        everything = _tars(base, bench, "python")
        return [_made(base / "one-file.tar", lambda part: _large(part, everything))]
    tars = [_linked(base, bench, "debian"), _made(base / "numpy.tar", _numpy)]
    lacking = bench.sizes.packed_mib * MIB - sum(_packed_size(tar, base) for tar in tars)
    while lacking > ENOUGH:
        start, size = (len(tars) - 2) * MORE, min(lacking * UNPACKED, MORE)
        more = partial(_more, start=start, size=size)
        tars.append(_made(base / f"more{len(tars) - 2}.tar", more))
        lacking -= _packed_size(tars[-1], base)
    if name == "entries":
        tars.append(_linked(base, bench, "hundred-thousand"))
    return tars


def _linked(base: Path, bench: Bench, name: str) -> Path:
    """A tar of the other works, under a name here, for what is packed stands beside it."""
    return _made(base / f"{name}.tar", lambda part: os.link(bench.images[name].tar, part))


def _packed_size(tar: Path, base: Path) -> int:
    return _packed(tar, "gzip", base).stat().st_size


def _numpy(part: Path) -> None:
    """numpy as `pip install` leaves it, for Debian's Python, which the image has."""
    version = output(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], 30
    ).strip()
    root = part.with_name("numpy.root")
    shutil.rmtree(root, ignore_errors=True)
    packages = root / f"usr/local/lib/python{version}/dist-packages"
    output([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:",
            "--python-version", version, "--target", packages, "numpy"], SETUP_SECONDS)  # fmt: skip
    output(["tar", "--numeric-owner", "--sort=name", "-cpf", part, "-C", root, "usr"],
           SETUP_SECONDS)  # fmt: skip
    shutil.rmtree(root)


def _more(part: Path, start: int, size: int) -> None:
    """Regular files of the machine's /usr: those that begin in this range of all their bytes."""
    names = part.with_name("names")
    at = 0
    with open(names, "wb") as out:
        for path, length in _machine_files():
            if start <= at < start + size:
                out.write(os.fsencode(path) + b"\0")
            at += length
    if at < start + size:
        raise Failure(f"/usr has only {at / MIB:.0f} MiB: choose smaller images")
    output(["tar", "--numeric-owner", "--no-recursion", "--null", "-cpf", part, "-C", "/",
            "--transform", "s,^,opt/more/,", "-T", names], SETUP_SECONDS)  # fmt: skip
    names.unlink()


def _machine_files() -> Iterator[tuple[str, int]]:
    """(path without the first slash, size), always in the same order."""
    for where, directories, names in os.walk("/usr"):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(where, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path[1:], os.path.getsize(path)


def _large(part: Path, tars: list[Path]) -> None:
    size = sum(tar.stat().st_size for tar in tars)
    with open(part, "wb") as out:
        out.write(header("large", b"0", size))
        for tar in tars:
            with open(tar, "rb") as source:
                shutil.copyfileobj(source, out, MIB)
        out.write(bytes(2 * BLOCK))  # a tar's length is a multiple of a block
