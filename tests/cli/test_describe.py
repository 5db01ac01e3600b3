"""inspect, history and dump, as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command
from tarwriter import TarWriter

from fusemount.cli.history import human_size
from fusemount.cli.table import table

LONG = "RUN " + "x" * 60


@pytest.fixture
def image(tmp_path: Path) -> Path:
    layers = [
        TarWriter().dir("etc").file("etc/motd", b"hello\n").tar(),
        TarWriter().file("etc/motd", b"changed\n").symlink("link", "etc").tar(),
    ]
    history = [
        {"created": "2024-01-02T03:04:05Z", "created_by": LONG},
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created_by": "COPY . /", "comment": "buildkit"},
    ]
    return docker_archive(tmp_path / "image.tar", layers, config={"history": history})


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_inspect_prints_a_list(command: Command, image: Path) -> None:
    (found,) = json.loads(command("inspect", image).stdout)
    assert found["RepoTags"] == ["test:latest"]
    assert found["Config"]["Cmd"] == ["/bin/sh"]
    assert len(found["RootFS"]["Layers"]) == len(found["ChainIDs"]) == 2
    assert len(json.loads(command("inspect", image, image).stdout)) == 2


def test_history_is_a_table_newest_first(command: Command, image: Path) -> None:
    lines = command("history", image).stdout.splitlines()
    assert lines[0].split() == ["CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert "COPY . /" in lines[1] and lines[1].endswith("buildkit")
    assert "ENV A=1" in lines[2] and lines[2].endswith("0B")
    assert LONG[:44] + "…" in lines[3] and LONG not in lines[3]


def test_history_has_machine_forms(command: Command, image: Path) -> None:
    rows = json.loads(command("history", "--json", image).stdout)
    assert [row["created_by"] for row in rows] == ["COPY . /", "ENV A=1", LONG]
    assert LONG in command("history", "--no-trunc", image).stdout
    assert command("history", "-q", image).stdout.splitlines()[:2] == ["COPY . /", "ENV A=1"]


def test_dump_needs_no_mount(command: Command, image: Path) -> None:
    lines = command("dump", "--digest", image).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["/", "/etc", "/etc/motd", "/link"]
    assert "sha256:" in lines[2]
    (one,) = command("dump", image, "/etc/motd").stdout.splitlines()
    assert one.startswith("/etc/motd f ")
    assert command("dump", image, "/nowhere", check=False).returncode != 0


def test_dump_leaves_nothing_but_the_cache(command: Command, image: Path, tmp_path: Path) -> None:
    command("dump", image)
    assert not list((tmp_path / "state").glob("uppers/*"))


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1536, "1.54kB"), (77_800_000, "77.8MB"),
     (999_999, "1MB"), (5 * 10**15, "5e+03TB")],
)  # fmt: skip
def test_sizes_are_dockers(size: int, text: str) -> None:
    assert human_size(size) == text


def test_a_cell_stays_on_its_line() -> None:
    assert table(("A", "B"), [("x\ny", "1")]).splitlines() == ["A      B", "x\\ny   1"]
