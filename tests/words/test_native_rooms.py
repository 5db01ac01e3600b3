"""The rooms of native/: includes point down only, as each room.h says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"
ROOMS = sorted(path.parent for path in NATIVE.glob("*/room.h"))
SOURCES = [path for room in ROOMS for path in sorted(room.glob("*.[ch]"))]
NO_ROOMS = {"tests", "fuzz"}


def law(room: Path) -> set[str]:
    """The rooms that this one may include, from the line `May include: a, b.` of its room.h."""
    found = re.search(r"May include: ([a-z, ]+)\.", (room / "room.h").read_text())
    assert found, f"{room.name}/room.h does not say what the room may include"
    return set(found[1].split(", ")) - {"no other room"}


def included(path: Path) -> set[str]:
    return set(re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE))


def test_the_rooms_are_found() -> None:
    names = {room.name for room in ROOMS}
    assert names == {path.name for path in NATIVE.iterdir() if path.is_dir()} - NO_ROOMS
    assert len(SOURCES) > 2 * len(ROOMS)
    assert not list(NATIVE.glob("*.[ch]")), "a file of C that stands in no room"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_includes_point_down(path: Path) -> None:
    room = path.parent
    for name in included(path):
        there, _, header = name.partition("/")
        assert header, f'"{name}" does not say which room'
        assert (NATIVE / name).is_file(), f'"{name}" is nowhere'
        assert there == room.name or there in law(room), f"{room.name}/ may not include {name}"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.suffix == ".c" and path.parent.name != "py"],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)  # fmt: skip
def test_each_source_has_its_header(path: Path) -> None:
    assert path.with_suffix(".h").is_file()
    assert f"{path.parent.name}/{path.stem}.h" in included(path)


def test_no_room_leads_to_itself() -> None:
    """A room's list also has all rooms that the rooms in the list may include."""
    for room in ROOMS:
        above = law(room)
        assert room.name not in above
        for each in above:
            assert law(NATIVE / each) <= above, f"{room.name}/ may include {each}/"


def test_only_one_room_includes_python() -> None:
    users = {path.parent.name for path in SOURCES if "<Python.h>" in path.read_text()}
    assert users == {"py"}
