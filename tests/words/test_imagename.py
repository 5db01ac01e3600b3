"""Names as docker reads them (github.com/distribution/reference, reference_test.go)."""

from __future__ import annotations

import pytest

from fusemount.digest import Digest
from fusemount.errors import UsageError
from fusemount.imagename import ImageName, parse_name

HEX = "ab" * 32
DIGEST = Digest(f"sha256:{HEX}")


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("ubuntu", "docker.io/library/ubuntu", "ubuntu"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04", "ubuntu:22.04"),
        ("me/app", "docker.io/me/app", "me/app"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
        ("index.docker.io/library/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/x:1", "localhost/x:1", "localhost/x:1"),
        ("localhost:5000/x", "localhost:5000/x", "localhost:5000/x"),
        ("Host/x", "Host/x", "Host/x"),
        ("quay.io/a/b/c__d.e-f:T_1", "quay.io/a/b/c__d.e-f:T_1", "quay.io/a/b/c__d.e-f:T_1"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        (f"a@{DIGEST}", f"docker.io/library/a@{DIGEST}", f"a@{DIGEST}"),
        (f"r:5000/a:t@{DIGEST}", f"r:5000/a:t@{DIGEST}", f"r:5000/a:t@{DIGEST}"),
    ],
)
def test_names(text: str, full: str, familiar: str) -> None:
    name = parse_name(text)
    assert (str(name), name.familiar) == (full, familiar)
    assert parse_name(str(name)) == name == parse_name(name.familiar)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name"), ("/x", "no name"), ("x/", "no name"), ("a//b", "no name"),
        ("Ubuntu", "lower case"), ("a/Ubuntu", "lower case"), ("a:", "no tag"),
        ("a:b:c", "no tag"), ("a:" + "x" * 129, "no tag"), ("a@sha256:12", "digest"),
        ("-a.b/x", "no registry"), ("a_b.c/x", "no registry"), ("a" * 256, "longer"),
        ("a b", "no name"), ("a\n", "no name"), (HEX, "no name"),
    ],
)  # fmt: skip
def test_what_is_no_name(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_name(text)


def test_what_a_registry_is_asked_for() -> None:
    assert parse_name("a").reference == "latest"
    assert parse_name("a:b").reference == "b"
    assert parse_name(f"a:b@{DIGEST}").reference == DIGEST
    assert parse_name("a").tagged() == ImageName("docker.io", "library/a", "latest")
    assert parse_name(f"a@{DIGEST}").tagged().tag is None
    assert str(parse_name("q.io/a:b").with_digest(DIGEST)) == f"q.io/a@{DIGEST}"


def test_another_default_registry() -> None:
    assert str(parse_name("a", "quay.io")) == "quay.io/a"
    assert str(parse_name("docker.io/a", "quay.io")) == "docker.io/library/a"
