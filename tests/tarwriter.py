"""The suite's own tar writer, byte level, independent of CPython's `tarfile`.

Law: it writes any archive, legal or not; it never checks whether a reader could read it.
The same arguments always give the same bytes.

Layers (every method returns the writer, so that calls chain; names are str or bytes):

    t = TarWriter()                          # dialect "pax"; also "gnu", "ustar", "v7"
    t.dir("etc", mode=0o755).file("etc/hosts", b"127.0.0.1 x\\n", mtime_ns=1_500_000_001)
    t.symlink("bin", "usr/bin").hardlink("etc/h2", "etc/hosts")
    t.node("dev/tty", "char", (5, 0)).node("run/pipe", "fifo")
    t.whiteout("etc/passwd").opaque("var/lib")      # .wh.passwd, var/lib/.wh..wh..opq
    t.file("x", b"", xattrs={"user.k": b"v"})       # SCHILY.xattr records
    t.sparse("s", size, [(offset, bytes), ...], version="1.0")   # "S", "0.0", "0.1", "1.0"
    t.add(path, kind, data, ...)             # everything above in one call, see its docstring
    t.pax({"path": b"x"}, kind="x")          # a raw extended header (also kind="g")
    t.raw(b"...")                            # bytes as they are
    layer = t.tar()                        # + two zero blocks; tar(end=False) leaves them out

Images around layers: imagewriter.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BLOCK = 512
TYPEFLAGS = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
    "contiguous": b"7",
}
Name = str | bytes


def _b(text: Name) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def pax_records(records: Mapping[str, bytes | str | int]) -> bytes:
    """`LEN KEY=VALUE\\n` lines, LEN counting itself."""
    out = b""
    for key, value in records.items():
        text = str(value) if isinstance(value, int) else value
        body = b" " + _b(key) + b"=" + _b(text)
        length = len(body) + 2
        while length != len(body) + 1 + len(str(length)):
            length += 1
        out += str(length).encode() + body + b"\n"
    return out


def ns_text(ns: int) -> str:
    """Seconds with nine decimals, by integers; negative times keep their sign in front."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // 10**9}.{ns % 10**9:09}"


def number(value: int, width: int, base256: bool = False) -> bytes:
    """A header number: octal with a NUL, or GNU base-256 where asked or where octal has no room."""
    if not base256 and 0 <= value < 8 ** (width - 1):
        return f"{value:0{width - 1}o}".encode() + b"\0"
    if value < 0:
        return b"\xff" + (value + 256 ** (width - 1)).to_bytes(width - 1, "big")
    return b"\x80" + value.to_bytes(width - 1, "big")


