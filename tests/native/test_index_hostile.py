"""Law: no archive makes the scanner crash, hang or grow, and no index file the loader: a bad one is
a clear error.

Thousands of damaged and cut archives are tested in native/tests/test_tarscan.c, under sanitizers.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from tarbytes import (
    BLOCK,
    END,
    assert_same,
    base256,
    header,
    member,
    pax,
    refused,
    scan,
)

from fusemount._native import FormatError, LayerIndex, Scanner


def test_t24_sizes() -> None:
    block = header(b"a")
    for raw, part in [
        (base256(2**63 - 1, 12), "beyond the largest file"),
        (base256(2**63, 12), "size is no number"),
        (base256(-1, 12), "a negative size"),
        (b"%011o" % (2**33 - 1), f"{2**33 - 1} bytes early"),
    ]:
        bent = bytearray(block)
        bent[124 : 124 + len(raw)] = raw
        bent[148:156] = b" " * 8
        bent[148:156] = b"%06o\0 " % sum(bent)
        error = refused(bytes(bent))
        assert part in error.message and error.member == b"a" and error.offset == 0


def test_t24_too_deep_too_many_too_much() -> None:
    deep = b"d/" * 10_000
    assert "20000 bytes, the limit is 8192" in refused(pax((b"path", deep)) + header(b"a")).message
    many = [(b"SCHILY.xattr.user.%d" % i, b"") for i in range(1025)]
    assert "1024 xattrs" in refused(pax(*many) + header(b"a")).message
    everywhere = pax((b"SCHILY.xattr.user.a", bytes(4096)), flag=b"g")
    assert "the limit is 4096" in refused(everywhere).message
    large = pax((b"SCHILY.xattr.user.a", bytes(65537))) + header(b"a")
    assert "the limit is 65536" in refused(large).message
    assert "the limit is 4194304" in refused(header(b"x", b"x", 2**30)).message
    half = pax((b"comment", bytes(3 * 2**20)))
    assert "the limit is 4194304" in refused(half + half).message  # nor in several headers
    assert "the limit is 4194304" in refused(header(b"x", b"L", 2**30)).message


def test_t24_ten_million_members() -> None:
    block = header(b"a") * 65_536
    scanner = Scanner()
    with pytest.raises(FormatError, match="more than 8388608 members, the limit"):
        for _ in range(10_000_000 // 65_536):
            scanner.feed(block)


@pytest.mark.parametrize("bad", [b"99 path=a\n", b"5 path=a\n", b"x path=a\n", b"8 path a\n"])
def test_t24_a_record_that_lies(bad: bytes) -> None:
    error = refused(member(b"first") + member(b"x", bad, b"x") + header(b"a"))
    assert "PAX record" in error.message and error.offset == 512


def test_t24_truncated_anywhere() -> None:
    whole = pax((b"path", b"a/b"), (b"SCHILY.xattr.user.k", b"v")) + member(b"a", b"x" * 600)
    complete = 1536 + 600
    for length in range(1, complete, 7):
        assert refused(whole[:length]).message
    assert "ends after an extended header" in refused(whole[:1024]).message
    assert "ends inside a header" in refused(whole[:1500]).message
    assert "1 bytes early" in refused(whole[: complete - 1]).message


def test_t24_an_error_is_final() -> None:
    scanner = Scanner()
    with pytest.raises(FormatError) as first:
        scanner.feed(b"x" * BLOCK)
    for again in (lambda: scanner.feed(header(b"a")), scanner.finish):
        with pytest.raises(FormatError) as second:
            again()
        assert second.value.args == first.value.args
    scanner = Scanner()
    scanner.feed(header(b"a"))
    scanner.finish()
    with pytest.raises(OSError, match="finished already"):
        scanner.finish()


# ---- LayerIndex ----


def test_scan_of_a_part_of_a_file(tmp_path: Path) -> None:
    inner = member(b"a", b"inner") + END
    path = tmp_path / "f"
    path.write_bytes(b"before" + inner + b"behind")
    with open(path, "rb") as file:
        index = LayerIndex.scan(file.fileno(), 6, len(inner))
        assert index.member(0).extents == ((0, 5, 512),)  # offsets count from the archive's start
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0
        with pytest.raises(FormatError, match="the file ends"):
            LayerIndex.scan(file.fileno(), 6, len(inner) + 7)
        with pytest.raises(ValueError, match="negative"):
            LayerIndex.scan(file.fileno(), -1, 5)
    with pytest.raises(OSError) as caught:
        LayerIndex.scan(-1, 0, 1)
    assert caught.value.errno == errno.EBADF


def test_save_and_load(tmp_path: Path) -> None:
    data = pax((b"SCHILY.xattr.user.k", b"v")) + member(b"d/a", b"1") + member(b"d/b", b"2") + END
    index = scan(data)
    path = tmp_path / "index"
    with open(path, "w+b") as file:
        index.save(file.fileno())
        loaded = LayerIndex.load(file.fileno())
    assert_same(index, loaded)
    assert loaded.nbytes == index.nbytes > 0
    del index
    assert loaded.member(1).path == b"d/b"  # the mapping outlives the descriptor
    kept = path.read_bytes()
    for damaged in (kept[:-1], kept + b"x", b"X" + kept[1:], b"", kept[:40]):
        path.write_bytes(damaged)
        with open(path, "rb") as file, pytest.raises(FormatError):
            LayerIndex.load(file.fileno())


def test_every_bit_of_a_kept_index_counts() -> None:
    """Otherwise a damaged owner, mode, size or offset of contents would be shown without notice."""
    data = pax((b"SCHILY.xattr.user.k", b"v")) + member(b"d/a", b"1") + END
    fd = os.memfd_create("index")
    scan(data).save(fd)
    kept = bytearray(os.pread(fd, 1 << 20, 0))
    for bit in range(len(kept) * 8):
        os.pwrite(fd, bytes([kept[bit // 8] ^ 1 << bit % 8]), bit // 8)
        with pytest.raises(FormatError):
            LayerIndex.load(fd)
        os.pwrite(fd, kept[bit // 8 : bit // 8 + 1], bit // 8)
    assert len(LayerIndex.load(fd)) == 1
    os.close(fd)


def test_members_are_counted_from_zero() -> None:
    index = scan(header(b"a"))
    assert len(index) == 1 and index.member(0).kind == "file"
    for i in (1, -1, 2**70):
        with pytest.raises(IndexError):
            index.member(i)
    with pytest.raises(TypeError):
        LayerIndex()


def test_members_of_a_directory_share_its_path() -> None:
    data = b"".join(header(b"some/long/directory/%d" % i) for i in range(10))
    one = scan(data[:BLOCK])
    per_member = (scan(data).nbytes - one.nbytes) / 9
    assert per_member == 120 + 1  # the entry and its own name


def test_two_threads_may_scan_at_once() -> None:
    data = header(b"a") * 20_000
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(len(scan(data)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [20_000] * 4
