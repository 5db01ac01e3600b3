"""Makes the image that programs run in: a small Debian with gcc, numpy, a package repository and
sources to build.

Law: only this module needs a network, and only once.

    /srv/repo   a few real .deb files with their dependencies, apt's only source
    /srv/build  C files with many headers, and a Makefile, like a kernel's tree

dpkg calls fsync as usual, because that is a part of an installation's cost.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.tools import SETUP_SECONDS, TOP, output

INSTALLED = "apt,gcc,libc6-dev,make,python3,python3-numpy"
ADDED = ["tree", "jq", "less"]
SYSTEM_HEADERS = ["errno", "fcntl", "limits", "signal", "stdint", "stdio", "stdlib", "string",
                  "sys/stat", "time", "unistd"]  # fmt: skip
HEADERS = 40
INCLUDED = 12
FUNCTIONS = 30

MAKEFILE = """\
objects := $(patsubst %.c,%.o,$(wildcard */*.c))
all: built-in.a
built-in.a: $(objects)
\tar rcs $@ $(objects)
%.o: %.c
\tgcc -O1 -Wall -Iinclude -MMD -MP -c $< -o $@
"""

IN_CHROOT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "PYTHONDONTWRITEBYTECODE": "1",  # a shared unpacked tree must not change
}


def write(path: Path, sources: int) -> None:
    sys.path[:0] = [str(TOP), str(TOP / "tests"), str(TOP / "tests/real")]
    import hostapt  # of the tests: asks this machine's apt for mirrors and proxies

    with tempfile.TemporaryDirectory(prefix="debian-", dir=path.parent) as scratch:
        root = Path(scratch) / "root"
        options = [f"--aptopt={line}" for line in hostapt.settings()]
        output(
            ["mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=essential",
             f"--include={INSTALLED}", *options, "--dpkgopt=path-exclude=/usr/share/doc/*",
             hostapt.SUITE, root, hostapt.mirror()],
            SETUP_SECONDS, environment=os.environ | {"TMPDIR": scratch},
        )  # fmt: skip
        hostapt.give_network(root)
        _fill_repository(root)
        for name in ("etc/apt/apt.conf.d/50host", "etc/apt/apt.conf.d/99mmdebstrap",
                     "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/resolv.conf"):  # fmt: skip
            (root / name).unlink(missing_ok=True)
        _in(root, "apt-get", "update", "-qq")
        write_sources(root / "srv/build", sources)
        output(["tar", "--numeric-owner", "--sort=name", "-cpf", path, "-C", root, "."],
               SETUP_SECONDS)  # fmt: skip


def _in(root: Path, *command: str) -> str:
    return output(["chroot", root, *command], SETUP_SECONDS, environment=IN_CHROOT)


def _fill_repository(root: Path) -> None:
    """Downloads packages into the repository, and makes it the image's only source."""
    _in(root, "apt-get", "update", "-qq")
    _in(root, "apt-get", "install", "-qq", "-y", "--no-install-recommends", "--download-only",
        *ADDED)  # fmt: skip
    repository = root / "srv/repo"
    repository.mkdir(parents=True)
    index = []
    for deb in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        kept = repository / deb.name
        shutil.move(deb, kept)
        fields = _in(root, "dpkg-deb", "-f", f"/srv/repo/{deb.name}").rstrip("\n")
        with open(kept, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = kept.stat().st_size
        index.append(f"{fields}\nFilename: ./{deb.name}\nSize: {size}\nSHA256: {digest}\n")
    (repository / "Packages").write_text("\n".join(index))
    (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/srv/repo ./\n")


def write_sources(top: Path, sources: int) -> None:
    """Writes sources that include system headers and twelve of forty own headers; each own header
    includes three more."""
    include = top / "include"
    include.mkdir(parents=True)
    (top / "Makefile").write_text(MAKEFILE)
    for h in range(HEADERS):
        lines = [f'#include "part{(h + step) % HEADERS:02}.h"' for step in (1, 7, 13)]
        lines += [f"struct part{h:02} {{ int id; long values[{h + 1}]; }};"]
        lines += [f"static inline int part{h:02}_sum(const struct part{h:02} *p)",
                  "{", "\tlong sum = p->id;", f"\tfor (int i = 0; i < {h + 1}; i++)",
                  "\t\tsum += p->values[i];", "\treturn (int)sum;", "}"]  # fmt: skip
        body = "\n".join(lines)
        text = f"#ifndef PART{h}\n#define PART{h}\n{body}\n#endif\n"
        (include / f"part{h:02}.h").write_text(text)
    for s in range(sources):
        lines = [f"#include <{name}.h>" for name in SYSTEM_HEADERS]
        lines += [f'#include "part{(s * 3 + i) % HEADERS:02}.h"' for i in range(INCLUDED)]
        for f in range(FUNCTIONS):
            lines += [f"int source{s}_{f}(int a)", "{", "\tchar line[64];",
                      f'\tsnprintf(line, sizeof line, "%d %d", a, {f});',
                      "\treturn (int)strlen(line) + atoi(line);", "}"]  # fmt: skip
        place = top / f"drivers{s // 25:02}"
        place.mkdir(exist_ok=True)
        (place / f"source{s:04}.c").write_text("\n".join(lines) + "\n")
