"""A path that the caller names, or that lies in directories of other users, is walked once
(fusemount/walk.py): a system call gets descriptors and single names.

Here are all functions that give a system call a path as a string, each with the reason why no other
user can lead it to another file, or gains nothing by that.  A new one fails the test, and has to
use the walk or to say why not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "fusemount"
# rootfs, layer, store: see test_beneath_only.py.  fuse, image and registry open no file by a path
# of the caller's but credentials and certificates.
ROOMS = ("cli", "capture", "daemon", "sandbox", "sources", "transfer", "*.py")

OWN = "below an own directory (beneath.own_directory), which no other user can write to"
READ = (
    "only read, as cat(1) would; what is written or mounted is verified or is the caller's choice"
)
FIXED = "in a directory of root's"
COMPARED = "only compared"
DESCRIPTOR = "a descriptor"
FUNCTIONS = {
    "beneath.py": {"_secure": "the walk of own directories", "_lstat": OWN, "open_below": OWN},
    "capture/changed.py": {"_await_requests": FIXED},
    "capture/commitchanges.py": {"_check_apart": COMPARED},
    "cli/environment.py": {"_runtime_of": FIXED},
    "cli/registryflags.py": {"access_of": READ},
    "daemon/background.py": {"look": DESCRIPTOR},
    "daemon/control.py": {"_beside": OWN, "_bound": OWN},
    "daemon/holders.py": {"_namespace": FIXED},
    "daemon/log.py": {"_has_syslog": FIXED, "_to_file": DESCRIPTOR},
    "daemon/mountrecords.py": dict.fromkeys(
        ("register", "forget", "_sweep_sockets", "_records"), OWN
    ),
    "daemon/scratch.py": {"release": OWN, "__enter__": OWN, "sweep": OWN},
    "daemon/session.py": {"_drain": FIXED},
    "namedfile.py": {"open_named": "links of /dev to open files of this process"},
    "ownfile.py": dict.fromkeys(("open_file", "file_size", "is_still", "make_directory"), OWN),
    "sandbox/newroot.py": {"enter": OWN, "handle": FIXED, "_text": FIXED},
    "sandbox/userns.py": {"sub_ids": FIXED},
    "sources/containers_storage.py": {"_layer": READ, "_drivers": READ},
    "sources/docker_storage.py": dict.fromkeys(
        ("_drivers", "_layer", "_nothing", "candidates"), READ
    ),
    "sources/medium.py": {"_open": READ, "find": READ},
    "sources/opening.py": {
        **dict.fromkeys(("_from_directory", "open_image", "open_medium", "path_exists"), READ),
    },
    "sources/outer.py": {
        "unwrapped": OWN,
    },
    "sources/storages.py": {"_docker_root": READ, "_read": READ},
    "sources/stored.py": {"open_stored": OWN},
    "transfer/copying.py": {"_sweep": OWN, "_store_between": OWN},
    "transfer/spool.py": {"medium_at": READ},
    "walk.py": {"__init__": "the walk's start"},
}
IN_OS = {
    *("access", "chdir", "chmod", "chown", "link", "listdir", "lstat", "mkdir", "open", "readlink"),
    *("remove", "rename", "replace", "rmdir", "scandir", "stat", "statvfs", "symlink", "truncate"),
    *("unlink", "utime", "exists", "isdir", "isfile", "realpath", "samefile", "rmtree"),
}
OF_PATHS = {
    *("chmod", "exists", "glob", "hardlink_to", "is_dir", "is_file", "is_symlink", "iterdir"),
    *("lstat", "mkdir", "open", "read_bytes", "read_text", "rename", "resolve", "rglob", "rmdir"),
    *("samefile", "stat", "symlink_to", "touch", "unlink", "write_bytes", "write_text"),
}
NO_PATHS = {"_native", "gzip", "layerdb", "self._view", "chosen", "each", "candidate", "entry"}


def is_no_path(node: ast.expr) -> bool:
    """Descriptors, constants, and files of the kernel's file systems."""
    text = ast.unparse(node)
    kernel = text.lstrip("Pathf('\"").startswith(("/proc/", "proc/", "/dev/", "dev/", "/sys/"))
    return (
        isinstance(node, ast.Constant)
        or kernel
        or text.endswith(("fd", "number", "reader", "os.devnull"))
        or text.startswith(("fd_path(", "open_", "make_file(", "self._open"))
    )


def calls_with_a_path(function: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        called, words = node.func, {k.arg for k in node.keywords}
        if isinstance(called, ast.Name):
            if called.id == "open" and not is_no_path(node.args[0]):
                yield node
        elif isinstance(called, ast.Attribute):
            on = ast.unparse(called.value)
            if on in ("os", "os.path", "shutil"):
                below = words & {"dir_fd", "src_dir_fd", "dst_dir_fd"}
                if called.attr in IN_OS and not below and not is_no_path(node.args[0]):
                    yield node
            elif called.attr in OF_PATHS and on not in NO_PATHS and not is_no_path(called.value):
                yield node


def functions(tree: ast.AST) -> Iterator[str]:
    """Names of the functions, the innermost, that give a system call a path."""
    inner = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in inner:
        nested = {id(c) for n in ast.walk(function) if n is not function and n in inner
                  for c in calls_with_a_path(n)}  # fmt: skip
        if any(id(call) not in nested for call in calls_with_a_path(function)):
            yield function.name


MODULES = sorted(
    p for room in ROOMS
    for p in (PACKAGE.glob(room) if "*" in room else (PACKAGE / room).rglob("*.py"))
)  # fmt: skip


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_path_that_is_not_walked_has_a_reason(path: Path) -> None:
    found = set(functions(ast.parse(path.read_text())))
    assert found <= set(FUNCTIONS.get(str(path.relative_to(PACKAGE)), {}))


@pytest.mark.parametrize(
    "line",
    ["os.open(path, flags)", "open(args.file, 'w')", "Path(args.file).write_text('')",
     "path.is_dir()", "os.path.realpath(upper)", "os.stat(mountpoint)"],
)  # fmt: skip
def test_the_check_sees(line: str) -> None:
    assert list(functions(ast.parse(f"def f():\n    {line}"))) == ["f"]
