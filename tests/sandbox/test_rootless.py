"""The same as an ordinary user: fusermount3 for mounts, a user namespace for run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Command, mounted
from storing import load

from fusemount.store import Store

UID = 65534  # nobody: fusermount3 needs a user with a line in passwd


@pytest.fixture
def home(busybox_image: Path) -> Iterator[Path]:
    """Not tmp_path, which shuts other users out."""
    path = Path(tempfile.mkdtemp(prefix="imgmount-test-", dir="/tmp"))
    path.chmod(0o755)
    shutil.copy(busybox_image, path / "image.tar")
    for name in ("m", "run"):
        (path / name).mkdir(mode=0o700)
    for entry in (path, *path.iterdir()):
        os.chown(entry, UID, UID)
    yield path
    shutil.rmtree(path)


def as_user(home: Path, script: str, *, sub_ids: bool = False) -> subprocess.CompletedProcess[str]:
    """A shell script in home, with a function `imgmount`."""
    here = Path(__file__).resolve()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("IMGMOUNT_", "XDG_"))}
    environment |= {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "PYTHONPATH": os.pathsep.join([str(here.parents[2]), *sys.path]),
    }
    preamble = f'imgmount() {{ {sys.executable} -m fusemount "$@"; }}; cd {home}; set -e\n'
    return subprocess.run(
        [sys.executable, str(here.with_name("as_user.py")), str(UID), str(int(sub_ids)),
         "/bin/sh", "-c", preamble + script],
        env=environment, capture_output=True, text=True, timeout=60, cwd="/",
    )  # fmt: skip


def clean(home: Path) -> bool:
    return not list(home.glob(".local/state/imgmount/uppers/*")) and not list(
        home.glob("run/imgmount/*")
    )


def test_mount_and_umount(home: Path) -> None:
    done = as_user(
        home,
        """
        imgmount image.tar m
        cat m/etc/second
        mkdir m/etc/made            # the image's root owns /etc; it is our mount
        touch m/etc/made/x
        findmnt -n -o FSTYPE,OPTIONS $PWD/m
        imgmount mounts | grep -c mounted
        imgmount umount m
        imgmount mounts | wc -l
        """,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2"
    assert lines[1].startswith("fuse.imgmount rw,nosuid,nodev")
    assert lines[2:] == ["1", "1"]
    assert clean(home)


def test_busy_lazy_and_not_permitted(home: Path) -> None:
    done = as_user(
        home,
        """
        imgmount image.tar m
        exec 3< m/etc/motd
        imgmount umount m || echo code $?
        imgmount umount --lazy m
        exec 3<&-
        imgmount image.tar /etc || echo code $?
        imgmount image.tar /sys/kernel -o nonempty || echo code $?
        imgmount image.tar m -o allow_root || echo code $?
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["code 7", "code 7", "code 7", "code 2"]
    assert "busy" in done.stderr


@pytest.mark.parametrize("sub_ids", [False, True])
def test_run_is_root_of_its_own_namespace(sub_ids: bool, home: Path) -> None:
    done = as_user(
        home,
        "imgmount run image.tar 'id -u; touch /etc/new; mkdir /d; cat /proc/self/uid_map;"
        " echo x > /dev/null; test -d /sys/kernel; cat /etc/motd'",
        sub_ids=sub_ids,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:4] == ["0", "0", str(UID), "1"]
    assert words[4:] == (["1", "100000", "65536", "hello"] if sub_ids else ["hello"])
    assert clean(home)


@pytest.mark.parametrize("whose", ["user", "root"])
def test_run_from_a_store(whose: str, home: Path, busybox_image: Path) -> None:
    """In the user's namespace, root's store and the directories above it belong to nobody."""
    place = home / ".local/share/imgmount"
    try:
        if whose == "root":
            place = home.parent / f"{home.name}-store"
            load(Store(place, create=True), busybox_image)
            place.chmod(0o755)
        else:
            as_user(home, "imgmount load -i image.tar").check_returncode()
        done = as_user(home, f"imgmount --root {place} run test 'id -u'")
    finally:
        shutil.rmtree(place)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert clean(home)


def test_a_store_below_anothers_directory_is_refused_to_run(home: Path) -> None:
    """Inside, the other user looks like root."""
    place = home / "theirs"
    place.mkdir()
    place.chmod(0o777)
    as_user(home, "imgmount --root theirs/store load -i image.tar; true")
    os.chown(place, 65533, 65533)
    done = as_user(home, "imgmount --root theirs/store run test true")
    assert done.returncode == 125
    assert f"{place} above it belongs to uid 65533" in done.stderr
    assert clean(home)


def test_run_has_the_images_users_with_sub_ids(home: Path) -> None:
    script = "imgmount run -u alice image.tar 'id -u; id -G; touch /tmp/x && echo wrote'"
    done = as_user(home, script, sub_ids=True)
    assert done.stdout.splitlines() == ["1000", "1001 50", "wrote"], done.stderr
    done = as_user(home, script)
    assert done.returncode == 125
    assert "not mapped" in done.stderr
    assert clean(home)


