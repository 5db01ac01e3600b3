"""Scripts of the usual work of programs on a file system.

Law: the output of a script and the trees that it names are the same on every file system.

A script is run by `sh -eu` in a directory with `lower/` (workload_layers()).  LOADS is the amount
of work: 1 for a test of some seconds, more for `make soak`.  A script that fails has found a fault.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixedtree import TIME, layers
from npmpackages import NPM, npm_tarball
from tarwriter import TarWriter

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Workload:
    script: str
    trees: tuple[str, ...] = ()  # paths below the directory, to be dumped and compared
    environment: Callable[[], dict[str, str]] = dict


def workload_layers() -> list[bytes]:
    """mixedtree's layers below `lower`, and beside them a tree that looks like sources."""
    sources = TarWriter().dir("lower", mode=0o777, mtime_ns=TIME)
    sources.dir("lower/source", mtime_ns=TIME)
    for d in range(8):
        sources.dir(f"lower/source/{d}", mtime_ns=TIME)
        for f in range(16):
            data = b"line %d of %d\n" % (f, d) * (1 + f * f * 2)
            sources.file(f"lower/source/{d}/{f}.c", data, mtime_ns=TIME)
    return [*layers("lower/"), sources.tar()]


WORKLOADS = {
    "fio": Workload(
        """
        fio --minimal --directory=. --size=$((LOADS * 2))M --bs=4k --verify=crc32c \\
            --verify_fatal=1 --randseed=7 --end_fsync=1 --group_reporting \\
            --name=sync --ioengine=psync --rw=randwrite \\
            --name=mapped --stonewall --ioengine=mmap --rw=randwrite \\
            --name=direct --stonewall --ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite \\
            --name=mixed --stonewall --ioengine=psync --rw=randrw --bsrange=512-64k --numjobs=2 \\
            > ../fio.log
        ls | sort
        """
    ),
    "sqlite": Workload(
        """
        for mode in wal delete; do
            sqlite3 $mode.db "pragma journal_mode=$mode; create table t(k integer primary key,
                who text, n integer); create table sums(who text primary key, n integer);"
            for who in a b c; do (
                n=0; while [ $n -lt $((12 * LOADS)) ]; do
                    echo ".timeout 60000"
                    echo "begin immediate; insert into t(who, n) values('$who', $n);"
                    echo "insert into sums values('$who', $n) on conflict(who)"
                    echo "do update set n = n + $n; commit;"
                    n=$((n + 1))
                done | sqlite3 $mode.db
            ) & pids="${pids:-} $!"; done
            for pid in $pids; do wait $pid; done; pids=
            sqlite3 $mode.db "pragma integrity_check; select who, count(*), sum(n) from t group by
                who order by who; select * from sums order by who; delete from t where n % 3 = 0;
                vacuum; pragma integrity_check; select count(*), sum(n) from t;"
        done
        """
    ),
    "git": Workload(
        """
        export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a
        export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a GIT_AUTHOR_DATE='1400000000 +0000'
        export GIT_COMMITTER_DATE='1400000000 +0000'
        git init -q -b main one && cd one
        cp -r ../lower/source . && git add . && git commit -qm first
        i=0; while [ $i -lt $((2 + 2 * LOADS)) ]; do
            echo $i >> source/$i.txt && mkdir d$i && git mv source/$((i % 8)) d$i/ || :
            git add -A && git commit -qm $i && i=$((i + 1))
        done
        git branch old HEAD~3 && git checkout -q old && git checkout -q main
        git worktree add -q ../tree old && git gc -q --prune=now && git fsck --strict
        git clone -q . ../two && git clone -q --no-hardlinks . ../three
        git -C ../two fsck --strict && git -C ../three checkout -q HEAD~2
        git log --format=%H && git -C ../tree status --porcelain && git -C ../three ls-files -s
        git worktree remove ../tree && git status --porcelain && rm -r ../two/.git ../three/.git
        """,
        ("two", "three", "one/source"),
    ),
    "rsync": Workload(
        """
        rsync -aHAXS --numeric-ids lower/ copy/
        i=0; while [ $i -lt $((2 * LOADS)) ]; do
            echo $i >> copy/source/$i/0.c && rm -f copy/source/$i/1.c && mv copy/d copy/d$i
            rsync -aHAXS --numeric-ids --delete --checksum lower/ copy/ && i=$((i + 1))
        done
        rsync -aHAXn --delete --checksum --itemize-changes lower/ copy/
        rsync -aHAX --inplace copy/ lower/ && rsync -aHAX --link-dest=../lower lower/ linked/
        """,
        ("copy", "lower", "linked"),
    ),
    "tar": Workload(
        """
        mkdir one two
        pack="tar --xattrs --xattrs-include=* --acls --sparse --sort=name
            --pax-option=delete=atime,delete=ctime,exthdr.name=%d/%f"
        unpack="tar --xattrs --xattrs-include=* --acls -p"
        set -f
        $pack -C lower -cf a.tar .
        $unpack -C one -xf a.tar
        $pack -C one -cf b.tar .
        cmp a.tar b.tar
        $unpack -C two -xf b.tar
        tar -C one --compare -f a.tar
        $unpack -C one --overwrite -xf b.tar
        cp -a lower three && mv three four && rm -r two
        """,
        ("one", "four"),
    ),
    "npm": Workload(NPM, ("one", "was"), lambda: {"NPM": str(npm_tarball())}),
    "dbench": Workload("dbench -t $((2 * LOADS)) -D . 4 > ../dbench.log && ls | sort"),
}


def perform(workload: Workload, directory: Path, loads: int, seconds: float = 600) -> str:
    """Runs the script; its output. Raises AssertionError with the output if it fails."""
    done = subprocess.run(
        ["sh", "-euc", workload.script],
        cwd=directory, capture_output=True, text=True, timeout=seconds, errors="replace",
        stdin=subprocess.DEVNULL,
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C", "HOME": os.devnull, "LOADS": str(loads),
             **workload.environment()},
    )  # fmt: skip
    assert done.returncode == 0, f"status {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"
    return done.stdout
