"""The rooms of fusemount/: imports point down only, and pyfuse3 has one room."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "fusemount"
# Modules that every room may import. They import no room, only each other.
WORDS = (
    *("errors", "digest", "escape", "ownfile", "imagename", "reference", "settings", "_native"),
    *("beneath", "budget", "compression", "dataclass", "magic", "namedfile", "record"),
    *("mountinfo", "served", "tar", "walk"),
    "__init__",
)
# What each room may import besides WORDS. The rooms of images and of mounts do not import each
# other; the last rooms import both.
IMAGES = ("image", "codec", "layer", "store", "registry", "sources", "transfer")
STANDS_ON = {
    "codec": (),
    "image": (),
    "layer": ("image", "codec"),
    "store": ("image", "codec", "layer"),
    "registry": ("image",),
    "sources": ("image", "codec", "layer", "store"),
    "transfer": ("image", "codec", "layer", "store", "registry", "sources"),
    "rootfs": (),
    "fuse": ("rootfs",),
    "daemon": ("image", "layer", "store", "sources", "rootfs", "fuse"),
    "capture": (*IMAGES, "rootfs", "daemon"),
    "sandbox": (*IMAGES, "rootfs", "daemon"),
    "cli": (*IMAGES, "rootfs", "daemon", "capture", "sandbox"),
    "__main__": ("cli",),
}
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
            assert node.level == 0, f"{path}: a relative import hides its room"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(path: Path) -> set[str]:
    used = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "fusemount" and len(parts) > 1:
            used.add(parts[1] if parts[1] in (*STANDS_ON, *WORDS) else "__init__")
    return used


def test_every_module_has_a_room() -> None:
    assert len(MODULES) > 150
    assert {room(path) for path in MODULES} | {"_native"} == {*STANDS_ON, *WORDS}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    below = {*WORDS, *STANDS_ON.get(here, ()), here}
    if here in WORDS and here != "__init__":
        assert rooms_used(path) <= set(WORDS)
    up = rooms_used(path) - below
    assert not up, f"{here} may not import {up}"


def test_no_room_stands_on_itself() -> None:
    """In the list each room comes after the rooms that it imports."""
    rooms = list(STANDS_ON)
    for name, below in STANDS_ON.items():
        assert all(rooms.index(each) < rooms.index(name) for each in below), name


def test_pyfuse3_has_one_room() -> None:
    users = {room(p) for p in MODULES if any(n.split(".")[0] == "pyfuse3" for n in imports(p))}
    assert users == {"fuse"}


def test_settings_come_from_above() -> None:
    """Only the command line reads the environment."""
    for path in MODULES:
        if room(path) != "cli":
            tree = ast.parse(path.read_text())
            used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            used |= {name.rpartition(".")[2] for name in imports(path)}
            assert not used & {"environ", "environb", "getenv", "expanduser"}, path.name


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
