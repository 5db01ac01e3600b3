"""R 44, R 39, R 46: programs in a chroot of a mounted Debian image work, and their files stay.

The tests share one image and one upper.  Each test works in a directory of its own; then it mounts
again and checks that all files are still there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import hostapt
import pytest
from debianroot import DebianRoot, bound, run_in
from dropping import dropping_caches
from oracle import differences, dump_directory, overlay, run
from packagers import PACKAGERS
from realimage import Real
from twosides import comparable

INSTALLED = "file gcc libc6-dev git python3 python3-pip rpm rsync sqlite3"


@pytest.fixture(scope="module")
def bare(docker_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianRoot]:
    base = tmp_path_factory.mktemp("debian")
    debian = DebianRoot(base, docker_archive)
    try:
        debian.mount()
        yield debian
        debian.umount()
    finally:
        debian.umount()
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def debian(bare: DebianRoot) -> DebianRoot:
    """The mounted image, in which apt has installed a compiler, git and more through the mount."""
    hostapt.give_network(bare.at)
    bare("apt-get -q update")
    bare(f"apt-get -q install -y --no-install-recommends {INSTALLED}")
    return bare


def still_there(debian: DebianRoot, place: str) -> None:
    """Compares all files below the directory before and after a remount: every field and the
    contents."""
    before = dump_directory(debian.at / place)
    assert before[1:]
    debian.remount()
    found = differences(dump_directory(debian.at / place), before)
    assert not found, "mounted again (ours) and before (theirs):\n" + found


# ---- packages -----------------------------------------------------------------------------


def test_r44_apt_installs(debian: DebianRoot) -> None:
    debian.remount()
    listed = debian(f"dpkg-query -W -f '${{Package}} ${{Status}}\\n' {INSTALLED}")
    assert listed.count("install ok installed") == len(INSTALLED.split())
    assert debian("dpkg --audit") == ""
    # The image's layers replaced these (buildahimage.py), and other tests make them files again.
    changed = "-e /etc/skel/ -e /etc/debian_version -e /etc/issue.net"
    assert debian(f"dpkg --verify | grep -v -e /usr/share/ {changed} || true") == ""


def test_r44_apt_removes_what_a_layer_holds(debian: DebianRoot) -> None:
    """apt removes a package of the image's layers and installs it again: whiteouts, then files over
    them."""
    installed = run("find", debian.at / "lib/terminfo", "-type", "f").stdout
    debian("dpkg --purge --force-all hostname ncurses-bin ncurses-base")
    for _ in range(2):
        assert not (debian.at / "usr/bin/tput").exists()
        assert not (debian.at / "lib/terminfo").exists()
        debian.remount()
    debian("apt-get -q install -y --no-install-recommends hostname ncurses-bin ncurses-base")
    debian.remount()
    assert run("find", debian.at / "lib/terminfo", "-type", "f").stdout == installed != b""
    debian("dpkg --verify ncurses-bin ncurses-base hostname && TERM=linux tput cols")


def test_r44_dpkg_installs_an_archive(debian: DebianRoot) -> None:
    """dpkg makes and installs a .deb with a set-id program, a conffile and scripts."""
    debian("""
    mkdir -p /root/deb/pkg/DEBIAN /root/deb/pkg/usr/bin /root/deb/pkg/etc && cd /root/deb
    printf 'Package: tiny\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@t>\\n' > control
    printf 'Description: tiny\\n' >> control && cp control pkg/DEBIAN/
    echo /etc/tiny.conf > pkg/DEBIAN/conffiles && echo conf > pkg/etc/tiny.conf
    printf '#!/bin/sh\\necho configured > /etc/tiny.state\\n' > pkg/DEBIAN/postinst
    printf '#!/bin/sh\\necho tiny runs\\n' > pkg/usr/bin/tiny
    chmod 755 pkg/DEBIAN/postinst && chmod 4755 pkg/usr/bin/tiny
    dpkg-deb --root-owner-group -b pkg tiny.deb && dpkg -i tiny.deb
    sed -i 's/Version: 1/Version: 2/' pkg/DEBIAN/control
    echo : >> pkg/usr/bin/tiny && chmod 4755 pkg/usr/bin/tiny
    dpkg-deb --root-owner-group -b pkg tiny2.deb && dpkg -i tiny2.deb
    """)
    still_there(debian, "root/deb")
    assert debian("dpkg-query -W -f '${Version}' tiny; cat /etc/tiny.state") == "2configured\n"
    assert (debian.at / "usr/bin/tiny").stat().st_mode & 0o7777 == 0o4755
    debian("dpkg --purge tiny")
    debian.remount()
    assert not (debian.at / "etc/tiny.conf").exists()
    assert not (debian.at / "usr/bin/tiny").exists()


# ---- programs -----------------------------------------------------------------------------

GIT = """
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a
mkdir -p "$1" && cd "$1" && git init -q -b main one && cd one
cp -r /etc/apt /usr/share/perl5 . && git add . && git commit -qm first
for i in 1 2 3 4 5; do
    echo $i >> file && mkdir -p d$i && mv apt d$i/apt && git add -A && git commit -qm $i
    mv d$i/apt apt
