r"""`-o lowerdir=`: words of overlayfs and fuse-overlayfs, escapes, and defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusemount.cli.mount import _reference
from fusemount.cli.mountoptions import Words, image_options_of, mount_options, parse_options
from fusemount.errors import UsageError
from fusemount.reference import Reference, directories_reference, parse_reference
from fusemount.settings import Owners, UserMarks


def asked(*texts: str, source: str | None = None) -> tuple[Reference, Words]:
    words = parse_options(texts)
    return _reference(source, words), words


def test_the_first_is_the_top() -> None:
    reference, words = asked("lowerdir=/a:b:../c,upperdir=/u,workdir=/w")
    assert (reference.path, reference.more) == (Path("/a"), (Path("b"), Path("../c")))
    assert (words.upper, words.work) == ("/u", "/w")


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        (r"lowerdir=a\:b:c,upperdir=u", ["a:b", "c"], "u"),
        (r"lowerdir=a\,b,upperdir=u\,v\:w", ["a,b"], "u,v:w"),
        (r"lowerdir=a\\b,upperdir=u\\", ["a\\b"], "u\\"),
        (r"lowerdir=\a=b,upperdir=x=y", ["a=b"], "x=y"),
    ],
)
def test_escapes_are_overlayfs(text: str, lower: list[str], upper: str) -> None:
    reference, words = asked(text)
    assert [str(p) for p in (reference.path, *reference.more)] == lower
    assert words.upper == upper


def test_what_podman_and_mount_8_say() -> None:
    """The command lines are logged ones of both programs."""
    words = parse_options([
        "lowerdir=/s/l/A:/s/l/B,upperdir=/s/diff,workdir=/s/work,,volatile,"
        'context="system_u:object_r:container_file_t:s0:c1,c2",uidmapping=:0:100000:65536',
    ])  # fmt: skip
    assert words.volatile and words.ignored == []
    assert words.uids == ((0, 100000, 65536),)
    words = parse_options(["rw,relatime,lowerdir=a,upperdir=u,workdir=w,dev,suid,noatime,xino=off"])
    assert (words.kernel, words.dev, words.suid) == (["relatime", "noatime"], True, True)
    assert words.ignored == []


def test_unknown_words_are_kept_for_the_log() -> None:
    words = parse_options(["lowerdir=a,nosuch,other=1,noacl"])
    assert mount_options(words).ignored == ("nosuch", "other=1")
    with pytest.raises(UsageError, match="nosuch"):
        parse_options(["nosuch"])


@pytest.mark.parametrize("word", ["lowerdir=", "lowerdir=a,upperdir=", "lowerdir=a,uidmapping=1:2",
                                  "lowerdir=a,gidmapping=0:x:1", "lowerdir=a,fsync=2",
                                  "lowerdir=a,threads=0", "lowerdir=a,squash_to_uid=-1",
                                  "lowerdir=a,uidmapping=0:4294967296:1"])  # fmt: skip
def test_bad_values_are_errors(word: str) -> None:
    with pytest.raises(UsageError):
        parse_options([word])


@pytest.mark.parametrize("text", ["a:", ":a", "a::b", ""])
def test_empty_names(text: str) -> None:
    with pytest.raises(UsageError, match="empty name"):
        directories_reference(text)


def owners_of(text: str) -> Owners:
    return mount_options(parse_options([text])).owners


def test_owners() -> None:
    owners = owners_of("lowerdir=a,squash_to_root")
    assert (owners.squash_uid, owners.squash_gid) == (0, 0)
    owners = owners_of("lowerdir=a,gidmapping=0:1:2:5:6:7")
    assert owners.gids == ((0, 1, 2), (5, 6, 7)) and owners.uids == ()
    owners = owners_of("lowerdir=a,squash_to_gid=7")
    assert (owners.squash_uid, owners.squash_gid) == (-1, 7)
    for text in (
        "lowerdir=a,squash_to_root,squash_to_gid=7",
        "lowerdir=a,squash_to_gid=7,squash_to_root",
    ):
        owners = owners_of(text)
        assert (owners.squash_uid, owners.squash_gid) == (0, 7)


def test_userxattr() -> None:
    options = image_options_of(parse_options(["lowerdir=a,userxattr,override_stat=off"]))
    assert options.marks == UserMarks(overlay=True, owners=False)
    assert image_options_of(parse_options(["lowerdir=a"])).marks == UserMarks()


def test_a_mount_program_gets_a_plain_upper() -> None:
    """Called with only the mountpoint, as fuse-overlayfs is; an option that is given wins."""
    for source, text, metacopy, redirect in (
        (None, "lowerdir=a,upperdir=u", False, False),
        (None, "lowerdir=a,upperdir=u,metacopy=on,redirect_dir=on", True, True),
        ("none", "lowerdir=a,upperdir=u", None, None),  # mount(8): marks in the upper are fine
        ("none", "lowerdir=a,upperdir=u,metacopy=off,redirect_dir=nofollow", False, False),
    ):
        _, words = asked(text, source=source)
        options = mount_options(words)
        assert (options.metacopy, options.redirect) == (metacopy, redirect)
        assert options.overlay and words.kernel == [f"fsname={source or 'imgmount'}"]


def test_without_an_upper_it_is_read_only() -> None:
    assert asked("lowerdir=a,rw")[1].read_only is True
    assert asked("lowerdir=a,upperdir=u")[1].read_only is None


def test_fsync_0_is_volatile() -> None:
    assert parse_options(["lowerdir=a,fsync=0"]).volatile
    assert not parse_options(["lowerdir=a,fsync=1"]).volatile
    assert parse_options(["volatile"]).volatile


def test_a_reference_shows_a_few() -> None:
    reference = parse_reference(r"dir:/a\:b:c", lambda _: False)
    assert str(reference) == r"dir:/a\:b:c"
    assert str(directories_reference(":".join("abcdefg"))) == "dir:a:b:c:d and 3 more"


def test_a_reference_is_spelled_in_full() -> None:
    """The form that an upper keeps does not depend on the number of directories, on their names or
    on the working directory."""
    text = r"a\:b:c:d:e:/f\\g"
    reference = directories_reference(text).absolute()
    assert parse_reference(reference.spelled, lambda _: False) == reference
    assert (reference.path, reference.more[-1]) == (Path.cwd() / "a:b", Path("/f\\g"))


def test_remount_takes_what_mount_8_found() -> None:
    words = parse_options(["ro,relatime,remount,user_id=0,group_id=0,allow_other,dev"])
    assert words.remount and words.read_only
