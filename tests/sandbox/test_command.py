"""The command of `run` and its user: docker's rules, case by case."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusemount.errors import UsageError
from fusemount.sandbox.command import (
    DEFAULT_PATH,
    RunAs,
    RunOptions,
    Volume,
    candidates,
    merged_argv,
    merged_environment,
    parse_volume,
    resolve_user,
)

PASSWD = (
    "root:x:0:0::/root:/bin/sh\n# x\nbroken\nalice:x:1000:1001::/home/a:\n7:x:70:71::/seven:\n"
    "short:x:08:09\n"
)
GROUP = (
    "root:x:0:\nalice:x:1001:\nextra:x:50:bob,alice\nextra2:x:51:alice\nlast:x:52:short\n"
    "nobodys:x:53\n"
)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "flag", "arguments", "argv"),
    [
        (None, ("sh",), None, (), ("sh",)),
        (None, ("sh",), None, ("ls", "-l"), ("ls", "-l")),
        (("e",), ("c",), None, (), ("e", "c")),
        (("e",), ("c",), None, ("a",), ("e", "a")),
        (("e",), None, None, (), ("e",)),
        (("e", "1"), ("c",), "x", (), ("x",)),  # --entrypoint drops Cmd
        (("e",), ("c",), "x", ("a",), ("x", "a")),
        (("e",), ("c",), "", ("a",), ("a",)),
        ((), ("c",), None, (), ("c",)),
    ],
)
def test_entrypoint_and_cmd(
    entrypoint: tuple[str, ...] | None,
    cmd: tuple[str, ...] | None,
    flag: str | None,
    arguments: tuple[str, ...],
    argv: tuple[str, ...],
) -> None:
    options = RunOptions(arguments=arguments, entrypoint=flag)
    assert merged_argv(entrypoint, cmd, options) == argv


@pytest.mark.parametrize("flag", [None, ""])
def test_nothing_to_run(flag: str | None) -> None:
    with pytest.raises(UsageError, match="no command"):
        merged_argv(("e",) if flag == "" else None, ("c",) if flag == "" else (),
                    RunOptions(entrypoint=flag))  # fmt: skip


def test_environment_in_order() -> None:
    environment = merged_environment(
        ["A=image", "B=image", "HOSTNAME=image", "EMPTY=", "bad"],
        ["B=flag", "OURS", "A", "C=x=y"],
        {"OURS": "ours", "SECRET": "no", "TERM": "vt100"},
        hostname="box",
        terminal=True,
    )
    assert environment == {
        "PATH": DEFAULT_PATH,
        "HOSTNAME": "image",
        "TERM": "vt100",
        "B": "flag",
        "EMPTY": "",
        "OURS": "ours",
        "C": "x=y",
    }  # fmt: skip  (A: asked for, not ours, so gone)


def test_the_images_path_wins_and_term_needs_a_terminal() -> None:
    environment = merged_environment(["PATH=/x"], [], {}, hostname="h", terminal=False)
    assert environment == {"PATH": "/x", "HOSTNAME": "h"}
    with pytest.raises(UsageError):
        merged_environment([], ["=x"], {}, hostname="h", terminal=False)


@pytest.mark.parametrize(
    ("spec", "identity"),
    [
        ("", RunAs(0, 0, (), "/root")),
        ("alice", RunAs(1000, 1001, (50, 51), "/home/a")),
        ("1000", RunAs(1000, 1001, (50, 51), "/home/a")),
        ("alice:root", RunAs(1000, 0, (), "/home/a")),
        ("alice:77", RunAs(1000, 77, (), "/home/a")),
        ("4711", RunAs(4711, 0, (), "/")),
        ("4711:extra", RunAs(4711, 50, (), "/")),
        ("7", RunAs(7, 0, (), "/")),  # a number is an id, also where it is a name
        ("01000", RunAs(1000, 1001, (50, 51), "/home/a")),
        ("+1000", RunAs(1000, 1001, (50, 51), "/home/a")),
        ("short", RunAs(8, 9, (52,), "/")),  # podman runs it so: fields behind may be missing
        ("alice:052", RunAs(1000, 52, (), "/home/a")),
        (":extra", RunAs(0, 50, (), "/root")),
    ],
)
def test_users(spec: str, identity: RunAs) -> None:
    assert resolve_user(spec, PASSWD, GROUP) == identity


def test_an_image_without_passwd_has_root() -> None:
    assert resolve_user("", "", "") == RunAs(0, 0, (), "/")


def test_ids_of_many_digits() -> None:
    """int() refuses more than 4,300 digits."""
    zeros = "0" * 5000
    passwd = f"long:x:{zeros}7:{zeros}8::/long:\nlarge:x:1{zeros}:0::/:\n"
    assert resolve_user("long", passwd, "") == RunAs(7, 8, (), "/long")
    assert resolve_user(f"{zeros}7:{zeros}9", passwd, "") == RunAs(7, 9, (), "/long")
    for spec in (f"1{zeros}", "large"):
        with pytest.raises(UsageError) as caught:
            resolve_user(spec, passwd, "")
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("spec", ["bob", "alice:nogroup", "-1", "2147483648", "²"])
def test_users_that_are_not_there(spec: str) -> None:
    with pytest.raises(UsageError):
        resolve_user(spec, PASSWD, GROUP)


def test_volumes() -> None:
    assert parse_volume("/a:/b") == Volume(Path("/a"), "/b")
    assert parse_volume("/a:/b/../c/:ro,z") == Volume(Path("/a"), "/c", True)
    assert parse_volume("./a:/b").host.is_absolute()


@pytest.mark.parametrize(
    "text", ["/a", "/a:", ":/b", "name:/b", "/a:b", "/a:/", "/a:/x/..", "/a:/b:rx", "/a:/b:ro:x"]
)
def test_volumes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="-v"):
        parse_volume(text)


def test_where_a_program_is_looked_for() -> None:
    assert candidates("/bin/x", "/a") == ["/bin/x"]
    assert candidates("./x", "/a") == ["./x"]
    assert candidates("x", "/a::/b") == ["/a/x", "./x", "/b/x"]
