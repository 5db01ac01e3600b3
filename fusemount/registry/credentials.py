"""Finds the user's credentials for a registry in the files and programs of docker and podman.

The sources, in this order; the first that has credentials for the registry counts:

    --creds USER[:PASSWORD]
    $REGISTRY_AUTH_FILE            if it is set, no other file is read (containers-auth.json(5))
    $XDG_RUNTIME_DIR/containers/auth.json, $XDG_CONFIG_HOME/containers/auth.json
    $DOCKER_CONFIG/config.json or ~/.docker/config.json

In each file: `credHelpers`, then `credsStore`, then `auths`.  A key of `auths` may name a registry,
a namespace or a repository; the longest key that fits counts.

Law: a secret is never part of a message.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from fusemount.dataclass import dataclass
from fusemount.errors import MalformedImage, Unauthorized
from fusemount.image.fields import Fields, object_of, parse_json, shown
from fusemount.imagename import DOCKER_HUB

HUB_KEY = "https://index.docker.io/v1/"  # docker's key for Docker Hub
HUB_ALIASES = frozenset(("index.docker.io", "registry-1.docker.io"))
HELPER_SECONDS = 60
HELPER_NOT_FOUND = "credentials not found in native keychain"
HELPER_NAME_BAD = frozenset("/\0")
IDENTITY_USER = "<token>"  # with this user name, a helper's secret is an identity token


@dataclass(frozen=True)
class Credentials:
    """A user name with a password, or an identity token, which OAuth 2 exchanges for tokens."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def user(self) -> str:
        """The user's name, for messages."""
        return shown(self.username) if self.username else "the owner of the identity token"

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True)
class CredentialSources:
    """explicit: given on the command line.  files: in their order.  required: a missing file is an
    error."""

    explicit: Credentials | None = None
    files: tuple[Path, ...] = ()
    required: bool = False


def parse_credentials(text: str) -> Credentials:
    """Parses --creds: `USER[:PASSWORD]`."""
    username, _, password = text.partition(":")
    return Credentials(username, password)


def credential_sources(
    environ: Mapping[str, str], uid: int, explicit: Credentials | None = None
) -> CredentialSources:
    """The sources that an environment names; `cli` calls it with the process' own."""
    named = environ.get("REGISTRY_AUTH_FILE")
    if named:
        return CredentialSources(explicit, (Path(named),), required=True)
    home = environ.get("HOME", "")
    runtime = environ.get("XDG_RUNTIME_DIR") or ("/run" if uid == 0 else f"/run/user/{uid}")
    files = [Path(runtime, "containers/auth.json")]
    if uid == 0 and not environ.get("XDG_RUNTIME_DIR"):
        files.append(Path("/run/containers/0/auth.json"))  # written by root's `podman login`
    config = environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    if config:
        files.append(Path(config, "containers/auth.json"))
    docker = environ.get("DOCKER_CONFIG") or (home and f"{home}/.docker")
    if docker:
        files.append(Path(docker, "config.json"))
    return CredentialSources(explicit, tuple(files))


async def find_credentials(
    domain: str, repository: str, sources: CredentialSources
) -> Credentials | None:
    """The credentials for `domain/repository`; None if no source has any.

    Raises Unauthorized for a source that cannot be read.
    """
    if sources.explicit is not None:
        return sources.explicit
    for path in sources.files:
        fields = _read(path, sources.required)
        if fields is None:
            continue
        try:
            found = await _of_file(domain, repository, fields)
        except MalformedImage as error:
            raise Unauthorized(str(error)) from None
        if found is not None:
            return found
    return None


def _read(path: Path, required: bool) -> Fields | None:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise Unauthorized(f"{path}: no such file (REGISTRY_AUTH_FILE)") from None
        return None
    except OSError as error:
        raise Unauthorized(f"{path}: {error.strerror}") from None
    if not data.strip():
        return None
    try:
        return object_of(parse_json(data, str(path)), str(path))
    except MalformedImage as error:
        raise Unauthorized(str(error)) from None


