"""The floors: imports point down only, and pyfuse3 has one room (the README's picture)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "fusemount"
FLOORS = {
    0: (
        *("errors", "digest", "escape", "ownfile", "imagename", "reference", "settings", "_native"),
        *("beneath", "budget", "dataclass", "magic", "__init__"),
    ),
    1: ("image", "codec", "tar"),
    2: ("layer", "store"),  # of one floor, who is named later may use who is named before
    3: ("registry", "sources", "transfer"),
    4: ("rootfs",),
    5: ("fuse",),
    6: ("daemon",),
    7: ("cli", "__main__"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "common", "misc", "manager"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of every import, those inside functions and TYPE_CHECKING included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import hides its floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(path: Path) -> set[str]:
    used = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "fusemount" and len(parts) > 1:
            used.add(parts[1] if parts[1] in FLOOR_OF else "__init__")
    return used


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = FLOOR_OF[room(path)]
    up = {r for r in rooms_used(path) if FLOOR_OF[r] > here}
    assert not up, f"floor {here} reaches up to {up}"
    rooms = FLOORS[here]
    beside = {r for r in rooms_used(path) if FLOOR_OF[r] == here} - {room(path), "cli"}
    across = {r for r in beside if rooms.index(r) > rooms.index(room(path))}
    assert not across or here == 0, f"floor {here}: {room(path)} reaches across to {across}"


def test_pyfuse3_has_one_room() -> None:
    users = {room(p) for p in MODULES if any(n.split(".")[0] == "pyfuse3" for n in imports(p))}
    assert users == {"fuse"}


def test_the_core_never_includes_python() -> None:
    for source in (TOP / "native").glob("*.[ch]"):
        if not source.name.startswith("py_"):
            assert "Python.h" not in source.read_text(), source.name


def test_settings_come_from_above() -> None:
    """Nothing below floor 6 reads the environment."""
    for path in MODULES:
        if FLOOR_OF[room(path)] < 6:
            used = {
                n.attr
                for n in ast.walk(ast.parse(path.read_text()))
                if isinstance(n, ast.Attribute)
            }
            assert not used & {"environ", "environb", "getenv"}, path.name


def test_no_room_without_a_name_of_its_own() -> None:
    assert not {p.stem for p in MODULES} & FORBIDDEN_NAMES
    assert not {p.parent.name for p in MODULES} & FORBIDDEN_NAMES


def test_modules_begin_with_their_law() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_version_imports_little() -> None:
    """`--version` stays quick because none of these is loaded for it."""
    code = (
        "import sys; from fusemount.cli.main import main; main(['--version']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"trio", "httpx", "ssl", "pyfuse3", "rich", "zstandard", "argparse", "json"}
    heavy |= {"fusemount._native"}
    assert not heavy & set(done.stdout.split())