def test_exit_status(home: Path) -> None:
    assert as_user(home, "imgmount run image.tar 'exit 7'").returncode == 7
    assert as_user(home, "imgmount run image.tar 'kill -9 $$'").returncode == 137
    assert clean(home)


def test_upper_of_a_user(home: Path) -> None:
    done = as_user(
        home,
        """
        imgmount run --upper up image.tar 'echo mine > /etc/new; rm /etc/motd'
        imgmount image.tar m --upper up
        cat m/etc/new
        test ! -e m/etc/motd
        imgmount umount m
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "mine\n"


def test_r46_the_kernel_reads_the_upper_of_a_user(home: Path) -> None:
    """It takes neither redirects nor metacopies together with `userxattr`."""
    done = as_user(
        home,
        """
        imgmount image.tar m --upper up
        chmod 640 m/etc/motd
        mv m/etc m/moved
        cp -r m/moved seen
        imgmount umount m
        getfattr -hRm '^user.overlay.(redirect|metacopy)' up
        """,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (home / "kernel").mkdir()
    (home / "empty").mkdir()
    words = f"lowerdir={home}/empty,upperdir={home}/up,workdir={home}/kernel,userxattr"
    (home / "at").mkdir()
    subprocess.run(["mount", "-t", "overlay", "o", "-o", words, home / "at"], check=True)
    try:
        names = sorted(os.listdir(home / "at/moved"))
        assert names == sorted(os.listdir(home / "seen"))
        for name in names:
            if (home / "seen" / name).is_file():
                assert (home / "at/moved" / name).read_bytes() == (
                    home / "seen" / name
                ).read_bytes()
    finally:
        subprocess.run(["umount", home / "at"], check=True)


def test_roots_mount_is_not_a_users_to_unmount(
    home: Path, busybox_image: Path, tmp_path: Path
) -> None:
    command = Command(tmp_path)
    at = home / "theirs"
    with mounted(command, busybox_image, at):
        done = as_user(home, "imgmount umount theirs")
        assert done.returncode == 9, done.stderr
        assert "not permitted" in done.stderr


def test_a_user_does_not_follow_anothers_records(home: Path) -> None:
    (home / "run/imgmount").mkdir()
    done = as_user(home, "for v in mounts 'run image.tar true'; do imgmount $v || echo $?; done")
    assert done.stdout.split() == ["9", "125"]
    assert done.stderr.count("only you can write to") == 2


def test_diff_and_commit(home: Path) -> None:
    """Owners that the user was not allowed to set on disk are in the image all the same."""
    done = as_user(
        home,
        """
        imgmount image.tar m --upper up
        echo x > m/tmp/x && chmod 4755 m/tmp/x && rm -f m/etc/motd
        mkdir m/tmp/d && chmod 0 m/tmp/d && ln -s nowhere m/tmp/l
        imgmount diff m
        imgmount commit -q m t:1 -o one.tar
        imgmount umount m
        imgmount commit -q up t:1 -o two.tar
        imgmount dump --digest image.tar --upper up > up.txt
        for i in one two; do imgmount dump --digest $i.tar | sed 's/ [^ ]*$//' > $i.txt; done
        sed 's/ [^ ]*$//' up.txt | cmp - one.txt && cmp one.txt two.txt
        grep -c "^/tmp/x f 4755 65534 65534" one.txt
        """,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.splitlines() == [
        "C /etc",
        "D /etc/motd",
        "C /tmp",
        "A /tmp/d",
        "A /tmp/l",
        "A /tmp/x",
        "1",
    ]


def test_a_store_of_rootless_containers(home: Path) -> None:
    """It is read by its user, and inside the user namespace that shows its real owners."""
    done = as_user(
        home,
        f"""
        skopeo --insecure-policy copy -q docker-archive:image.tar containers-storage:localhost/b:1
        imgmount run containers-storage:b:1 'cat /etc/second; id -u'
        inside() {{ buildah unshare {sys.executable} -m fusemount "$@"; }}
        inside dump --digest containers-storage:b:1 | sed 1d | cut -d ' ' -f 1-12 > in-place
        imgmount dump --digest image.tar | sed 1d | cut -d ' ' -f 1-12 > archive
        cmp in-place archive
        wc -l < archive
        i="{sys.executable} -m fusemount"
        buildah unshare sh -ec "$i containers-storage:b:1 m; cat m/etc/second; $i umount m"
        """,
        sub_ids=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    second, uid, lines, again = done.stdout.split()
    assert (second, uid, again) == ("2", "0", "2") and int(lines) > 15
    assert clean(home)


def test_the_command_cannot_reach_into_pid_1(home: Path) -> None:
    """The command is root of its user namespace, and the interpreter of pid 1 may be a file of the
    user: CVE-2019-5736 and CVE-2016-9962."""
    script = "cat /proc/1/maps; cd /proc/1/fd && echo *; cat /proc/1/exe; true"
    done = as_user(home, f"imgmount run image.tar '{script}'")
    assert done.stdout == ""
    assert done.stderr.count("Permission denied") == 3, done.stderr
