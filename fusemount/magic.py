"""Law: recognises files of unsupported formats by their first bytes, and gives advice; no I/O.

Sources: file(1)'s magic, and the formats' own documents.
"""

from __future__ import annotations

HEAD_BYTES = 0x8006  # as many bytes as are needed to recognise an ISO 9660 volume

LZ4 = b"\x04\x22\x4d\x18"  # of a frame; skippable frames have the same magic as zstd's
_UNPACK = "unpack it first"
_SYSTEM = "a file system, which `mount -o loop` shows"
_ARCHIVE = "an archive of another kind: repack it with tar"

_STARTS = (
    (LZ4, "lz4", _UNPACK),
    (b"\x02\x21\x4c\x18", "lz4", _UNPACK),
    (b"LZIP", "lzip", _UNPACK),
    (b"\x5d\x00\x00", "lzma", _UNPACK),
    (b"\x89LZO\x00\r\n\x1a\n", "lzop", _UNPACK),
    (b"LRZI", "lrzip", _UNPACK),
    (b"\x1f\x9d", "compress (.Z)", _UNPACK),
    (b"\x1f\xa0", "LZH of compress", _UNPACK),
    (b"\x1f\x1e", "pack", _UNPACK),
    (b"\xff\x06\x00\x00sNaPpY", "snappy", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "7z", _ARCHIVE),
    (b"PK\x03\x04", "zip", _ARCHIVE),
    (b"PK\x05\x06", "zip", _ARCHIVE),
    (b"Rar!\x1a\x07", "rar", _ARCHIVE),
    (b"070701", "cpio", _ARCHIVE),
    (b"070702", "cpio", _ARCHIVE),
    (b"070707", "cpio", _ARCHIVE),
    (b"\xc7\x71", "cpio", _ARCHIVE),
    (b"!<arch>\n", "ar (a .deb?)", "unpack it: the tar is in it"),
    (b"\xed\xab\xee\xdb", "rpm", "rpm2archive makes a tar of it"),
    (b"xar!", "xar", _ARCHIVE),
    (b"hsqs", "squashfs", _SYSTEM),
    (b"QFI\xfb", "qcow2", "the disk of a virtual machine: qemu-nbd shows it"),
    (b"KDMV", "vmdk", "the disk of a virtual machine: qemu-nbd shows it"),
    (b"conectix", "vhd", "the disk of a virtual machine: qemu-nbd shows it"),
    (b"vhdxfile", "vhdx", "the disk of a virtual machine: qemu-nbd shows it"),
    (b"XFSB", "xfs", _SYSTEM),
    (b"\x7fELF", "ELF", "a program or a SIF image, no container image"),
    (b"%PDF-", "PDF", "no container image"),
    (b"<!DOCTYPE", "HTML", "no container image"),
    (b"<html", "HTML", "no container image"),
    (b"{", "JSON", "no archive: a layout is given as its directory"),
)
_INSIDE = (
    (0x438, b"\x53\xef", "ext2, ext3 or ext4", _SYSTEM),
    (0x400, b"\xe2\xe1\xf5\xe0", "erofs", _SYSTEM),
    (0x400, b"\x10\x20\xf5\xf2", "f2fs", _SYSTEM),
    (0x8001, b"CD001", "ISO 9660", _SYSTEM),
    (0x1FE, b"\x55\xaa", "a disk with partitions", "losetup -P shows them"),
)
_USTAR, _USTAR_AT = b"ustar", 257


def foreign(head: bytes) -> str:
    """The message about a file that starts with head; "" for a tar and for an unknown format."""
    if head[_USTAR_AT:].startswith(_USTAR):
        return ""
    for start, name, advice in _STARTS:
        if head.startswith(start):
            return f"{name} is not supported ({advice})"
    for at, mark, name, advice in _INSIDE:
        if head[at:].startswith(mark):
            return f"{name} is not supported ({advice})"
    return ""
