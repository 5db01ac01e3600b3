"""Signposts: each file that a comment, a docstring or a document names exists.

Law: a file is named by its path, the end of its path, or its base name.  A base name means the file
in the directory of the file that names it, or else the only file of the project with that name.  A
module of fusemount/ that is named from another room has its room in front.  If the name has a `*`,
or a word in capitals as a placeholder, at least one file must match.  A path whose first directory
is not one of the project (`fs/fuse/dev.c`) belongs to another project.  The numbers of cases
(`test_r34_…`, "R 34") are explained in docs/semantics.md.
"""

from __future__ import annotations

import ast
import fnmatch
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
OURS = ("fusemount", "native", "tests", "scripts", "docs")
# Names without a directory that are files of other projects.
FOREIGN = {
    "config.md": "OCI image-spec", "descriptor.md": "OCI image-spec",
    "image-index.md": "OCI image-spec", "image-layout.md": "OCI image-spec",
    "layer.md": "OCI image-spec", "manifest.md": "OCI image-spec",
    "main.c": "fuse-overlayfs", "posix_acl_xattr.h": "Linux", "Python.h": "CPython",
}  # fmt: skip
# Several directories have one of each.
IN_EACH = {"room.h", "conftest.py", "__init__.py", "__main__.py"}
# Files that a build or a run makes; they are not in the repository.
MADE = ("native/fuzz/build/", "native/tests/build/")
SOURCE = re.compile(r"(?<![\w./<*{}$-])((?:[\w.*-]+/)*[\w*-]+\.(?:pyi|py|c|h|md))(?![\w/]|\.\w)")
PATH = re.compile(rf"(?<![\w./<*{{}}$-])((?:{'|'.join(OURS)})/[\w./*-]*[\w*])")
MODULE = re.compile(r"(?<![\w./])(fusemount(?:\.[a-z]\w*)+)")
CASE = re.compile(r"(?<![-\w])([MTR]) (\d+)\b|\btest_([mtr])(\d+)_")


def project() -> list[str]:
    found = [p for p in TOP.iterdir() if p.is_file()]
    for directory in OURS:
        found += (p for p in (TOP / directory).rglob("*") if p.is_file())
    names = (p.relative_to(TOP).as_posix() for p in found)
    return sorted(n for n in names if "__pycache__" not in n and not n.startswith(MADE))


FILES = project()
KNOWN = {*FILES, *(str(parent) for name in FILES for parent in Path(name).parents)}
ROOMS = {part for name in KNOWN for part in Path(name).parts}