async def _of_file(domain: str, repository: str, fields: Fields) -> Credentials | None:
    helper = _helper(domain, repository, fields)
    if helper:
        found = await ask_helper(helper, HUB_KEY if domain == DOCKER_HUB else domain)
        if found is not None:
            return found
    entries = fields.mapping("auths")
    for name in names_of(domain, repository):
        for key, entry in entries.items():
            if normal_key(key) == name:
                found = parse_auth(object_of(entry, f"{fields.where}: auths[{shown(key)}]"))
                if found is not None:
                    return found
    return None


def _helper(domain: str, repository: str, fields: Fields) -> str:
    helpers = {normal_key(k): v for k, v in fields.text_mapping("credHelpers").items()}
    for name in names_of(domain, repository):
        if helpers.get(name):
            return helpers[name]
    return fields.text("credsStore")


def names_of(domain: str, repository: str) -> Iterator[str]:
    """The keys that fit a repository, the longest first: `host/a/b`, `host/a`, `host`."""
    name = f"{domain}/{repository}" if repository else domain
    while name:
        yield name
        name = name.rpartition("/")[0]


def normal_key(key: str) -> str:
    """One form for keys that mean the same: `https://HOST/v1/`, `HOST/v2/`, `HOST`, and the several
    hosts of Docker Hub."""
    scheme, found, rest = key.partition("://")
    host, _, path = (rest if found else scheme).partition("/")
    host = DOCKER_HUB if host in HUB_ALIASES else host
    path = path.rstrip("/")
    return host if found or path in ("", "v1", "v2") else f"{host}/{path}"


def parse_auth(fields: Fields) -> Credentials | None:
    """Parses an entry of `auths`.  None for the empty entry that docker leaves when a credential
    store has the secret."""
    token = fields.text("identitytoken")
    username, password = fields.text("username"), fields.text("password")
    packed = fields.text("auth")
    if packed:
        try:
            pair = base64.b64decode(packed, validate=True).decode()
        except ValueError:  # binascii.Error, UnicodeDecodeError, or text that is not ASCII
            raise fields.bad("auth", "not a name and a password in base64") from None
        username, colon, password = pair.partition(":")
        password = password.rstrip("\0")
        if not colon:
            raise fields.bad("auth", "no colon between name and password")
    if not (username or token):
        return None
    return Credentials(username, password, token)


async def ask_helper(name: str, server: str) -> Credentials | None:
    """Runs `docker-credential-NAME get` (the protocol of docker-credential-helpers).

    None: the helper has no credentials for the server.
    """
    import trio

    program = f"docker-credential-{name}"
    where = f"{shown(program)} (asked for {server})"
    if HELPER_NAME_BAD & set(name):
        raise Unauthorized(f"{where}: a helper is named without a path")
    done = None
    with trio.move_on_after(HELPER_SECONDS):
        try:
            done = await trio.run_process(
                [program, "get"],
                stdin=server.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        except FileNotFoundError:
            raise Unauthorized(f"{where}: no such program on the PATH") from None
        except OSError as error:
            raise Unauthorized(f"{where}: {error.strerror}") from None
    if done is None:
        raise Unauthorized(f"{where}: no answer in {HELPER_SECONDS} s")
    return _parse_helper_output(done.returncode, done.stdout, done.stderr, where)


def _parse_helper_output(
    status: int, output: bytes, errors: bytes, where: str
) -> Credentials | None:
    if status != 0:
        message = " ".join((output or errors).decode(errors="replace").split())
        if HELPER_NOT_FOUND in message:
            return None
        raise Unauthorized(f"{where}: {shown(message) or f'exit code {status}'}")
    try:
        answer: Any = parse_json(output, where)
        fields = object_of(answer, where)
        username, secret = fields.text("Username"), fields.text("Secret")
    except MalformedImage as error:
        raise Unauthorized(str(error)) from None
    if not secret:
        return None
    if username == IDENTITY_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret)
