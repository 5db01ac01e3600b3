"""Law: every codec returns the original bytes or raises MalformedImage; each test runs over all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
import zstandard
from imagewriter import compress

from fusemount.budget import Budget
from fusemount.codec import PIECE, decompress
from fusemount.compression import MAGIC_BYTES, Compression, detect
from fusemount.errors import MalformedImage

CODECS = ["gzip", "zstd", "xz", "bzip2"]
PLAIN = random.Random(21).randbytes(100_000) + bytes(3 * PIECE + 17) + b"end"


def trickle(data: bytes, step: int) -> Callable[[int], bytes]:
    """A read() that returns at most `step` bytes, as a pipe may."""
    source = io.BytesIO(data)
    return lambda n: source.read(min(n, step))


def plain(data: bytes, step: int = 1 << 30) -> bytes:
    pieces = list(decompress(trickle(data, step), detect(data[:MAGIC_BYTES]), "x.tar", Budget()))
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("codec", ["none", *CODECS])
def test_t21_round_trip(codec: str) -> None:
    data = compress(PLAIN, codec)
    assert detect(data).value == codec
    assert plain(data) == PLAIN
    assert plain(data, step=1013) == PLAIN
    assert plain(compress(b"", codec)) == b""


@pytest.mark.parametrize("codec", CODECS)
def test_t21_many_members(codec: str) -> None:
    data = compress(b"one", codec) + compress(b"", codec) + compress(PLAIN, codec)
    assert plain(data) == b"one" + PLAIN
    assert plain(data, step=7) == b"one" + PLAIN


EMPTY = {codec: compress(b"", codec) for codec in CODECS} | {
    "skippable": b"\x50\x2a\x4d\x18" + bytes(4)
}


@pytest.mark.parametrize("kind", EMPTY)
def test_t24_members_without_contents(kind: str) -> None:
    """Each costs time, and nothing of the limit of unpacked bytes."""
    codec = "zstd" if kind == "skippable" else kind
    assert plain(EMPTY[kind] * 19_000 + compress(b"end", codec)) == b"end"
    with pytest.raises(
        MalformedImage, match=r"x.tar: .*20,000 compressed members and one for each"
    ):
        plain(EMPTY[kind] * 20_001)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_t21_a_member_for_each_512_bytes(codec: str) -> None:
    """As eStargz and zstd:chunked have them for small files, twice: for a header, for contents."""
    assert plain(compress(bytes(512), codec) * 30_000) == bytes(512 * 30_000)


def test_members_of_all_streams_count_together_and_are_forgotten() -> None:
    budget = Budget()
    for name in ("a", "b"):
        for _ in range(10_000):
            budget.enter(name)
    with pytest.raises(MalformedImage):
        budget.enter("a")
    budget.forget("a")
    for _ in range(10_000):
        budget.enter("a")


@pytest.mark.parametrize("codec", CODECS)
def test_t21_a_full_piece_leaves_nothing_behind(codec: str) -> None:
    for size in (PIECE - 1, PIECE, PIECE + 1, 2 * PIECE):
        assert plain(compress(bytes(size), codec)) == bytes(size)


@pytest.mark.parametrize("tail", [b"\0", bytes(5000), b"garbage behind it", b"\0\0x"])
@pytest.mark.parametrize("codec", ["gzip", "bzip2"])
def test_t21_padding_and_garbage_behind_the_last_member(codec: str, tail: bytes) -> None:
    data = compress(PLAIN, codec) + tail
    tool = subprocess.run([codec, "-dc"], input=data, capture_output=True, check=False)
    assert plain(data) == tool.stdout == PLAIN
    assert plain(data, step=3000) == PLAIN


def test_t21_xz_padding() -> None:
    data = lzma.compress(b"one") + bytes(8) + lzma.compress(b"two")
    assert plain(data + bytes(4)) == b"onetwo"
    for bad in (data + bytes(3), data + b"junk"):
        with pytest.raises(MalformedImage, match=r"x\.tar: xz stream"):
            plain(bad)


def test_t21_zstd_skippable_frames_first_between_and_last() -> None:
    skip = struct.pack("<II", 0x184D2A53, 5) + b"12345"
    frames = [zstandard.compress(p) for p in (b"one", b"two")]
    assert plain(skip + frames[0] + skip + skip + frames[1] + skip) == b"onetwo"
    assert plain(skip) == b""


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("level", [1, 19])
def test_t21_zstd_frames_of_every_header(checksum: bool, sized: bool, level: int) -> None:
    for size in (0, 1, 200, 300, 70_000, 400_000):
        content = PLAIN[:size]
        compressor = zstandard.ZstdCompressor(
            level=level, write_checksum=checksum, write_content_size=sized
        )
        if sized:
            frame = compressor.compress(content)
        else:
            stream = compressor.compressobj()
            frame = stream.compress(content) + stream.flush()
        assert plain(frame + frame) == content * 2
        for cut in {1, 3, 4, 5, 6, len(frame) // 2, len(frame) - 1}:
            if cut < len(frame):
                with pytest.raises(MalformedImage):
                    plain(frame + frame[:cut])


def test_t21_pzstd(tmp_path: os.PathLike[str]) -> None:
    made = subprocess.run(["pzstd", "-q", "-c"], input=PLAIN, stdout=subprocess.PIPE, check=True)
    assert plain(made.stdout) == PLAIN


@pytest.mark.parametrize("codec", CODECS)
def test_t24_cut_anywhere(codec: str) -> None:
    data = compress(PLAIN[:3000], codec)
    for cut in range(MAGIC_BYTES, len(data)):
        with pytest.raises(MalformedImage, match=rf"x\.tar: {codec} stream .* near byte \d+"):
            plain(data[:cut])


@pytest.mark.parametrize("codec", CODECS)
def test_t24_flipped_bits_give_an_error_or_the_same_bytes(codec: str) -> None:
    content = PLAIN[:20_000]
    data = compress(content, codec)
    if codec == "zstd":  # its checksum has to be asked for
        data = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    chance = random.Random(24)
    for _ in range(200):
        broken = bytearray(data)
        broken[chance.randrange(MAGIC_BYTES, len(data))] ^= 1 << chance.randrange(8)
        try:
            found = plain(bytes(broken))
        except MalformedImage:
            continue
        assert found == content


def test_t24_the_magic_alone_is_cut() -> None:
    for magic in (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh9"):
        with pytest.raises(MalformedImage):
            plain(magic)


def test_t24_a_zstd_window_beyond_the_limit_is_refused() -> None:
    params = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=params).compressobj()
    frame = stream.compress(bytes(1000)) + stream.flush()
    with pytest.raises(MalformedImage, match="damaged"):
        plain(frame)


def _block(kind: int, size: int, data: bytes, last: bool = False) -> bytes:
    """RFC 8878, 3.1.1.2. kind: 0 raw, 1 one byte repeated, 2 compressed."""
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + data


def _far_match(literals: bytes, distance: int) -> bytes:
    """A compressed block: the literals, then 34 bytes from `distance` bytes back; the tables of the
    sequence have one symbol each."""
    value = distance + 3
    code = value.bit_length() - 1
    body = bytes([len(literals) << 3]) + literals
    body += bytes([1, 0x54, len(literals), code, 31]) + value.to_bytes((code + 8) // 8, "little")
    return _block(2, len(body), body)


def _beyond_its_window() -> bytes:
    """A frame with a window of 1 KiB, of 240 KiB and matches from nearly as far back."""
    blocks = [_block(0, 1000, random.Random(5).randbytes(1000))]
    blocks += [_block(1, 1024, bytes([65 + i % 58])) for i in range(239)]
    blocks += [_far_match(b"\n::", 239_000 - k * 2048) for k in range(12)]
    size = 1000 + 239 * 1024 + 12 * 37 + 5
    blocks.append(_block(0, 5, b"tail\n", last=True))
    return struct.pack("<IBBI", 0xFD2FB528, 0x80, 0, size) + b"".join(blocks)


def test_t21_what_a_zstd_frame_gives_is_no_matter_of_pieces() -> None:
    """libzstd decodes a whole small frame otherwise than its pieces if matches leave its window."""
    frame = _beyond_its_window()
    found = {plain(frame, step) for step in (1, 2, 1000, 4096, 100_000, 1 << 30)}
    assert len(found) == 1 and found.pop().endswith(b"tail\n")


def _behind_the_literals() -> bytes:
    """A frame with a window of 2 KiB, and matches from where libzstd has copied what lies behind
    the literals in memory."""
    back, count = 133_632, 400
    blocks = [_block(0, 512, bytes(512)), *[_block(0, 2048, b"." * 2048)] * 65]
    blocks += [_far_match(b"\n>", back)] * count
    return struct.pack("<IBB", 0xFD2FB528, 0, 1 << 3) + b"".join(blocks) + _block(0, 0, b"", True)


def test_t24_no_frame_shows_bytes_of_the_heap() -> None:
    """MALLOC_PERTURB_ (mallopt(3)) fills what malloc gives out."""
    code = (
        "import hashlib, sys; from fusemount._native import Unpacker; "
        "unpacker = Unpacker('zstd'); unpacker.feed(sys.stdin.buffer.read()); found = b''\n"
        "while piece := unpacker.next(1 << 16): found += piece\n"
        "print(len(found), hashlib.sha256(found).hexdigest())"
    )
    frame, found = _behind_the_literals(), set()
    for fill in ("0", "85", "170"):
        done = subprocess.run(
            [sys.executable, "-c", code], input=frame, capture_output=True, check=True,
            env=os.environ | {"MALLOC_PERTURB_": fill},
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1 and int(found.pop().split()[0]) == 133_632 + 400 * 36


def test_t24_a_small_frame_with_a_large_window_is_refused() -> None:
    block = _block(1, 1000, b"x", last=True)
    for log, fits in ((27, True), (30, False)):
        header = struct.pack("<IBBI", 0xFD2FB528, 0x80, (log - 10) << 3, 1000)
        for step in (3, 1 << 30):
            if fits:
                assert plain(header + block, step) == b"x" * 1000
            else:
                with pytest.raises(MalformedImage, match="memory"):
                    plain(header + block, step)


def test_t21_detect_needs_no_more_than_it_asks_for() -> None:
    for made in (gzip.compress(b""), bz2.compress(b""), lzma.compress(b"")):
        assert detect(made[:MAGIC_BYTES]) is detect(made)
    assert detect(b"") is Compression.NONE
    assert detect(b"BZh0xx") is Compression.NONE