done
git checkout -q -b side HEAD~3 && git checkout -q main && git gc -q --prune=now
git clone -q . ../two && git -C ../two fsck --strict && git fsck --strict
git -C ../two log --oneline | wc -l
"""

GCC = """
mkdir -p "$1" && cd "$1"
i=0; while [ $i -lt 8 ]; do
    echo "int f$i(int x) { return x + $i; }" > f$i.c && gcc -O2 -c f$i.c && i=$((i + 1))
done
ar rcs libf.a f*.o && gcc -shared -o libf.so -x c f0.c f1.c
cat > main.c <<'C'
#include <stdio.h>
int f7(int);
int main(void) { printf("%d\\n", f7(35)); return 0; }
C
gcc -O2 -g main.c libf.a -o main && ./main
"""

TAR = """
mkdir -p "$1/out" && cd "$1"
tar -C / --xattrs --acls --sparse -c usr/lib/python3.11 opt etc \
    | tar -C out --xattrs --acls -p --same-owner -x
"""


def test_r44_python_runs(debian: DebianRoot) -> None:
    assert debian("python3 -c 'import json, ssl, sqlite3, zlib; print(json.dumps([1]))'") == "[1]\n"
    debian("""
    mkdir -p /root/py/pkg && cd /root/py && echo 'VALUE = 41' > pkg/__init__.py
    python3 -c 'import pkg; assert pkg.VALUE == 41'
    echo 'VALUE = 41 + 1' > pkg/__init__.py
    python3 -c 'import pkg; assert pkg.VALUE == 42'
    python3 -m compileall -q -f pkg && python3 -m venv --without-pip venv
    venv/bin/python -c 'import sys; assert sys.prefix == "/root/py/venv"'
    """)
    still_there(debian, "root/py")
    debian("cd /root/py && venv/bin/python -c 'import pkg; assert pkg.VALUE == 42'")


def test_r44_gcc_builds(debian: DebianRoot) -> None:
    assert debian(GCC, "/root/gcc") == "42\n"
    still_there(debian, "root/gcc")
    assert debian("/root/gcc/main") == "42\n"


def test_r44_git_commits_collects_clones(debian: DebianRoot) -> None:
    assert debian(GIT, "/root/git").split()[-1] == "6"
    still_there(debian, "root/git")
    debian("""
    git config --global --add safe.directory '*'
    cd /root/git/two && git fsck --strict && test -z "$(git status --porcelain)"
    """)


def test_r44_tar_round_trip(debian: DebianRoot) -> None:
    debian(TAR, "/root/tar")
    for name in ("usr/lib/python3.11", "opt", "etc"):
        copied = dump_directory(debian.at / "root/tar/out" / name)
        found = differences(copied, dump_directory(debian.at / name))
        assert not found, f"{name}: the copy (ours) and the original (theirs):\n{found}"
    still_there(debian, "root/tar")


def test_r33_sqlite_keeps_its_pages(debian: DebianRoot) -> None:
    """SQLite with a rollback journal and with a write-ahead log (mapped shared memory); the data
    stay over a remount."""
    debian("""
    mkdir -p /root/sql && cd /root/sql
    for mode in delete wal; do
        {
            echo "pragma journal_mode=$mode; create table t(k integer primary key, v blob);"
            for round in 1 2 3; do
                echo "begin; with recursive n(i) as (select 1 union all select i+1 from n
                    limit 1500) insert into t(v) select randomblob(200 + i % 300) from n; commit;"
            done
            echo "update t set v = randomblob(900) where k % 3 = 0; delete from t where k % 7 = 0;"
            i=0; while [ $i -lt 100 ]; do echo "insert into t(v) values('$i');"; i=$((i + 1)); done
            echo "vacuum; pragma integrity_check;"
        } | sqlite3 $mode.db | tail -n 1 | grep -qx ok
    done
    """)
    still_there(debian, "root/sql")
    for mode in ("delete", "wal"):
        query = "pragma integrity_check; select count(*) from t where k % 7 <> 0 or k > 4500"
        assert debian(f"sqlite3 /root/sql/{mode}.db '{query}'").split()[0] == "ok"


# ---- beside the kernel's overlayfs ---------------------------------------------------------


@pytest.fixture(scope="module")
def twin(
    debian: DebianRoot, real: Real, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The mount's tree, shown by the kernel's overlayfs with an upper of its own."""
    base = tmp_path_factory.mktemp("twin")
    debian.remount()  # so that all writes are in the upper
    run("cp", "-a", debian.upper, base / "below")
    (base / "upper").mkdir()
    (base / "work").mkdir()
    layers = [*real.layers, base / "below"]
    with overlay(layers, base / "mnt", base / "upper", base / "work") as at:
        with bound(at):
            yield at
    shutil.rmtree(base)


