"""TLS and credentials against Debian's docker-registry: certificates and users, right and wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from realregistry import Authority, RealRegistry, real_registry
from talking import QUICK, Pushed, Slept, described, manifest_of, push, source, talk, whole
from tokenserver import TokenServer, token_server

from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, RegistryError, Unauthorized
from fusemount.image.model import OCI
from fusemount.registry.client import Registry
from fusemount.registry.credentials import Credentials
from fusemount.registry.options import RegistryOptions

ALICE = Credentials("alice", "secret:with:colons")
USERS = {ALICE.username: ALICE.password}
IDENTITY = Credentials(identity_token="identity-of-alice")
SKOPEO_ALICE = "--dest-creds=alice:secret:with:colons"
MANIFEST = OCI + "manifest.v1+json"


@pytest.fixture(scope="module")
def tls(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, layout: Path
) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("tls"), tls=authority) as server:
        push(layout, f"{server.domain}/a/b:t", f"--dest-cert-dir={authority.ca.parent}")
        yield server


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("basic"), users=USERS) as server:
        push(layout, f"{server.domain}/a/b:t", "--dest-tls-verify=false", SKOPEO_ALICE)
        yield server


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    identities = {IDENTITY.identity_token: "alice"}
    with token_server(tmp_path_factory.mktemp("tokens"), USERS, identities) as server:
        yield server


@pytest.fixture(scope="module")
def bearer(
    tmp_path_factory: pytest.TempPathFactory, tokens: TokenServer, layout: Path
) -> Iterator[RealRegistry]:
    with real_registry(tmp_path_factory.mktemp("bearer"), token=tokens) as server:
        for repository in ("public/a", "private/a"):
            target = f"{server.domain}/{repository}:t"
            push(layout, target, "--dest-tls-verify=false", SKOPEO_ALICE)
        yield server


def pull(domain: str, layout: Path, repository: str, **words: object) -> None:
    """Pulls the manifest and the first layer, and compares them with the pushed ones."""
    there = Pushed(repository, "t", layout, manifest_of(layout))

    async def call(r: Registry) -> None:
        assert (await r.manifest(repository, "t")).data == there.manifest
        assert await whole(r, repository, there.layer) == there.blob(there.layer.digest)

    talk(domain, call, **words)  # type: ignore[arg-type]


def test_tls_by_an_authority_of_the_options(
    tls: RealRegistry, authority: Authority, layout: Path
) -> None:
    options = RegistryOptions(retry_delays=(), ca_files=(authority.ca,))
    pull(tls.domain, layout, "a/b", options=options)


def test_tls_by_an_authority_of_the_host(
    tls: RealRegistry, authority: Authority, layout: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "certs.d" / tls.domain
    directory.mkdir(parents=True)
    (directory / "ours.crt").write_bytes(authority.ca.read_bytes())
    roots = (tmp_path / "none", tmp_path / "certs.d")
    pull(tls.domain, layout, "a/b", options=RegistryOptions(certificate_directories=roots))


def test_tls_by_a_directory_of_certificates(
    tls: RealRegistry, authority: Authority, layout: Path
) -> None:
    options = RegistryOptions(retry_delays=(), certificate_directory=authority.ca.parent)
    pull(tls.domain, layout, "a/b", options=options)


def test_a_directory_of_certificates_that_is_not_there(tmp_path: Path) -> None:
    async def call(r: Registry) -> None:
        raise AssertionError("not reached")

    options = RegistryOptions(certificate_directory=tmp_path / "none")
    with pytest.raises(RegistryError, match="none: No such file or directory"):
        talk("reg.test", call, options)


def test_tls_unchecked_when_asked(tls: RealRegistry, layout: Path) -> None:
    options = RegistryOptions(insecure=frozenset((tls.domain,)))
    pull(tls.domain, layout, "a/b", options=options)


def test_tls_by_nobody_believed(tls: RealRegistry) -> None:
    async def call(r: Registry) -> None:
        with pytest.raises(RegistryError, match=r"certificate not believed: unable to get local"):
            await r.manifest("a/b", "t")

    talk(tls.domain, call)


def test_a_registry_elsewhere_without_tls(
    registry: RealRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without permission, plain http is used only with this machine; the test pretends that the
    registry is on another."""
    monkeypatch.setattr("fusemount.registry.options.is_local", lambda host: False)

    async def call(r: Registry) -> None:
        with pytest.raises(RegistryError, match=r"no TLS is spoken there \(--tls-verify=false"):
            await r.manifest("a/b", "t")

    slept = Slept()
    talk(registry.domain, call, sleep=slept)
    assert not slept.seconds


