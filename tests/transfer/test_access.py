"""Checks access to registries with TLS, passwords and tokens, with docker's and podman's logins."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Command
from picture import Pictured
from realregistry import Authority, RealRegistry, make_authority, real_registry
from storing import clean
from tokenserver import TokenServer, token_server
from transferring import skopeo_copy

from fusemount.errors import RegistryError, Unauthorized
from fusemount.store import Store

PAIR = "alice:secret"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No user is logged in."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return home


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "dirs")


def refused(command: Command, code: int, *words: str | Path) -> str:
    """Checks that nothing came.  The one line of the error."""
    done = command(*words, check=False)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("imgmount: ")
    root = command.base / "root"
    assert not (root / "oci-layout").exists() or not Store(root).images()
    return line


def pulls(command: Command, *words: str | Path) -> None:
    command("pull", "-q", *words)
    clean(Store(command.base / "root"), images=1)


def auths(path: Path, domain: str, pair: str = PAIR) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(pair.encode()).decode()
    path.write_text(json.dumps({"auths": {domain: {"auth": auth}}}))
    return path


# ---- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def behind_tls(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, pictured: Pictured
) -> Iterator[str]:
    """A name at a registry with TLS and a password."""
    base = tmp_path_factory.mktemp("tls")
    with real_registry(base, tls=authority, users=dict([PAIR.split(":")])) as server:
        name = f"{server.domain}/a:1"
        skopeo_copy(f"oci:{pictured.layout}:t", f"docker://{name}", "--dest-creds", PAIR,
                    "--dest-cert-dir", str(authority.ca.parent))  # fmt: skip
        yield name


def test_an_authority_of_ones_own(command: Command, behind_tls: str, authority: Authority) -> None:
    pulls(command, "--creds", PAIR, "--ca-file", authority.ca, behind_tls)
    again = f"{behind_tls[:-2]}again:1"
    command("push", "-q", "--creds", PAIR, "--cert-dir", authority.ca.parent, behind_tls, again)
    pulls(command, "--creds", PAIR, "--tls-verify=false", again)
    store = Store(command.base / "root")
    assert store.find(again).digest == store.find(behind_tls).digest


def test_an_authority_that_is_not_believed(
    command: Command, behind_tls: str, tmp_path: Path
) -> None:
    line = refused(command, RegistryError.exit_code, "pull", "--creds", PAIR, behind_tls)
    assert "certificate" in line
    line = refused(command, 2, "pull", "--ca-file", tmp_path / "none", behind_tls)
    assert "no such file" in line


# ---- a password -------------------------------------------------------------------------------


def test_who_is_logged_in(
    command: Command, behind_tls: str, authority: Authority, nobody: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """docker's config.json, podman's auth.json, --authfile, REGISTRY_AUTH_FILE."""
    domain, ca = behind_tls.partition("/")[0], ("--ca-file", authority.ca)
    line = refused(command, Unauthorized.exit_code, "pull", *ca, behind_tls)
    assert behind_tls in line
    wrong = auths(tmp_path / "wrong.json", domain, "alice:wrong")
    refused(command, Unauthorized.exit_code, "pull", *ca, "--authfile", wrong, behind_tls)
    refused(command, Unauthorized.exit_code, "pull", *ca, "--creds", "alice:no", behind_tls)
    places = {
        nobody / ".docker/config.json": {},
        tmp_path / "run/containers/auth.json": {},
        tmp_path / "docker/config.json": {"DOCKER_CONFIG": str(tmp_path / "docker")},
        tmp_path / "named.json": {"REGISTRY_AUTH_FILE": str(tmp_path / "named.json")},
    }
    for path, environment in places.items():
        auths(path, domain)
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            pulls(command, *ca, behind_tls)
        path.unlink()
    pulls(command, *ca, "--authfile", auths(tmp_path / "own.json", domain), behind_tls)
    refused_file = tmp_path / "missing.json"
    done = command("pull", *ca, "--authfile", refused_file, behind_tls, check=False)
    assert done.returncode == Unauthorized.exit_code and str(refused_file) in done.stderr


# ---- tokens -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    base = tmp_path_factory.mktemp("tokens")
    with token_server(base, dict([PAIR.split(":")]), {}) as server:
        yield server


@pytest.fixture(scope="module")
def by_token(
    tmp_path_factory: pytest.TempPathFactory, tokens: TokenServer, pictured: Pictured
) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("bytoken"), token=tokens) as server:
        for name in ("public", "private"):
            skopeo_copy(f"oci:{pictured.layout}:t", f"docker://{server.domain}/{name}/a:1",
                        "--dest-creds", PAIR, "--dest-tls-verify=false")  # fmt: skip
        yield server


def test_tokens(command: Command, by_token: RealRegistry, tokens: TokenServer) -> None:
    """Public repositories without a login; a blob of another repository is mounted."""
    domain = by_token.domain
    pulls(command, f"{domain}/public/a:1")
    done = command("pull", f"{domain}/private/a:1", check=False)
    assert done.returncode == Unauthorized.exit_code
    done = command("push", f"{domain}/public/a:1", f"{domain}/private/b:1", check=False)
    assert done.returncode == Unauthorized.exit_code
    (line,) = done.stderr.splitlines()
    assert f"{domain}/private/b" in line
    output = command(
        "push", "--creds", PAIR, f"{domain}/public/a:1", f"{domain}/private/b:1"
    ).stdout
    assert output.count("Mounted from public/a") == 4
    pulls(command, "--creds", PAIR, f"{domain}/private/a:1")
    pulls(command, "--creds", PAIR, f"{domain}/private/b:1")
