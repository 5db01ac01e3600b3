"""Untrusted names, labels, histories and errors are printed readably, in one line where one is
expected, and without control codes for the terminal; with any LANG."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from imagewriter import oci_archive, oci_layout
from mounted import Command
from tarwriter import TarWriter

from fusemount.cli.terminal import message_line
from fusemount.escape import printable, quoted
from fusemount.image.fields import shown

EVIL = "x\x1b[2J\x1b]0;t\x07\x9b1m\r\u202e"  # clears a screen, sets a title, turns round
SHOWN = r"x\x1b[2J\x1b]0;t\x07\x9b1m\r\u202e"
RAW = b"n\xff\x1b[2J"  # no UTF-8
RAW_SHOWN = r"n\xff\x1b[2J"
CONFIG = {
    "config": {"Labels": {"l": EVIL}, "Env": [f"E={EVIL}"]},
    "history": [{"created_by": EVIL, "comment": EVIL}],
}


def test_words_for_people() -> None:
    name = os.fsdecode(b"\xff\x80a\xc3\xa9\n")
    assert printable(name) == r"\xff\x80aé\n"
    assert quoted(name) == r"'\xff\x80aé\n'" == shown(name)
    assert message_line(f"no file {name!r}") == r"no file '\xff\x80aé\n'"
    assert message_line(repr(r"\udcff")) == r"'\\udcff'"  # a name that spells it is left alone
    assert printable(EVIL) == SHOWN and message_line(EVIL) == SHOWN


@pytest.fixture
def command(tmp_path: Path) -> Command:
    command = Command(tmp_path / "dirs")
    layout = oci_layout(tmp_path / "oci", [TarWriter().tar()], tags=("t",), config=CONFIG)
    command("load", "-q", layout)
    index = command.base / "root/index.json"  # as another program may have written it
    document = json.loads(index.read_bytes())
    document["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": EVIL}
    index.write_text(json.dumps(document))
    return command


def on_a_terminal(command: Command, *words: str | Path, lang: str) -> bytes:
    """Runs the command on a terminal; the text of both outputs."""
    master, slave = pty.openpty()
    kept = {k: v for k, v in command.environment.items() if not k.startswith(("LC_", "PYTHON"))}
    child = subprocess.Popen(
        [sys.executable, "-m", "fusemount", *map(str, words)],
        env=kept | {"LANG": lang, "TERM": "dumb", "COLUMNS": "500"},
        stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    output = b""
    try:
        while piece := os.read(master, 1 << 16):
            output += piece
    except OSError:  # its end
        pass
    os.close(master)
    child.wait()
    return output


@pytest.mark.parametrize("lang", ["C", "C.UTF-8"])
def test_no_control_code_reaches_a_terminal(command: Command, tmp_path: Path, lang: str) -> None:
    (image,) = json.loads(command("ls", "--json").stdout)
    ident = image["Id"]
    damaged = oci_archive(tmp_path / "bad.tar", [TarWriter().file(RAW, b"x" * 5000).tar()[:1500]],
                          tags=("t",))  # fmt: skip
    verbs: list[list[str | Path]] = [
        ["ls", "--all"],
        ["ls", "--format", "{{.Tag}} {{.Repository}}"],
        ["history", "--no-trunc", "--format", "{{.CreatedBy}} {{.Comment}}", ident],
        ["inspect", ident],
        ["inspect", "--format", "{{.Config.Labels}} {{index .Config.Env 0}}", ident],
        ["inspect", f"no{EVIL}"],
        ["rm", "-f", ident],
        ["dump", damaged],
        ["dump", tmp_path / os.fsdecode(RAW)],
    ]
    for words in verbs if lang == "C" else verbs[-2:]:
        output = on_a_terminal(command, *words, lang=lang)
        text = output.replace(b"\r\n", b"\n").decode()
        assert all(c.isprintable() or c in "\n\t" for c in text), (words, text)
        assert r"\udc" not in text, (words, text)
        if words[0] == "dump":
            assert RAW_SHOWN in text and text.strip().count("\n") == 0, (words, text)
        if words[0] == "history" or "--format" in words:
            assert SHOWN in text or words[0] == "ls", (words, text)


def test_the_log_is_lines(tmp_path: Path) -> None:
    from logging import LogRecord

    from fusemount.daemon.log import LOGGER, open_log

    before = LOGGER.handlers[:], LOGGER.propagate, LOGGER.level
    try:
        open_log(tmp_path / "log", tmp_path)
        (handler,) = LOGGER.handlers
        name = os.fsdecode(RAW) + "\nimgmount[1] INFO forged"
        record = LogRecord("imgmount", 20, "", 0, "%s: gone", (name,), None)
        line = handler.format(record)
        assert RAW_SHOWN + r"\nimgmount[1]" in line and line.isprintable()
        handler.stream.close()  # type: ignore[attr-defined]
    finally:
        LOGGER.handlers[:], LOGGER.propagate = before[0], before[1]
        LOGGER.setLevel(before[2])


def test_names_in_a_diff_on_a_terminal(command: Command, tmp_path: Path) -> None:
    names = [EVIL.encode(), RAW, b"c\x9b1"]  # the last is a C1 code in Latin-1
    changed = TarWriter()
    for name in names:
        changed.file(name, b"")
    images = [
        oci_archive(tmp_path / name, [tar.tar()], tags=("t",))
        for name, tar in (("old.tar", TarWriter()), ("new.tar", changed))
    ]
    output = on_a_terminal(command, "diff", *images, lang="C.UTF-8").replace(b"\r\n", b"\n")
    text = output.decode()
    assert all(c.isprintable() or c == "\n" for c in text), text
    for shown_name in (SHOWN, RAW_SHOWN, r"c\x9b1"):
        assert f"A /{shown_name}\n" in text, text