def of_python(text: str) -> Iterator[tuple[int, str]]:
    """Comments and docstrings, with their line numbers."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
            continue
        if isinstance(node.value.value, str):
            for i, line in enumerate(node.value.value.splitlines()):
                yield node.lineno + i, line


def of_c(text: str) -> Iterator[tuple[int, str]]:
    for found in re.finditer(r"/\*.*?\*/|//[^\n]*", text, re.DOTALL):
        first = text.count("\n", 0, found.start()) + 1
        for i, line in enumerate(found[0].splitlines()):
            yield first + i, line


def mentions_of(name: str) -> Iterator[tuple[int, str]]:
    """The lines of text for readers in a file of the project; all lines of a document."""
    text = (TOP / name).read_text(errors="replace")
    if name.endswith((".py", ".pyi")) or re.match("#!.*python", text):
        yield from of_python(text)
    elif name.endswith((".c", ".h")):
        yield from of_c(text)
    elif name.endswith(".md") and "/" not in name.removeprefix("docs/"):
        yield from enumerate(text.splitlines(), 1)
    elif text.startswith("#!") or name.endswith("Makefile"):
        lines = enumerate(text.splitlines(), 1)
        yield from ((i, line) for i, line in lines if line.lstrip().startswith("#"))


def leads_to(named: str, here: str) -> list[str]:
    """The files of the project that the name `named` in the file `here` may mean."""
    directory = here.rpartition("/")[0]
    pattern = re.sub(r"(?<![a-z])[A-Z]{3,}(?![a-z])", "*", named)
    for path in (f"{directory}/{pattern}".lstrip("/"), pattern):
        found = sorted(known for known in KNOWN if fnmatch.fnmatchcase(known, path))
        if found:
            return found
    return [known for known in FILES if fnmatch.fnmatchcase(known, f"*/{pattern}")]


def problem(named: str, here: str) -> str | None:
    base = named.rpartition("/")[2]
    if named in FOREIGN or base in IN_EACH or named.startswith(MADE):
        return None
    if "/" in named and named.partition("/")[0] not in ROOMS:
        return None
    found = leads_to(named, here)
    if not found:
        return f"{named} is nowhere"
    if len(found) > 1 and not re.search("[*]|[A-Z]{3}", named):
        return f"{named} may be any of {found}"
    if named.endswith(".py") and "/" not in named and here.startswith(("fusemount/", "native/")):
        room = found[0].rpartition("/")[0]
        if room not in ("fusemount", here.rpartition("/")[0]):
            return f"{named} is in another room, {room}"
    return None


def dotted(named: str) -> str | None:
    """The problem of fusemount.a.b.C, which must be a module, or a word in that module."""
    parts = named.split(".")
    for n in range(len(parts), 0, -1):
        path = TOP.joinpath(*parts[:n])
        module = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not module.is_file():
            module = path.with_suffix(".pyi")
        if module.is_file():
            rest = parts[n : n + 1]
            if not rest or re.search(rf"\b{rest[0]}\b", module.read_text()):
                return None
            break
    return f"{named} is nowhere"


def cases() -> set[str]:
    """The numbers that docs/semantics.md explains: "R 34", ..."""
    rows = re.findall(r"^\| ([MTR]) (\d+) \|", (TOP / "docs/semantics.md").read_text(), re.M)
    return {f"{letter} {int(number)}" for letter, number in rows}


def problems(here: str) -> Iterator[str]:
    for line, shown in mentions_of(here):
        text = shown.replace("**", "")  # bold in a document
        told = [problem(m[1], here) for m in (*SOURCE.finditer(text), *PATH.finditer(text))]
        told += [dotted(m[1]) for m in MODULE.finditer(text) if f"{m[1]}.py" not in text]
        yield from (f"{here}:{line}: {each}" for each in dict.fromkeys(told) if each)


@pytest.mark.parametrize("directory", [*OURS, "."])
def test_each_file_that_is_named_is_there(directory: str) -> None:
    whose = [
        here for here in FILES if (here.partition("/")[0] if "/" in here else ".") == directory
    ]
    found = [each for here in whose for each in problems(here)]
    assert not found, "\n" + "\n".join(found)


def test_each_numbered_case_is_explained() -> None:
    known, named = cases(), set()
    for here in FILES:
        if here.startswith("tests/") and here.endswith(".py"):
            for m in CASE.finditer((TOP / here).read_text()):
                named.add(f"{m[1] or m[3].upper()} {int(m[2] or m[4])}")
    assert len(known) > 40
    assert sorted(named - known) == []


def test_names_of_the_code_in_the_architecture_are_there() -> None:
    """`img_write`, `CopyUp.with_data`, `_answering`: the last component is a word of the code."""
    spans = re.findall(r"`([A-Za-z_.]+)`", (TOP / "docs/architecture.md").read_text())
    named = {span.rpartition(".")[2] for span in spans if re.search(r"_|[a-z][A-Z]", span)}
    code = (TOP / name for name in FILES if name.startswith(("fusemount/", "native/")))
    words = {w for path in code if path.suffix in (".py", ".pyi", ".c", ".h")
             for w in re.findall(r"\w+", path.read_text())}  # fmt: skip
    assert len(named) > 40
    assert sorted(named - words) == []


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    heads = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith(".md") and n.count("/") < 2])
def test_each_link_of_a_document_leads_somewhere(name: str) -> None:
    document = TOP / name
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = document.parent / path if path else document
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize(
    ("named", "here", "right"),
    [
        ("copyup.py", "fusemount/rootfs/names.py", True),
        ("copyup.py", "fusemount/fuse/operations.py", False),
        ("rootfs/copyup.py", "fusemount/fuse/operations.py", True),
        ("native/tree/tree.h", "docs/semantics.md", True),
        ("native/tree.h", "docs/semantics.md", False),
        ("mount.py", "docs/semantics.md", False),
        ("fuzz_NAME.c", "native/fuzz/fuzz.h", True),
        ("touch.h", "native/tree/tree.h", False),
        ("fs/fuse/dev.c", "native/fast/notify.c", True),
        ("tests/fuzz/seeds/TARGET", "docs/fuzzing.md", True),
        ("tests/nothing/at-all", "docs/fuzzing.md", False),
    ],
)
def test_the_check_sees(named: str, here: str, right: bool) -> None:
    assert (problem(named, here) is None) == right
