"""Only one module resolves untrusted paths: no other gives a system call more than one untrusted
name.

What a call is given when it runs is checked by tests/rootfs/conftest.py, for all tests there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE, NATIVE = TOP / "fusemount", TOP / "native"
ROOM = PACKAGE / "beneath.py"
# The name of a socket: no call takes a directory for it; it is one name in an own directory.
SOCKETS = PACKAGE / "daemon/control.py"
CHECKED = sorted(
    p
    for where in ("rootfs", "layer", "store", "sandbox/newroot.py", "sandbox/init.py",
                  "daemon/scratch.py", "sandbox/target.py")
    for p in ((PACKAGE / where).rglob("*.py") if (PACKAGE / where).is_dir() else [PACKAGE / where])
)  # fmt: skip
SOURCES = sorted(p for p in NATIVE.glob("*/*.c")
                 if p.name != "beneath.c" and (p.parent / "room.h").is_file())  # fmt: skip
FOLLOWING = {"stat", "chmod", "chown", "utime", "link", "access"}
DIRECTORIES = {"dir_fd", "src_dir_fd", "dst_dir_fd"}


def test_there_is_something_to_check() -> None:
    assert len(CHECKED) > 30
    assert len(SOURCES) > 30
    assert all(p.is_file() for p in (*CHECKED, ROOM, SOCKETS, NATIVE / "base/beneath.c"))


def texts(tree: ast.AST) -> Iterator[str]:
    """All literals; the values in an f-string are "%"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
            yield node.value.decode("latin-1")
        elif isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "%" for p in node.values)
            yield "".join(map(str, parts))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_one_place_goes_through_a_descriptors_magic_link(path: Path) -> None:
    if path not in (ROOM, SOCKETS):
        found = [t for t in texts(ast.parse(path.read_text())) if re.search(r"self/fd/%d?/", t)]
        assert not found


def calls(function: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls os.NAME(…) with a directory's descriptor."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on, given = node.func.value, {k.arg for k in node.keywords}
            if isinstance(on, ast.Name) and on.id == "os" and DIRECTORIES & given:
                yield node.func.attr, node


def problems(tree: ast.AST) -> list[str]:
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for name, call in calls(function):
            given = {k.arg for k in call.keywords}
            if name in FOLLOWING and "follow_symlinks" not in given:
                found.append(f"line {call.lineno}: os.{name} follows a symlink")
            if name == "open" and not re.search("O_EXCL|O_NOFOLLOW", ast.unparse(function)):
                found.append(f"line {call.lineno}: os.open follows a symlink")
            if any("/" in text for argument in call.args for text in texts(argument)):
                found.append(f"line {call.lineno}: os.{name} gets more than a name")
    return found


@pytest.mark.parametrize("path", CHECKED, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_calls_with_a_directory_follow_nothing(path: Path) -> None:
    assert not problems(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "line",
    ["os.stat(name, dir_fd=fd)", "os.open(name, os.O_RDONLY, dir_fd=fd)",
     "os.unlink(nest + b'/new', dir_fd=fd)", "os.mkdir(f'{a}/{b}', dir_fd=fd)",
     "os.link(a, b, src_dir_fd=fd, dst_dir_fd=fd)"],
)  # fmt: skip
def test_the_check_sees(line: str) -> None:
    assert problems(ast.parse(f"def f():\n    {line}"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_the_core_follows_nothing(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"SYS_openat2|self/fd/%|AT_SYMLINK_FOLLOW", text)
    for call in re.findall(r"\b(?:openat|fchmodat|fstatat|utimensat|fchownat)\([^;]*;", text):
        here = re.search(r'NOFOLLOW|O_EXCL|, "\.",|AT_FDCWD, o->fd_path', call)
        assert here, call
