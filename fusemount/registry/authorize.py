"""Answers a registry's challenge: with Basic, or with a Bearer token of the server that it names.

Law: a token is kept for its scopes until it expires, or until a request that had it gets a 401.
Only one request fetches a token; requests that need the same one wait for it (distribution's
"Token Authentication").
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlencode

import trio

from fusemount.dataclass import dataclass
from fusemount.errors import MalformedImage, RegistryError, Unauthorized
from fusemount.image.fields import Fields, object_of, parse_json, shown
from fusemount.registry.challenge import Challenge, parse_challenges
from fusemount.registry.credentials import Credentials
from fusemount.registry.replies import error_text

Scopes = tuple[str, ...]  # "repository:library/busybox:pull", …

TOKEN_BYTES_MAX = 1 << 20
TOKEN_SECONDS_DEFAULT = 60  # the protocol's value if expires_in is missing
TOKEN_MARGIN = 10  # seconds before its end at which a token is renewed
CLIENT_ID = "imgmount"


@dataclass(frozen=True)
class TokenReply:
    status: int
    data: bytes


@dataclass(frozen=True)
class TokenRequest:
    """form: sent by POST; None: a GET.  authorization: sent to the token server only."""

    url: str
    form: Mapping[str, str] | None = None
    authorization: str | None = None


Fetch = Callable[[TokenRequest], Awaitable[TokenReply]]
FALLBACK_STATUSES = frozenset((404, 405))  # of a token server without OAuth 2


@dataclass(frozen=True)
class _Token:
    header: str
    until: float  # trio.current_time()


class Authorizer:
    """Makes the Authorization headers for one registry from one user's credentials."""

    def __init__(self, domain: str, credentials: Credentials | None, fetch: Fetch) -> None:
        self._domain = domain
        self._credentials = credentials
        self._fetch = fetch
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._lock = trio.Lock()

    @property
    def as_whom(self) -> str:
        """For messages: which user the requests are sent as."""
        if self._credentials is None:
            return f"without credentials, since none are known for {self._domain}"
        return f"as {self._credentials.user}"

    async def header(self, scopes: Scopes) -> str | None:
        """The header's value; None until the registry has sent a challenge."""
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self._basic
        async with self._lock:
            token = self._tokens.get(scopes)
            if token is None or trio.current_time() >= token.until:
                token = self._tokens[scopes] = await self._token(challenge, scopes)
            return token.header

    async def challenged(self, used: str | None, headers: Sequence[str], scopes: Scopes) -> bool:
        """Takes the challenges of a 401.  True: send the request again, with header().

        used: the Authorization header of the refused request.  False: we have no other answer.
        """
        known = [c for c in parse_challenges(headers) if c.scheme in ("bearer", "basic")]
        known.sort(key=lambda challenge: challenge.scheme != "bearer")
        if not known:
            return False
        challenge = known[0]
        if challenge.scheme == "basic":
            self._challenge = challenge
            return self._basic is not None and used != self._basic
        if not challenge.parameters.get("realm"):
            raise RegistryError(f"{self._domain}: a Bearer challenge without a realm")
        self._challenge = challenge
        token = self._tokens.get(scopes)
        if token is not None and token.header == used:
            del self._tokens[scopes]
        return True

    async def _token(self, challenge: Challenge, scopes: Scopes) -> _Token:
        asked = list(scopes or challenge.parameters.get("scope", "").split())
        service = challenge.parameters.get("service", "")
        realm = challenge.parameters["realm"]
        started = trio.current_time()
        reply = None
        if self._credentials is not None and self._credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(asked),
                "refresh_token": self._credentials.identity_token,
            }
            reply = await self._fetch(TokenRequest(realm, form))
            if reply.status in FALLBACK_STATUSES and self._credentials.username:
                reply = None
        if reply is None:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in asked]
            if self._credentials is not None and self._credentials.username:
                query.append(("account", self._credentials.username))
            joint = "&" if "?" in realm else "?"
            url = realm + (joint + urlencode(query) if query else "")
            reply = await self._fetch(TokenRequest(url, authorization=self._basic))
        return self._parse(reply, shown(realm), started)

    def _parse(self, reply: TokenReply, realm: str, started: float) -> _Token:
        where = f"the token server {realm} of {self._domain}"
        if reply.status != 200:
            why = error_text(reply.data)
            why = f": {why}" if why else ""
            if reply.status in (400, 401, 403):
                raise Unauthorized(f"{where} refuses {self._whom}{why}")
            raise RegistryError(f"{where} answers {reply.status}{why}")
        try:
            fields: Fields = object_of(parse_json(reply.data, where), where)
            token = fields.text("token") or fields.text("access_token")
            seconds = fields.count("expires_in") or TOKEN_SECONDS_DEFAULT
        except MalformedImage as error:
            raise RegistryError(str(error)) from None
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise RegistryError(f"{where}: no token in its answer")
        margin = min(TOKEN_MARGIN, seconds / 2)
        return _Token(f"Bearer {token}", started + seconds - margin)

    @property
    def _basic(self) -> str | None:
        if self._credentials is None or not self._credentials.username:
            return None
        return self._credentials.basic

    @property
    def _whom(self) -> str:
        if self._credentials is None:
            return f"us: no credentials are known for {self._domain}"
        return self._credentials.user
