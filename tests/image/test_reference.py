"""Law: references are parsed as docs/images.md describes, also for file names with colons."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusemount.compression import TAR_SUFFIXES
from fusemount.errors import UsageError
from fusemount.reference import (
    NOT_GIVEN,
    STORE,
    Reference,
    normalised_name,
    parse_reference,
    same_name,
)


def parsed(text: str, *existing: str) -> Reference:
    return parse_reference(text, lambda path: str(path) in existing)


@pytest.mark.parametrize(
    ("text", "existing", "expected"),
    [
        ("u.tar", ("u.tar",), (None, "u.tar", None)),
        ("u.tar", (), (None, "u.tar", None)),
        ("u.tar:ubuntu", ("u.tar",), (None, "u.tar", "ubuntu")),
        ("u.tar:ubuntu:22.04", ("u.tar",), (None, "u.tar", "ubuntu:22.04")),
        ("u.tar:localhost:5000/a:1", ("u.tar",), (None, "u.tar", "localhost:5000/a:1")),
        ("u.tar:", ("u.tar",), (None, "u.tar", None)),
        ("a:b.tar:x", ("a:b.tar",), (None, "a:b.tar", "x")),
        ("a:b:c", ("a", "a:b"), (None, "a:b", "c")),
        ("gone.tar:x:1", (), (None, "gone.tar", "x:1")),
        ("docker-archive:u.tar", ("u.tar",), ("docker-archive", "u.tar", None)),
        ("docker-archive:u.tar:a:1", ("u.tar",), ("docker-archive", "u.tar", "a:1")),
        ("oci:/d", ("/d",), ("oci", "/d", None)),
        ("oci:/d:v1", ("/d",), ("oci", "/d", "v1")),
        ("oci-archive:a:b.tar:v1", ("a:b.tar",), ("oci-archive", "a:b.tar", "v1")),
        ("oci:gone", (), ("oci", "gone", None)),
        ("tar:a:b.tar", (), ("tar", "a:b.tar", None)),
        ("oci:x", ("oci:x",), (None, "oci:x", None)),  # a file of that name exists
        ("oci:x", ("oci:x", "x"), ("oci", "x", None)),
        ("./oci:x", ("./oci:x", "oci:x"), (None, "oci:x", None)),
        ("podman:u.tar", ("podman:u.tar",), (None, "podman:u.tar", None)),
    ],
)
def test_m14_reference_is_split_at_the_longest_existing_file(
    text: str, existing: tuple[str, ...], expected: tuple[str | None, str, str | None]
) -> None:
    transport, path, name = expected
    assert parsed(text, *existing) == Reference(transport, Path(path), name)


@pytest.mark.parametrize("suffix", TAR_SUFFIXES)
def test_what_is_called_like_a_tar_is_no_name_of_the_store(suffix: str) -> None:
    found = parse_reference(f"u{suffix}", lambda _: False, Path("/store"))
    assert found == Reference(None, Path(f"u{suffix}"), None)
    assert parse_reference("u.x", lambda _: False, Path("/store")).transport == STORE


@pytest.mark.parametrize("text", ["", ":x", "oci:", "docker-archive::x", "tar:", "a\0b"])
def test_m14_reference_without_a_file_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parsed(text)


@pytest.mark.parametrize("text", ["u.tar", "u.tar:a:1", "oci:d:v1", "tar:x"])
def test_m14_reference_prints_as_it_was_written(text: str) -> None:
    assert str(parsed(text)) == text


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("a/b", "docker.io/a/b:latest"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest"),
        ("index.docker.io/library/ubuntu:1", "docker.io/library/ubuntu:1"),
        ("localhost/x", "localhost/x:latest"),
        ("host:5000/x", "host:5000/x:latest"),
        ("quay.io/a/b/c:1", "quay.io/a/b/c:1"),
        ("Upper/x", "Upper/x:latest"),
    ],
)
def test_m14_names_are_normalised_as_docker_does(short: str, full: str) -> None:
    assert normalised_name(short) == full


def test_m14_a_short_name_finds_what_podman_calls_localhost() -> None:
    assert same_name("x", "localhost/x:latest")
    assert same_name("x", "docker.io/library/x:latest")
    assert not same_name("x", "quay.io/x:latest")
    assert not same_name("x:1", "localhost/x:latest")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker:u:22.04", Reference("docker", NOT_GIVEN, "u:22.04")),
        ("docker:", Reference("docker", NOT_GIVEN, None)),
        ("docker:[/d:1+x]h:5/u@sha256:ab", Reference("docker", Path("/d:1+x"), "h:5/u@sha256:ab")),
        ("docker:[vfs@/d]u", Reference("docker", Path("/d"), "u", driver="vfs")),
        ("containers-storage:u", Reference("containers-storage", NOT_GIVEN, "u")),
        (
            "containers-storage:[overlay@/g+/r]u:1",
            Reference("containers-storage", Path("/g"), "u:1", driver="overlay"),
        ),
        (
            "containers-storage:[/g:overlay.imagestore=/a,overlay.mountopt=x,vfs.imagestore=/b]",
            Reference("containers-storage", Path("/g"), None, (Path("/a"), Path("/b"))),
        ),
    ],
)
def test_stores_of_other_programs(text: str, expected: Reference) -> None:
    assert parsed(text, "docker", text) == expected
    assert parsed(expected.spelled) == expected == expected.absolute()


@pytest.mark.parametrize(
    "text",
    ["docker://u", "docker:[d]u", "docker:[/d", "docker:[]u", "docker:[@/d]u", "docker:[vfs@]u",
     "containers-storage:[vfs@g]u", "containers-storage:[/g:x.imagestore=a]u"],
)  # fmt: skip
def test_stores_without_a_root(text: str) -> None:
    with pytest.raises(UsageError):
        parsed(text)
