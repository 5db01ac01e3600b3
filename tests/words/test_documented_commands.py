"""Documented commands work: each command in a fence of README.md, CONTRIBUTING.md and docs/ is run.

    ```sh         each line is a command
    ```console    a line `$ COMMAND`, then its output; … matches anything
    ```fstab      lines of /etc/fstab
    <!-- not run: REASON -->    before any fence: it cannot be run, or is no command

The commands of one document run in order, in one shell, as root of the machine in a mount and a
process namespace of their own: /mnt, /srv and /run are their own, /etc/fstab is empty, the working
directory and /srv have the small image `ubuntu.tar`.  A document leaves nothing mounted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from busyboximage import busybox_layers
from imagewriter import docker_archive
from mounted import Command

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]
MARK = re.compile(r"<!-- not run: \S.* -->")
# The namespace has copies of other FUSE mounts, which would keep their daemons from ending, so
# these are unmounted first.  `imgmount` is where `make install` puts it: mount(8) looks for it
# there.
PROLOGUE = """\
set -eu
grep ' - fuse' /proc/self/mountinfo | cut -d ' ' -f 5 | while read -r at; do
    umount --lazy "$(printf %b "$at")" || true
done
mount -t tmpfs none /run
mkdir /run/top /run/base /run/bin
mount --bind "$TOP" /run/top
mount --bind "$BASE" /run/base
mount --bind /usr/local/bin /run/bin
for place in /mnt /srv /usr/local/bin; do mount -t tmpfs none $place; done
[ -d "$TOP" ] || { mkdir -p "$TOP"; mount --bind /run/top "$TOP"; }
[ -d "$BASE" ] || { mkdir -p "$BASE"; mount --bind /run/base "$BASE"; }
mount --bind "$BASE/fstab" /etc/fstab
ln -s /run/bin/* /usr/local/bin
cp --remove-destination "$BASE/imgmount" /usr/local/bin/
cp "$BASE/ubuntu.tar" /srv/
mkdir "$BASE/work"
cd "$BASE/work"
cp "$BASE/ubuntu.tar" .
set +e
"""
EPILOGUE = 'grep -E " (/mnt|$BASE)/.* - fuse" /proc/self/mountinfo > "$BASE/left"\ntrue\n'


@dataclass
class Step:
    """A command and its expected output (None: anything)."""

    line: int
    command: str
    printed: str | None = None


@dataclass
class Fence:
    line: int
    kind: str
    marked: bool
    lines: list[str] = field(default_factory=list)


class Unclear(Exception):
    """A fence that has neither commands nor a mark."""


def fences(text: str) -> Iterator[Fence]:
    open_one, before = None, ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if open_one is not None and stripped == "```":
            yield open_one
            open_one = None
        elif open_one is not None:
            open_one.lines.append(line)
        elif stripped.startswith("```"):
            open_one = Fence(number, stripped[3:], bool(MARK.fullmatch(before)))
        before = stripped or before
    if open_one is not None:
        raise Unclear(f"line {open_one.line}: a fence without an end")


def steps(fence: Fence) -> list[Step]:
    found: list[Step] = []
    for number, line in enumerate(fence.lines, fence.line + 1):
        if fence.kind == "fstab":
            found.append(Step(number, f"echo '{line}' >> /etc/fstab"))
        elif fence.kind == "sh" and line.strip():
            found.append(Step(number, line))
        elif fence.kind == "console" and line.startswith("$ "):
            found.append(Step(number, line[2:], ""))
        elif fence.kind == "console" and found:
            found[-1].printed = f"{found[-1].printed}{line}\n"
    if not found:
        raise Unclear(f"line {fence.line}: a fence without command or `<!-- not run: why -->`")
    return found


def commands(text: str) -> list[Step]:
    return [step for fence in fences(text) if not fence.marked for step in steps(fence)]


def is_like(printed: str, expected: str) -> bool:
    """Whether the output matches; … in the document matches anything."""
    pattern = ".*".join(re.escape(part) for part in expected.rstrip().split("…"))
    return re.fullmatch(pattern, printed.rstrip(), re.DOTALL) is not None


def script(found: list[Step]) -> str:
    one = '{{ {}\n}} > "$BASE/{}.out" 2>&1 < /dev/null; echo $? > "$BASE/{}.code"\n'
    return PROLOGUE + "".join(one.format(s.command, s.line, s.line) for s in found) + EPILOGUE


def run(found: list[Step], base: Path) -> list[str]:
    """Runs the steps in new namespaces; returns the differences from the document."""
    docker_archive(base / "ubuntu.tar", busybox_layers(), tags=("ubuntu:latest",))
    (base / "imgmount").write_text(f'#!/bin/sh\nexec {sys.executable} -m fusemount "$@"\n')
    (base / "imgmount").chmod(0o755)
    (base / "fstab").touch()
    (base / "script").write_text(script(found))
    environment = Command(base).environment | {"TOP": str(TOP), "BASE": str(base)}
    environment |= {"PATH": f"/usr/local/bin:{os.environ['PATH']}"}
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"]
    done = subprocess.run([*namespaces, base / "script"], env=environment, timeout=60,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    wrong = []
    for step in found:
        printed = (base / f"{step.line}.out").read_text()
        code = int((base / f"{step.line}.code").read_text())
        where = f"line {step.line}: {step.command}\n{printed}"
        if step.printed is not None and not is_like(printed, step.printed):
            wrong.append(f"{where}and not\n{step.printed}")
        elif code and not (step.printed or "").startswith("imgmount: "):
            wrong.append(f"{where}exit code {code}")
    return wrong + (base / "left").read_text().splitlines()


def has_commands(document: Path) -> bool:
    try:
        return any(not fence.marked for fence in fences(document.read_text()))
    except Unclear:
        return False  # the test of fences fails


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_each_fence_is_run_or_says_why_not(document: Path) -> None:
    commands(document.read_text())


@pytest.mark.parametrize("document", [*filter(has_commands, DOCUMENTS)], ids=lambda p: p.name)
def test_the_commands_of_a_document_work(document: Path, tmp_path: Path) -> None:
    wrong = run(commands(document.read_text()), tmp_path)
    assert not wrong, f"{document.name}:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    ["```\nls\n```\n", "```sh\n```\n", "```console\nls\n```\n", "<!-- not run: -->\n```\nx\n```",
     "```sh\nls\n"],
)  # fmt: skip
def test_a_fence_without_command_or_mark_is_seen(text: str) -> None:
    with pytest.raises(Unclear):
        commands(text)


def test_what_is_not_as_it_is_said_is_seen(tmp_path: Path) -> None:
    text = """\
<!-- not run: a picture -->
```
a ─▶ b
```
```console
$ echo one
two
$ echo three
th…
$ false
```
```sh
cd /mnt; mkdir here
test -d here && ls /nowhere
mkdir m && imgmount "$BASE/ubuntu.tar" m
```
"""
    wrong = run(commands(text), tmp_path)
    assert [each.partition("\n")[0] for each in wrong[:-1]] == [
        "line 6: echo one", "line 10: false", "line 14: test -d here && ls /nowhere",
    ]  # fmt: skip
    assert " /mnt/m " in wrong[-1], "a mount that a document left"
    assert not (Path("/mnt") / "here").exists()
