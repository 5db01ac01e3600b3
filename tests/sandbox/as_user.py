"""Runs a command as an ordinary user whom the machine lets use FUSE: as_user.py UID SUBIDS WORD...

Law: a helper of test_rootless.py, run by root; all it sets up is in a mount namespace of its own.
/dev/fuse gets the mode that udev gives it (0666), the interpreter and this checkout are reachable
wherever they are, and with SUBIDS=1 the user owns ids 100000 to 165535.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from fusemount import _native


def bind(source: str | Path, target: str | Path) -> None:
    _native.mount(source, target, "", _native.MS_BIND | _native.MS_REC, "")


def tmpfs(at: Path) -> None:
    _native.mount("tmpfs", at, "tmpfs", 0, "mode=755")


def make_reachable(trees: list[Path]) -> None:
    """Lays a tmpfs over directories that shut others out, and shows the trees in it again."""
    handles = {tree: os.open(tree, os.O_PATH) for tree in trees}
    for tree, fd in handles.items():
        closed = [p for p in reversed(tree.parents) if p.exists() and not p.stat().st_mode & 1]
        if closed:
            tmpfs(closed[0])
            closed[0].chmod(0o755)
        if not tree.exists():
            tree.mkdir(parents=True)
            bind(f"/proc/self/fd/{fd}", tree)


def main() -> None:
    uid, sub_ids, words = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:]
    _native.unshare(_native.CLONE_NEWNS)
    _native.mount("", "/", "", _native.MS_REC | _native.MS_PRIVATE, "")
    place = Path("/mnt")
    tmpfs(place)
    os.mknod(place / "fuse", 0o020666, os.makedev(10, 229))
    (place / "fuse").chmod(0o666)
    bind(place / "fuse", "/dev/fuse")
    name = pwd.getpwuid(uid).pw_name
    for file in ("subuid", "subgid"):
        (place / file).write_text(f"{name}:100000:65536\n" if sub_ids else "")
        if Path("/etc", file).exists():
            bind(place / file, Path("/etc", file))
    checkout = Path(__file__).resolve().parents[2]
    make_reachable([Path(sys.base_prefix), Path(sys.prefix), checkout])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.execve(words[0], words, dict(os.environ))


main()
