"""Credentials are found in the right source, and broken files and helpers give clear messages."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from oracle import run

from fusemount.errors import Unauthorized
from fusemount.registry.credentials import (
    HUB_KEY,
    Credentials,
    CredentialSources,
    credential_sources,
    find_credentials,
    parse_credentials,
)


def auth(name: str, password: str = "p") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def find(domain: str, repository: str, *files: Path, **more: Any) -> Credentials | None:
    return trio.run(find_credentials, domain, repository, CredentialSources(files=files, **more))


def refused(*files: Path, **more: Any) -> str:
    with pytest.raises(Unauthorized) as told:
        find("reg.test", "a/b", *files, **more)
    assert str(told.value).isprintable()
    return str(told.value)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory at the head of the PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def helper(programs: Path, name: str, script: str) -> None:
    path = programs / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_order_of_places(tmp_path: Path) -> None:
    environment = {"HOME": f"{tmp_path}/home", "XDG_RUNTIME_DIR": f"{tmp_path}/run"}
    places = ["run/containers/auth.json", "home/.config/containers/auth.json",
              "home/.docker/config.json"]  # fmt: skip
    for number in (2, 1, 0):
        write(tmp_path / places[number], {"auths": {"reg.test": auth(f"user{number}")}})
        sources = credential_sources(environment, 1000)
        found = trio.run(find_credentials, "reg.test", "a", sources)
        assert found == Credentials(f"user{number}", "p")
    named = write(tmp_path / "named.json", {"auths": {}})
    sources = credential_sources(environment | {"REGISTRY_AUTH_FILE": str(named)}, 1000)
    assert trio.run(find_credentials, "reg.test", "a", sources) is None
    explicit = credential_sources(environment, 1000, parse_credentials("u:p:q"))
    assert trio.run(find_credentials, "reg.test", "a", explicit) == Credentials("u", "p:q")


def test_places_that_the_environment_moves() -> None:
    moved = {"DOCKER_CONFIG": "/d", "XDG_CONFIG_HOME": "/c"}
    assert [str(path) for path in credential_sources(moved, 0).files] == [
        "/run/containers/auth.json",
        "/run/containers/0/auth.json",
        "/c/containers/auth.json",
        "/d/config.json",
    ]
    assert [str(path) for path in credential_sources({}, 7).files] == [
        "/run/user/7/containers/auth.json"
    ]


def test_the_longest_key_counts(tmp_path: Path) -> None:
    keys = {"reg.test": auth("host"), "reg.test/a": auth("a"), "reg.test/a/b": auth("ab")}
    path = write(tmp_path / "auth.json", {"auths": keys | {"reg.test:5000": auth("port")}})

    def name(domain: str, repository: str) -> str:
        found = find(domain, repository, path)
        return found.username if found else ""

    assert name("reg.test", "a/b") == "ab"
    assert name("reg.test", "a/bc") == "a"
    assert name("reg.test", "b") == "host"
    assert name("reg.test:5000", "a/b") == "port"
    assert name("other.test", "a/b") == ""


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("https://reg.test/v1/", "reg.test"),
        ("reg.test/v2/", "reg.test"),
        ("http://reg.test:5000", "reg.test:5000"),
        (HUB_KEY, "docker.io"),
        ("index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
    ],
)
def test_keys_as_docker_writes_them(tmp_path: Path, key: str, domain: str) -> None:
    path = write(tmp_path / "config.json", {"auths": {key: auth("me")}})
    assert find(domain, "library/x", path) == Credentials("me", "p")


def test_entries_of_other_shapes(tmp_path: Path) -> None:
    def one(entry: dict[str, str]) -> Credentials | None:
        return find("reg.test", "a", write(tmp_path / "c.json", {"auths": {"reg.test": entry}}))

    assert one({}) is None
    assert one({"username": "u", "password": "p"}) == Credentials("u", "p")
    assert one(auth("u", "p:q\0\0")) == Credentials("u", "p:q")
    assert one(auth("u") | {"identitytoken": "t"}) == Credentials("u", "p", "t")
    assert one({"identitytoken": "t"}) == Credentials(identity_token="t")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ({"auths": 1}, "auths: expected an object"),
        ({"auths": {"reg.test": 1}}, "expected an object"),
        ({"auths": {"reg.test": {"auth": "%%"}}}, "auth: not a name and a password in base64"),
        ({"auths": {"reg.test": {"auth": "YWJj"}}}, "auth: no colon"),
        ({"credHelpers": {"reg.test": 1}}, "credHelpers"),
        ({"credsStore": "no-such-helper"}, "docker-credential-no-such-helper"),
        ({"credsStore": "../x"}, "a helper is named without a path"),
    ],
)
def test_files_that_are_broken(tmp_path: Path, document: Any, told: str) -> None:
    path = write(tmp_path / "config.json", document)
    text = refused(path)
    assert told in text and ("config.json" in text or "docker-credential" in text)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", "\n")
    below_file = empty / "x"
    assert find("reg.test", "a", tmp_path / "none", below_file, empty) is None
    assert "none: no such file (REGISTRY_AUTH_FILE)" in refused(tmp_path / "none", required=True)
    assert "Is a directory" in refused(tmp_path)


def test_helpers(tmp_path: Path, programs: Path) -> None:
    reply = '{"ServerURL":"x","Username":"%s","Secret":"%s"}'
    helper(programs, "store", f"cat > {tmp_path}/asked; echo '{reply % ('s', 'x')}'")
    helper(programs, "own", f"echo '{reply % ('<token>', 'identity')}'")
    helper(programs, "empty", "echo credentials not found in native keychain; exit 1")
    document = {
        "credsStore": "store",
        "credHelpers": {"own.test": "own", "empty.test": "empty"},
        "auths": {"empty.test": auth("fallback"), "reg.test": {}},
    }
    path = write(tmp_path / "config.json", document)
    assert find("reg.test", "a", path) == Credentials("s", "x")
    assert (tmp_path / "asked").read_text() == "reg.test"
    find("docker.io", "library/a", path)
    assert (tmp_path / "asked").read_text() == HUB_KEY
    assert find("own.test", "a", path) == Credentials(identity_token="identity")
    assert find("empty.test", "a", path) == Credentials("fallback", "p")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'the keychain\nis locked'; exit 1", "the keychain is locked"),
        ("echo no bus >&2; exit 2", "no bus"),
        ("exit 3", "exit code 3"),
        ("echo '<html>'", "not JSON"),
        ("""echo '{"Secret": 1}'""", "Secret: expected a string"),
    ],
)
def test_helpers_that_fail(tmp_path: Path, programs: Path, script: str, told: str) -> None:
    helper(programs, "bad", script)
    text = refused(write(tmp_path / "config.json", {"credsStore": "bad"}))
    assert text.startswith("docker-credential-bad (asked for reg.test)") and told in text


def test_no_secret_is_shown() -> None:
    assert "secret" not in repr(Credentials("u", "secret", "secret"))


def test_what_skopeo_wrote_is_read(tmp_path: Path) -> None:
    from realregistry import real_registry

    base = tmp_path / "registry"
    base.mkdir()
    path = tmp_path / "auth.json"
    with real_registry(base, users={"alice": "s:e"}) as server:
        run("skopeo", "login", "--tls-verify=false", "--authfile", path, "-u", "alice", "-p",
            "s:e", server.domain)  # fmt: skip
    assert find(server.domain, "any", path) == Credentials("alice", "s:e")
