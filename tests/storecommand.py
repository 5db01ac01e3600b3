"""`imgmount --root DIR` in this process, on a store and images of its own.

two_images(path)   a docker-archive: one:1 and one:latest; other/two:x, newer, with labels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from imagewriter import ImageSpec, docker_archive
from tarwriter import TarWriter

from fusemount.cli.main import main

SHARED = TarWriter().file("a", b"a" * 100_000).tar()
LAYERS = (SHARED, TarWriter().file("b", b"b" * 20_000).tar())
OTHER = (SHARED, TarWriter().file("c", b"c").tar())
ONE = ImageSpec(
    LAYERS,
    compress="none",  # docker cannot load zstd
    tags=("one:1", "one:latest"),
    config={
        "history": [
            {"created": "2024-01-02T03:04:05.6789Z", "created_by": "/bin/sh -c #(nop) ADD " * 4},
            {"created": "2024-01-02T03:05:00Z", "created_by": "ENV A=1", "empty_layer": True},
            {"created": "2024-02-03T04:05:06Z", "created_by": "COPY b /", "comment": "buildkit"},
        ]
    },
)
TWO = ImageSpec(
    OTHER,
    compress="none",
    tags=("other/two:x",),
    config={
        "created": "2024-06-06T07:08:09.123456789Z",
        "config": {
            "Labels": {"k": "v", "com.example.x": "y z"},
            "Cmd": ["/bin/sh", "-c"],
            "Env": ["A=1", "B=2"],
        },
    },
)


def two_images(path: Path) -> Path:
    return docker_archive(path, images=[ONE, TWO])


@dataclass
class StoreCommand:
    """Called with a command line, it returns standard output; err is the standard error."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    err: str = ""

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        found = main(["--root", str(self.root), *map(str, words)])
        out, self.err = self.capsys.readouterr()
        assert found == code, self.err
        if code:
            assert self.err.splitlines()[-1].startswith("imgmount: "), self.err
        return out


def store_command(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> StoreCommand:
    for what in ("CACHE", "STATE", "RUNTIME", "ROOT"):
        monkeypatch.setenv(f"IMGMOUNT_{what}_DIR", str(base / what.lower()))
    return StoreCommand(base / "root", capsys)