def test_tls_that_wants_a_certificate_of_ours(authority: Authority, tmp_path: Path) -> None:
    """The client sends the certificate of `*.cert` and `*.key` in the host's directory."""
    with real_registry(tmp_path, tls=authority, clients=authority) as server:

        async def call(r: Registry) -> None:
            await r.tags("none")

        bare = RegistryOptions(retry_delays=(), ca_files=(authority.ca,))
        with pytest.raises(RegistryError):
            talk(server.domain, call, bare)
        mine = tmp_path / "certs.d" / server.domain
        mine.mkdir(parents=True)
        for suffix, path in ((".cert", authority.certificate), (".key", authority.key)):
            (mine / f"me{suffix}").write_bytes(path.read_bytes())
        (mine / "ca.crt").write_bytes(authority.ca.read_bytes())
        shown = RegistryOptions(retry_delays=(), certificate_directories=(tmp_path / "certs.d",))
        with pytest.raises(ImageNotFound):
            talk(server.domain, call, shown)


def test_tls_that_is_broken_off(tls: RealRegistry, authority: Authority, layout: Path) -> None:
    there = Pushed("a/b", "t", layout, manifest_of(layout))

    async def call(r: Registry) -> None:
        async with aclosing(r.blob("a/b", there.layer)) as pieces:
            assert there.blob(there.layer.digest).startswith(await anext(pieces))
        assert (await r.manifest("a/b", "t")).data == there.manifest

    talk(tls.domain, call, RegistryOptions(ca_files=(authority.ca,)))


@pytest.mark.parametrize("name", ["bad.crt", "bad.cert"])
def test_a_certificate_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "reg.test").mkdir()
    (tmp_path / "reg.test" / name).write_text("no PEM")

    async def call(r: Registry) -> None:
        raise AssertionError("not reached")

    with pytest.raises(RegistryError, match=name):
        talk("reg.test", call, RegistryOptions(certificate_directories=(tmp_path,)))


def test_basic(basic: RealRegistry, layout: Path) -> None:
    pull(basic.domain, layout, "a/b", credentials=ALICE)


@pytest.mark.parametrize(
    ("credentials", "told"),
    [
        (None, "without credentials, since none are known for "),
        (Credentials("alice", "wrong"), "as alice: UNAUTHORIZED"),
        (Credentials("mallory\x1b[2J", "x"), r"as 'mallory\\x1b\[2J': UNAUTHORIZED"),
    ],
)
def test_basic_refused(basic: RealRegistry, credentials: Credentials | None, told: str) -> None:
    async def call(r: Registry) -> None:
        with pytest.raises(Unauthorized, match=f"a/b:t: may not be read {told}"):
            await r.manifest("a/b", "t")

    talk(basic.domain, call, credentials=credentials)


@pytest.mark.parametrize("credentials", [ALICE, IDENTITY], ids=["password", "identity token"])
def test_bearer(bearer: RealRegistry, layout: Path, credentials: Credentials) -> None:
    pull(bearer.domain, layout, "private/a", credentials=credentials)


def test_bearer_for_everybody(bearer: RealRegistry, layout: Path) -> None:
    pull(bearer.domain, layout, "public/a")


def test_one_token_a_scope(bearer: RealRegistry, tokens: TokenServer, layout: Path) -> None:
    there = Pushed("private/a", "t", layout, manifest_of(layout))
    blob = described(b"pushed")
    before = len(tokens.asked)

    async def call(r: Registry) -> None:
        for _ in range(2):
            await r.manifest("private/a", "t")
            await whole(r, "private/a", there.layer)
        await r.upload_blob("private/b", blob.digest, blob.size, source(b"pushed"))
        assert await r.has_blob("private/b", blob.digest)
        assert await r.mount_blob("private/b", there.layer.digest, "private/a")

    talk(bearer.domain, call, credentials=ALICE)
    scopes = [words["scope"] for _, words in tokens.asked[before:]]
    push_b, pull_a = "repository:private/b:pull,push", "repository:private/a:pull"
    assert scopes == [[pull_a], [push_b], [push_b, pull_a]]
    assert {words["service"][0] for _, words in tokens.asked[before:]} == {tokens.service}


@pytest.mark.parametrize(
    ("credentials", "told"),
    [
        (None, "private/a:t: may not be read without credentials"),
        (Credentials("alice", "wrong"), "refuses alice: incorrect username or password"),
        (Credentials(identity_token="stale"), "refuses the owner of the identity token: inv"),
    ],
)
def test_bearer_refused(bearer: RealRegistry, credentials: Credentials | None, told: str) -> None:
    async def call(r: Registry) -> None:
        with pytest.raises(Unauthorized, match=told):
            await r.manifest("private/a", "t")

    talk(bearer.domain, call, credentials=credentials)


def test_nobody_may_push(bearer: RealRegistry, layout: Path) -> None:
    async def call(r: Registry) -> None:
        with pytest.raises(Unauthorized, match="public/a:t: may not be written without"):
            await r.put_manifest("public/a", "t", MANIFEST, manifest_of(layout))
        with pytest.raises(Unauthorized, match="may not be written without"):
            await r.upload_blob("public/a", Digest.of(b"x"), 1, source(b"x"))

    talk(bearer.domain, call, QUICK)