@pytest.mark.parametrize("name", PACKAGERS)
def test_r44_packagers_do_the_same_as_on_overlayfs(
    debian: DebianRoot, twin: Path, name: str
) -> None:
    script, trees = PACKAGERS[name]
    done = run_in(twin, ["sh", "-euc", script, "sh", f"/root/{name}"])
    assert done.returncode == 0, done.stderr
    assert debian(script, f"/root/{name}") == done.stdout.decode()
    for tree in trees:
        found = differences(comparable(debian.at / tree), comparable(twin / tree))
        assert not found, f"{tree}: the mount (ours) and the kernel's overlayfs (theirs):\n{found}"
        still_there(debian, tree)


# ---- beside -------------------------------------------------------------------------------


def test_r39_programs_while_caches_drop(debian: DebianRoot) -> None:
    with dropping_caches() as times:
        assert debian(GIT, "/root/drop/git").split()[-1] == "6"
        assert debian(GCC, "/root/drop/gcc") == "42\n"
        debian(TAR, "/root/drop/tar")
        debian("cd /root/drop && mkfifo pipe && mknod null c 1 3 && ln -s pipe link")
        debian("rm -r /root/drop/tar/out/usr && mv /root/drop/git/one /root/drop/moved")
        for name in ("opt", "etc"):
            copied = dump_directory(debian.at / "root/drop/tar/out" / name)
            assert not differences(copied, dump_directory(debian.at / name))
    assert len(times) > 2
    still_there(debian, "root/drop")


def test_r46_all_of_it_after_a_remount_and_by_the_kernel(
    debian: DebianRoot, real: Real, tmp_path: Path
) -> None:
    """After all other tests of the module, the whole tree is the same before and after a remount,
    and in the kernel's overlayfs with that upper over the unpacked layers."""
    with debian.unbound() as at:
        before = dump_directory(at)
    debian.umount()
    with overlay([*real.layers, debian.upper], tmp_path / "kernel") as at:
        kernel = dump_directory(at)
    debian.mount()
    with debian.unbound() as at:
        after = dump_directory(at)
    found = differences(after, before)
    assert not found, "mounted again (ours) and before (theirs):\n" + found
    found = differences(kernel, before)
    assert not found, "the kernel's overlayfs (ours) and the mount (theirs):\n" + found
