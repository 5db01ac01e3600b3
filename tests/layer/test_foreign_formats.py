"""A file that is no tar is recognised by its magic, as an archive and as a layer: one line says
what it is and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagewriter import compress, oci_archive
from tarwriter import TarWriter

from fusemount.cli.main import main
from fusemount.errors import MalformedImage

LZ4 = b"\x04\x22\x4d\x18\x64\x40\xa7" + bytes(9)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
FOREIGN = {
    "lz4": LZ4,
    "lz4 behind a skippable frame": SKIPPABLE + LZ4,
    "lz4 (legacy)": b"\x02\x21\x4c\x18",
    "lzip": b"LZIP\x01",
    "lzma": b"\x5d\x00\x00\x80\x00",
    "lzop": b"\x89LZO\x00\r\n\x1a\n",
    "lrzip": b"LRZI",
    "compress": b"\x1f\x9d\x90",
    "7z": b"7z\xbc\xaf\x27\x1c",
    "zip": b"PK\x03\x04",
    "cpio": b"070701",
    "ar": b"!<arch>\ndebian-binary",
    "rpm": b"\xed\xab\xee\xdb",
    "squashfs": b"hsqs",
    "qcow2": b"QFI\xfb",
    "ext4": bytes(0x438) + b"\x53\xef",
    "ISO 9660": bytes(0x8001) + b"CD001",
    "erofs": bytes(0x400) + b"\xe2\xe1\xf5\xe0",
    "partitions": bytes(0x1FE) + b"\x55\xaa",
}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("CACHE", "STATE", "RUNTIME", "ROOT"):
        monkeypatch.setenv(f"IMGMOUNT_{what}_DIR", str(tmp_path / "own" / what.lower()))


@pytest.mark.parametrize("name", FOREIGN)
def test_another_format_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    data = FOREIGN[name] + bytes(70_000)
    file, word = tmp_path / "file", name.partition(" ")[0] if name != "ISO 9660" else name
    file.write_bytes(data)
    archive = oci_archive(tmp_path / "a.tar", [data], tags=("t",))
    packed = oci_archive(tmp_path / "z.tar", [data], tags=("t",), compress="gzip")
    files = [["dump", file], ["load", "-q", file], ["import", file]]
    layers = [["dump", archive], ["dump", packed], ["load", "-q", packed]]
    for words in (*files, *layers, ["dump", "--no-verify", archive]):
        if "behind" in name and words[1:] in ([packed], ["-q", packed]):
            continue  # gzip around zstd is no layer; it has an error of its own
        assert main([*map(str, words)]) == MalformedImage.exit_code, words
        (line,) = capsys.readouterr().err.splitlines()
        assert word in line and "is not supported (" in line, line


def test_a_tar_is_a_tar_whatever_its_first_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for start in (b"PK\x03\x04", b"hsqs", b"070701", b"{"):
        (tmp_path / "t.tar").write_bytes(TarWriter().file(start.decode(), b"x").tar())
        assert main(["dump", str(tmp_path / "t.tar")]) == 0
    (tmp_path / "t.tar").write_bytes(compress(bytes(10240), "gzip"))
    assert main(["dump", f"tar:{tmp_path / 't.tar'}"]) == 0
    capsys.readouterr()