def header(
    name: bytes,
    typeflag: bytes,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    rdev: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """One 512-byte header with a right checksum; tail, where given, replaces bytes 345 to 511."""
    block = b"".join(
        (
            name[:100].ljust(100, b"\0"), number(mode, 8), number(uid, 8), number(gid, 8),
            number(size, 12), number(mtime, 12), b" " * 8, typeflag, link[:100].ljust(100, b"\0"),
            magic.ljust(8, b"\0"), bytes(64), number(rdev[0], 8), number(rdev[1], 8),
            (tail or prefix).ljust(167, b"\0"),
        )
    )  # fmt: skip
    return block[:148] + f"{sum(block):06o}\0 ".encode() + block[156:]


class TarWriter:
    """One archive being put together in memory."""

    def __init__(self, dialect: str = "pax") -> None:
        self.dialect = dialect
        self.parts: list[bytes] = []

    def raw(self, data: bytes) -> TarWriter:
        self.parts.append(data)
        return self

    def tar(self, end: bool = True) -> bytes:
        return b"".join(self.parts) + (bytes(2 * BLOCK) if end else b"")

    def pax(self, records: Mapping[str, Any], kind: str = "x") -> TarWriter:
        body = pax_records(records)
        self.raw(header(b"././@PaxHeader", kind.encode(), size=len(body)))
        return self.raw(body + _padding(len(body)))

    def gnu_long(self, kind: str, value: bytes) -> TarWriter:
        """A GNU `L` (name) or `K` (link) member."""
        magic = b"ustar  \0"
        self.raw(header(b"././@LongLink", kind.encode(), size=len(value) + 1, magic=magic))
        return self.raw(value + b"\0" + _padding(len(value) + 1))

    def add(
        self,
        path: Name,
        kind: str = "file",
        data: bytes = b"",
        *,
        mode: int | None = None,
        uid: int = 0,
        gid: int = 0,
        mtime_ns: int = 0,
        link: Name = b"",
        rdev: tuple[int, int] = (0, 0),
        xattrs: Mapping[str, bytes] | None = None,
        pax: Mapping[str, Any] | None = None,
        dialect: str | None = None,
        typeflag: bytes | None = None,
        size: int | None = None,
    ) -> TarWriter:
        """One member.  kind: a key of TYPEFLAGS; typeflag and size, where given, lie.

        Values that the dialect's header cannot have go where the dialect puts them: PAX records,
        GNU base-256 and L/K members, ustar's prefix.  pax adds records in any dialect.
        """
        dialect = dialect or self.dialect
        name, target, records = _b(path), _b(link), dict(pax or {})
        mode = (0o755 if kind == "dir" else 0o644) if mode is None else mode
        prefix = b""
        if len(name) > 100:
            if dialect == "pax":
                records["path"] = name
            elif dialect == "gnu":
                self.gnu_long("L", name)
            else:
                cut = name.rindex(b"/", 0, 156)
                prefix, name = name[:cut], name[cut + 1 :]
        if len(target) > 100:
            if dialect == "gnu":
                self.gnu_long("K", target)
            else:
                records["linkpath"] = target
        if dialect == "pax":
            if mtime_ns % 10**9 or not 0 <= mtime_ns < 8**11 * 10**9:
                records["mtime"] = ns_text(mtime_ns)
            records.update({k: v for k, v in (("uid", uid), ("gid", gid)) if v >= 8**7})
        for key, value in (xattrs or {}).items():
            records["SCHILY.xattr." + key] = value
        if records:
            self.pax(records)
        small = dialect == "pax"  # what the records hold needs no base-256 in the header
        magic = {"v7": b"", "gnu": b"ustar  \0"}.get(dialect, b"ustar\x0000")
        self.raw(
            header(
                name,
                TYPEFLAGS[kind] if typeflag is None else typeflag,
                mode=mode,
                uid=min(uid, 8**7 - 1) if small else uid,
                gid=min(gid, 8**7 - 1) if small else gid,
                size=len(data) if size is None else size,
                mtime=max(mtime_ns // 10**9, 0) if small else mtime_ns // 10**9,
                link=target,
                rdev=rdev,
                magic=magic,
                prefix=prefix,
            )
        )
        return self.raw(data + _padding(len(data)))

    def file(self, path: Name, data: bytes = b"", **more: Any) -> TarWriter:
        return self.add(path, "file", data, **more)

    def dir(self, path: Name, **more: Any) -> TarWriter:
        return self.add(path, "dir", **more)

    def symlink(self, path: Name, target: Name, **more: Any) -> TarWriter:
        return self.add(path, "symlink", link=target, **{"mode": 0o777, **more})

    def hardlink(self, path: Name, target: Name, **more: Any) -> TarWriter:
        return self.add(path, "hardlink", link=target, **more)

    def node(self, path: Name, kind: str, rdev: tuple[int, int] = (0, 0), **more: Any) -> TarWriter:
        return self.add(path, kind, rdev=rdev, **more)

    def whiteout(self, path: Name, **more: Any) -> TarWriter:
        parent, slash, name = _b(path).rpartition(b"/")
        return self.file(parent + slash + b".wh." + name, **more)

    def opaque(self, directory: Name, **more: Any) -> TarWriter:
        return self.file((_b(directory) + b"/.wh..wh..opq").lstrip(b"/"), **more)

    def sparse(
        self,
        path: Name,
        size: int,
        pieces: Sequence[tuple[int, bytes]],
        version: str = "1.0",
        **more: Any,
    ) -> TarWriter:
        """A sparse file of `size` bytes that holds pieces (offset, data), in GNU `S` (at most
        4 pieces) or PAX 0.0, 0.1, 1.0."""
        data = b"".join(d + _padding(len(d)) if version == "S" else d for _, d in pieces)
        numbers = [n for offset, d in pieces for n in (offset, len(d))]
        if version == "S":
            table = b"".join(number(n, 12) for n in numbers).ljust(96, b"\0")
            tail = bytes(41) + table + b"\0" + number(size, 12)
            head = header(_b(path), b"S", size=len(data), magic=b"ustar  \0", tail=tail, **more)
            return self.raw(head + data + _padding(len(data)))
        if version == "1.0":
            text = b"".join(b"%d\n" % n for n in [len(pieces), *numbers])
            records = {"major": 1, "minor": 0, "name": _b(path), "realsize": size}
            data = text + _padding(len(text)) + data
        elif version == "0.1":
            records = {"size": size, "numblocks": len(pieces), "name": _b(path)}
            records["map"] = ",".join(map(str, numbers))
        else:
            self._sparse_00(size, pieces)
            return self.add(path, "file", data, **more)
        return self.add(
            path, "file", data, pax={"GNU.sparse." + k: v for k, v in records.items()}, **more
        )

    def _sparse_00(self, size: int, pieces: Sequence[tuple[int, bytes]]) -> None:
        # 0.0 repeats its keys, which a dict cannot hold
        body = pax_records({"GNU.sparse.size": size, "GNU.sparse.numblocks": len(pieces)})
        for offset, d in pieces:
            body += pax_records({"GNU.sparse.offset": offset, "GNU.sparse.numbytes": len(d)})
        self.raw(header(b"././@PaxHeader", b"x", size=len(body)) + body + _padding(len(body)))
