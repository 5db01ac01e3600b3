"""Law: a token server as the distribution protocol wants one, for docker-registry's `auth: token`.

All clients may pull `public/…`, also without a user name; users may do everything.  Tokens are JWTs
(RS256, the certificate in x5c), signed by the openssl command.  The requests are kept in `asked`.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from oracle import run

SERVICE, ISSUER = "test registry", "imgmount's tests"


@dataclass
class TokenServer:
    """identity_tokens: token -> user.  lifetime: seconds, as expires_in says."""

    base: Path
    users: Mapping[str, str]
    identity_tokens: Mapping[str, str]
    realm: str = ""
    service: str = SERVICE
    issuer: str = ISSUER
    lifetime: int = 300
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    @property
    def certificate(self) -> Path:
        return self.base / "token.crt"

    @property
    def key(self) -> Path:
        return self.base / "token.key"

    def user_of(self, authorization: str | None) -> str | None:
        """None: no user; raises KeyError if the password is wrong."""
        if not authorization:
            return None
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        name, _, password = pair.partition(":")
        if self.users.get(name) != password:
            raise KeyError(name)
        return name

    def token(self, user: str | None, scopes: list[str]) -> str:
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = actions.split(",")
            if user is None:
                granted = ["pull"] if name.startswith("public/") and "pull" in granted else []
            access.append({"type": kind, "name": name, "actions": granted})
        pem = self.certificate.read_text()
        certificate = "".join(line for line in pem.splitlines() if "-----" not in line)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        claims = {"iss": self.issuer, "aud": self.service, "sub": user or "", "access": access}
        claims |= {"exp": now + 300, "nbf": now - 60, "iat": now, "jti": secrets.token_hex(8)}
        signed = f"{_packed(head)}.{_packed(claims)}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=signed.encode(),
            capture_output=True,
            check=True,
        ).stdout
        return f"{signed}.{_urlsafe(signature)}"


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _packed(value: Any) -> str:
    return _urlsafe(json.dumps(value).encode())


@contextmanager
def token_server(
    base: Path, users: Mapping[str, str], identity_tokens: Mapping[str, str]
) -> Iterator[TokenServer]:
    server = TokenServer(base, users, identity_tokens)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-batch", "-days", "30",
        "-subj", "/CN=token", "-keyout", server.key, "-out", server.certificate)  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            words = parse_qs(urlsplit(self.path).query)
            server.asked.append(("GET", words))
            try:
                user = server.user_of(self.headers.get("Authorization"))
            except KeyError:
                return self._answer(401, {"details": "incorrect username or password"})
            self._grant(user, words.get("scope", []))

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"])).decode()
            words = parse_qs(data)
            server.asked.append(("POST", words))
            user = server.identity_tokens.get(words["refresh_token"][0])
            if words["grant_type"] != ["refresh_token"] or user is None:
                return self._answer(401, {"error": "invalid_grant"})
            self._grant(user, words.get("scope", [""])[0].split())

        def _grant(self, user: str | None, scopes: list[str]) -> None:
            token = server.token(user, scopes)
            self._answer(200, {"token": token, "expires_in": server.lifetime})

        def _answer(self, status: int, document: Mapping[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.realm = f"http://127.0.0.1:{http.server_address[1]}/token"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
