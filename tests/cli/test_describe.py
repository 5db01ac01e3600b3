"""inspect, history and dump, as a user sees them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command
from tarwriter import TarWriter

from fusemount.cli.ages import age, human_size
from fusemount.cli.tables import table

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
    assert lines[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert [line.split()[0] for line in lines[2:]] == ["<missing>", "<missing>"]
    assert " years ago " in lines[3]
    assert "COPY . /" in lines[1] and lines[1].endswith("buildkit")
    assert "ENV A=1" in lines[2] and lines[2].endswith("0B")
    assert LONG[:44] + "…" in lines[3] and LONG not in lines[3]


def test_history_has_machine_forms(command: Command, image: Path) -> None:
    rows = json.loads(command("history", "--json", image).stdout)
    assert [row["created_by"] for row in rows] == ["COPY . /", "ENV A=1", LONG]
    assert LONG in command("history", "--no-trunc", image).stdout
    (found,) = json.loads(command("inspect", image).stdout)
    short = found["Id"].removeprefix("sha256:")[:12]
    ids = [short, "<missing>", "<missing>"]
    assert command("history", "-q", image).stdout.splitlines() == ids
    assert "2024-01-02T03:04:05Z" in command("history", "-H", "false", image).stdout


@pytest.mark.parametrize(
    ("created", "text"),
    [
        ("2026-01-01T00:00:00Z", "Less than a second ago"),
        ("2025-12-31T23:59:59.5+00:00", "Less than a second ago"),
        ("2025-12-31T23:59:59Z", "1 second ago"),
        ("2025-12-31T23:58:30Z", "About a minute ago"),
        ("2025-12-31T23:01:00Z", "59 minutes ago"),
        ("2025-12-31T22:58:00.123456789Z", "About an hour ago"),
        ("2025-12-30T01:00:00Z", "47 hours ago"),
        ("2025-12-19T00:00:00Z", "13 days ago"),
        ("2025-12-01T00:00:00Z", "4 weeks ago"),
        ("2025-06-01T00:00:00Z", "7 months ago"),
        ("2016-01-01T00:00:00+01:00", "10 years ago"),
        ("yesterday", "yesterday"),
        ("", "N/A"),
    ],
)
def test_ages_are_dockers(created: str, text: str) -> None:
    assert age(created, datetime(2026, 1, 1, tzinfo=UTC)) == text


def test_a_time_beyond_the_calendar(command: Command, tmp_path: Path) -> None:
    """In UTC it is in the year 10000."""
    late = "9999-12-31T23:59:59-23:59"
    image = docker_archive(tmp_path / "late.tar", [], config={
        "created": late, "history": [{"created": late, "created_by": "x", "empty_layer": True}],
    })  # fmt: skip
    assert late in command("history", "--format", "{{.CreatedAt}}", image).stdout
    assert len(command("history", image).stdout.splitlines()) == 2


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
