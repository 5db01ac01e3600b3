"""Law: the index of an archive that a real tar made has what GNU tar extracts from it."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tarbytes import assert_same, contents, scan

from fusemount._native import LayerIndex, Member


def build_tree(top: Path) -> None:
    """Files that the v7 format can store: short names, small ids, no devices."""
    (top / "etc").mkdir()
    (top / "etc/hosts").write_bytes(b"127.0.0.1 localhost\n")
    (top / "etc/empty").touch()
    (top / "etc/blocks").write_bytes(bytes(range(256)) * 8)
    (top / "a b\tc\nd").write_bytes(b"odd name")
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"not UTF-8")
    (top / "sticky").mkdir()
    os.chmod(top / "sticky", 0o1777)
    (top / "suid").write_bytes(b"#!")
    os.chmod(top / "suid", 0o6755)
    os.link(top / "etc/hosts", top / "hosts-too")
    os.symlink("../nowhere/at all", top / "etc/link")
    os.symlink("/", top / "slash")
    for i, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(10**9 * i, 1_500_000_000_123_456_789 + i), follow_symlinks=False)


def add_what_ustar_says(top: Path) -> None:
    deep = top / ("d" * 90) / ("e" * 60)
    deep.mkdir(parents=True)
    (deep / ("f" * 100)).write_bytes(b"155+100")
    os.mkfifo(top / "fifo", 0o640)
    if os.geteuid() == 0:
        os.mknod(top / "tty", stat.S_IFCHR | 0o620, os.makedev(5, 1))
        os.mknod(top / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
        os.chown(top / "etc/hosts", 1000, 50)


def add_what_gnu_says(top: Path) -> None:
    path = top
    for letter in "ghijklm":
        path = path / (letter * 200)
    path.mkdir(parents=True)
    (path / ("n" * 255)).write_bytes(b"long name")
    os.symlink("t" * 300, top / "long-link")
    os.link(path / ("n" * 255), top / "long-hardlink")
    os.utime(top / "suid", ns=(0, -5_000_000_000))
    if os.geteuid() == 0:
        os.chown(top / "suid", 3_000_000_000, 4_294_967_294)
        os.chmod(top / "suid", 0o6755)


def add_what_pax_says(top: Path) -> None:
    os.utime(top / "suid", ns=(0, -1_500_000_000))
    os.setxattr(top / "etc/hosts", "user.binary", b"a\0=\nb")
    os.setxattr(top / "etc", "user.of.dir", b"x" * 3000)


TREES = {
    "v7": (build_tree,),
    "ustar": (build_tree, add_what_ustar_says),
    "oldgnu": (build_tree, add_what_ustar_says, add_what_gnu_says),
    "gnu": (build_tree, add_what_ustar_says, add_what_gnu_says),
    "posix": (build_tree, add_what_ustar_says, add_what_gnu_says, add_what_pax_says),
}


def tar(*args: str | Path, cwd: Path) -> None:
    done = subprocess.run(["tar", *map(str, args)], cwd=cwd, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def scan_file(path: Path) -> tuple[LayerIndex, dict[bytes, Member]]:
    with open(path, "rb") as file:
        index = LayerIndex.scan(file.fileno(), 0, path.stat().st_size)
    data = path.read_bytes()
    assert_same(index, scan(data, 1000))
    return index, {m.path: m for m in (index.member(i) for i in range(len(index)))}


KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block", stat.S_IFIFO: "fifo",
}  # fmt: skip


def walk(top: Path) -> Iterator[tuple[bytes, bytes]]:
    base = os.fsencode(top)
    yield b"", base
    for folder, dirs, files in os.walk(base):
        for name in dirs + files:
            path = os.path.join(folder, name)
            yield os.path.relpath(path, base), path


def compare(archive: Path, extracted: Path, *, xattrs: bool) -> None:
    _, found = scan_file(archive)
    data = archive.read_bytes()
    paths = dict(walk(extracted))
    assert found.keys() == paths.keys()
    for path, real in paths.items():
        st = os.lstat(real)
        m = found[path]
        if m.kind == "hardlink":
            assert os.path.samestat(os.lstat(paths[m.link]), st)
            m = found[m.link]
        assert m.kind == KINDS[stat.S_IFMT(st.st_mode)], path
        assert m.mode == st.st_mode, path
        assert m.mtime_ns == st.st_mtime_ns, path
        if os.geteuid() == 0:
            assert (m.uid, m.gid) == (st.st_uid, st.st_gid), path
        if m.kind in ("char", "block"):
            assert m.rdev == (os.major(st.st_rdev), os.minor(st.st_rdev)), path
        if m.kind == "symlink":
            assert m.link == os.readlink(real), path
        if m.kind == "file":
            assert contents(data, m) == Path(os.fsdecode(real)).read_bytes(), path
        if xattrs and m.kind != "symlink":
            have = {n: os.getxattr(real, n) for n in os.listxattr(real)}
            assert {os.fsdecode(n): v for n, v in m.xattrs} == have, path


def round_trip(tmp_path: Path, *options: str, xattrs: bool = False) -> Path:
    """Packs tmp_path/tree, extracts it again and compares both; returns the archive."""
    archive, extracted = tmp_path / "a.tar", tmp_path / "extracted"
    extracted.mkdir()
    extra = ["--xattrs", "--xattrs-include=*", "--acls"] if xattrs else []
    tar("-cf", archive, "-C", "tree", *extra, *options, ".", cwd=tmp_path)
    tar("-xpf", archive, "-C", "extracted", "--numeric-owner", *extra, cwd=tmp_path)
    compare(archive, extracted, xattrs=xattrs)
    return archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    return top


@pytest.mark.parametrize("dialect", TREES)
def test_t17_dialects_of_gnu_tar(tmp_path: Path, tree: Path, dialect: str) -> None:
    for build in TREES[dialect]:
        build(tree)
    round_trip(tmp_path, f"--format={dialect}", xattrs=dialect == "posix")


@pytest.mark.parametrize(
    "command",
    [
        ["bsdtar", "--format=pax"], ["bsdtar", "--format=gnutar"], ["bsdtar", "--format=ustar"],
        ["busybox", "tar"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_t17_other_tars(tmp_path: Path, tree: Path, command: list[str]) -> None:
    build_tree(tree)
    (tree / "x" / ("y" * 120)).mkdir(parents=True)
    if "ustar" not in command[-1]:
        (tree / ("z" * 200)).write_bytes(b"long")
    (tmp_path / "extracted").mkdir()
    subprocess.run([*command, "-cf", "../a.tar", "."], cwd=tree, check=True, timeout=60)
    owners = ["--numeric-owner", "--delay-directory-restore"]
    tar("-xpf", "a.tar", "-C", "extracted", *owners, cwd=tmp_path)
    compare(tmp_path / "a.tar", tmp_path / "extracted", xattrs=False)


@pytest.mark.parametrize("dialect", ["gnu", "posix"])
def test_t18_atime_and_ctime(tmp_path: Path, tree: Path, dialect: str) -> None:
    (tree / "f").write_bytes(b"x")
    os.utime(tree / "f", ns=(1_400_000_000_987_654_321, 1_500_000_000_123_456_789))
    st = os.stat(tree / "f")
    option = ["--listed-incremental=snapshot"] if dialect == "gnu" else []
    tar(f"--format={dialect}", *option, "-cf", "a.tar", "-C", "tree", "f", cwd=tmp_path)
    _, found = scan_file(tmp_path / "a.tar")
    unit = 10**9 if dialect == "gnu" else 1
    assert found[b"f"].atime_ns == st.st_atime_ns // unit * unit
    assert found[b"f"].ctime_ns == st.st_ctime_ns // unit * unit


def test_t18_capabilities_and_acls(tmp_path: Path, tree: Path) -> None:
    build_tree(tree)
    v2 = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    v3 = struct.pack("<IIIIII", 0x03000001, 0x400, 0, 0, 0, 100_000)
    os.setxattr(tree / "etc/hosts", "security.capability", v2)
    os.setxattr(tree / "etc/empty", "security.capability", v3)
    subprocess.run(
        ["setfacl", "-m", "u:1234:rw,g:77:r,d:u:5:rwx,d:o:-", tree / "etc"], check=True, timeout=9
    )
    archive = round_trip(tmp_path, "--format=posix", "--numeric-owner", xattrs=True)
    _, found = scan_file(archive)
    assert dict(found[b"etc/hosts"].xattrs)[b"security.capability"] == v2
    assert dict(found[b"etc/empty"].xattrs)[b"security.capability"] == v3
    assert {n for n, _ in found[b"etc"].xattrs} == {
        b"system.posix_acl_access",
        b"system.posix_acl_default",
    }


SPARSE = {
    "gnu": ["--format=gnu"],
    "0.0": ["--format=posix", "--sparse-version=0.0"],
    "0.1": ["--format=posix", "--sparse-version=0.1"],
    "1.0": ["--format=posix", "--sparse-version=1.0"],
}


@pytest.mark.parametrize("version", SPARSE)
def test_t19_sparse_files_of_gnu_tar(tmp_path: Path, tree: Path, version: str) -> None:
    unit = 65536
    shapes = {
        "hole-first": (4 * unit, [3]),
        "hole-last": (4 * unit + 17, [0]),
        "all-hole": (5 * unit + 1, []),
        "many": (400 * unit, list(range(1, 400, 2))),  # extension blocks, a map of 2 blocks
        "odd-end": (3 * unit + 5, [1, 3]),
    }
    for name, (size, pieces) in shapes.items():
        with open(tree / name, "wb") as file:
            file.truncate(size)
            for piece in pieces:
                file.seek(piece * unit)
                file.write((b"%06d" % piece * unit)[: min(unit, size - piece * unit)])
    (tree / "after").write_bytes(b"the next member is found")
    archive = round_trip(tmp_path, "--sparse", *SPARSE[version])
    _, found = scan_file(archive)
    for name, (size, pieces) in shapes.items():
        m = found[name.encode()]
        assert m.sparse and m.size == size, name
        assert len(m.extents) == len(pieces), name
    assert not found[b"after"].sparse
