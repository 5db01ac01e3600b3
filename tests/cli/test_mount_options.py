"""Words of -o: an unknown word is refused; the defaults depend on the user who mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusemount.cli.environment import directories
from fusemount.cli.mountoptions import (
    image_options_of,
    mount_options,
    parse_options,
    split_options,
    unescaped,
)
from fusemount.errors import UsageError
from fusemount.settings import Unpacking


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b", ["a", "b"]),
        ("", [""]),
        (r"fsname=x\,y,ro", ["fsname=x,y", "ro"]),
        (r"a\\,b", ["a\\", "b"]),
        (r"a\nb", [r"a\nb"]),
    ],
)
def test_commas_can_be_escaped(text: str, words: list[str]) -> None:
    assert [unescaped(word) for word in split_options(text)] == words


def test_later_words_win() -> None:
    assert parse_options(["ro,rw"]).read_only is False
    assert parse_options(["nosuid", "suid"]).suid is True


@pytest.mark.parametrize(
    "text",
    ["defaults", "auto,noauto,user,users,nofail,_netdev,nouser", "x-systemd.automount,x-gvfs-hide",
     "comment=a b", "lazytime,nolazytime", "rw,dev,suid,,"],
)  # fmt: skip
def test_fstabs_own_words_are_passed_over(text: str) -> None:
    words = parse_options([text])
    assert (words.kernel, words.upper, words.keep) == ([], None, False)


@pytest.mark.parametrize(
    "text",
    ["nosiud", "upper=", "upper", "symlink-parents=maybe", "symlink-parents", "fsname=", "RO",
     "keep=1", "=x", "fastpath=1", "fastpath=", "fastpath", "nofastpath", "push=yes", "push",
     "threads=0", "threads=65", "threads=", "threads", "threads=-1", "threads=two", "threads= 2",
     "threads=1.5", "threads=9999999999999999999999", "threads=²", "unpack=", "unpack",
     "unpack=Always", "unpack=yes", "cache-size=", "cache-size", "cache-size=2G5", "cache-size=-1",
     "cache-size=9999999P", "cache-size=all"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-o"):
        parse_options([text])


def test_values() -> None:
    words = parse_options(
        ["upperdir=/u,workdir=/w,platform=linux/arm64,noverify,symlink-parents=follow,keep"]
    )
    assert (words.upper, words.work, words.platform) == ("/u", "/w", "linux/arm64")
    assert (words.verify, words.follow_symlink_parents, words.keep) == (False, True, True)
    assert parse_options(["noatime,nonempty,fsname=x"]).kernel == [
        "noatime",
        "nonempty",
        "fsname=x",
    ]


def test_how_compressed_layers_are_read() -> None:
    assert image_options_of(parse_options([])).unpacking is Unpacking.AUTO
    for word in Unpacking:
        assert image_options_of(parse_options([f"unpack={word.value}"])).unpacking is word
    assert mount_options(parse_options([])).cache_size is None
    for text, size in (("0", 0), ("4096", 4096), ("2G", 2 << 30), ("3MiB", 3 << 20)):
        assert mount_options(parse_options([f"cache-size={text}"])).cache_size == size


def test_root_mounts_a_root_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for words, trusted in (([], False), (["lowerdir=/low"], True), (["suid,dev"], True)):
        options = mount_options(parse_options(words))
        assert (options.suid, options.dev, options.allow_other) == (trusted, trusted, True)
        assert options.default_permissions
    options = mount_options(parse_options(["lowerdir=/low,nosuid,nodev,noallow_other"]))
    assert (options.suid, options.dev, options.allow_other) == (False, False, False)


def test_a_user_mounts_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    options = mount_options(parse_options([]))
    assert (options.suid, options.dev, options.allow_other) == (False, False, False)
    assert not options.default_permissions
    assert mount_options(parse_options(["allow_other"])).default_permissions
    with pytest.raises(UsageError, match="allow_root"):
        parse_options(["allow_root"])


def test_directories_of_root_and_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CACHE", "STATE", "RUNTIME"):
        monkeypatch.delenv(f"IMGMOUNT_{variable}_DIR", raising=False)
        monkeypatch.delenv(f"XDG_{variable}_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert directories().state == Path("/var/lib/imgmount")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert directories().cache == Path("/home/x/.cache/imgmount")
    assert directories().state == Path("/home/x/.local/state/imgmount")
    assert directories().runtime == Path("/home/x/.local/state/imgmount/run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1234")
    monkeypatch.setenv("IMGMOUNT_CACHE_DIR", "/elsewhere")
    assert directories().runtime == Path("/run/user/1234/imgmount")
    assert directories().cache == Path("/elsewhere")


def test_the_fast_path_is_on_unless_told_otherwise() -> None:
    options = mount_options(parse_options([]))
    assert (options.fastpath, options.threads, options.push) == (True, None, True)
    options = mount_options(parse_options(["fastpath=off,threads=3,push=off"]))
    assert (options.fastpath, options.threads, options.push) == (False, 3, False)
    options = mount_options(parse_options(["fastpath=off,push=off", "fastpath=on,push=on"]))
    assert (options.fastpath, options.push) == (True, True)
    assert [parse_options([f"threads={n}"]).threads for n in (1, 64)] == [1, 64]


@pytest.mark.parametrize(
    ("text", "says"),
    [("fastpath=maybe", "fastpath=: bad value 'maybe': one of on, off"),
     ("push=", "push=: bad value '': one of on, off"),
     ("threads=99", "threads=: bad value '99': a number from 1 to 64")],
)  # fmt: skip
def test_a_bad_value_is_told_the_good_ones(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_options([text])
