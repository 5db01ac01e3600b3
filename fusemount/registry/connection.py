"""Sends one request to a registry; returns an accepted answer or raises one of our errors.

    Ask ── scheme of the host ── Authorization ── redirects ── accepted? ── response
                                      ▲ 401, once                  └─ no ── AttemptFailed or error

Law: the Authorization header goes only to the host that it is meant for, never to the target of a
redirect on another host.  A request's body goes to no other host either, because it may hold a
token.  Plain http needs the options' permission, also after a redirect.  Without it, only a
registry on this machine uses plain http, and may redirect to another port of this machine.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import field
from socket import gaierror
from types import TracebackType
from typing import TypeVar

import httpx
import trio

from fusemount.dataclass import dataclass
from fusemount.errors import ImgmountError, RegistryError, Unauthorized
from fusemount.image.fields import shown
from fusemount.registry import replies
from fusemount.registry.authorize import (
    TOKEN_BYTES_MAX,
    Authorizer,
    Scopes,
    TokenReply,
    TokenRequest,
)
from fusemount.registry.body import broken, whole_body
from fusemount.registry.credentials import Credentials
from fusemount.registry.head import HEAD_BYTES_MAX, HeadWatch
from fusemount.registry.options import RegistryOptions, is_local, registry_host
from fusemount.registry.retries import AttemptFailed, Retries, Sleep
from fusemount.registry.tls import tls_context
from fusemount.registry.transport import direct_transport, proxy_mounts
from fusemount.registry.urls import Origin, host_of, joined, origin_of

REDIRECTS_MAX = 10
REDIRECTS = frozenset((301, 302, 303, 307, 308))
KEEPS_METHOD = frozenset((307, 308))
RETRIED_STATUSES = frozenset((408, 425, 500, 502, 503, 504))
CONNECTIONS_MAX = 32
NO_TLS = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"))
# The connection broke; the two sides did not disagree about TLS.
TLS_BROKEN = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ask:
    """One request.

    url: a path of the registry (`/v2/…`), or absolute.  what: the subject, for messages.
    body: bytes, or a function that returns them from the beginning; called for each attempt.
    accepted: statuses that are returned; every other status raises.  missing: raised for a 404.
    authorization: sent to the host of url instead of the registry's header; "": none is sent.
    """

    method: str
    url: str
    what: str
    scopes: Scopes = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], AsyncGenerator[bytes, None]] | None = None
    accepted: frozenset[int] = frozenset((200,))
    missing: type[ImgmountError] = RegistryError
    authorization: str | None = None


class _Pieces(httpx.AsyncByteStream):
    """A request's body.  httpx would wrap a bare generator in its own one, and leave that open when
    the request fails."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self._pieces


class Refused(RegistryError):
    """The answer's status is not accepted."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _TlsRefused(RegistryError):
    """The server uses TLS, but one side does not trust the other."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: httpx.Headers
    data: bytes
    url: httpx.URL


class Connection:
    """The connections to one registry and to the hosts that it redirects to.

    An async context manager.
    """

    def __init__(
        self,
        domain: str,
        options: RegistryOptions,
        credentials: Credentials | None,
        sleep: Sleep = trio.sleep,
    ) -> None:
        self.domain = domain
        self.options = options
        self._sleep = sleep
        self._host = registry_host(domain).lower()
        self._is_local = is_local(self._host)
        self._plain_allowed = options.allows_plain(self._host) or options.is_insecure(domain)
        self._base: httpx.URL | None = None
        self._base_lock = trio.Lock()
        self._answered = False  # if a server has answered before, a refused connection is retried
        self._stack = AsyncExitStack()
        self._client: httpx.AsyncClient
        self.authorizer = Authorizer(domain, credentials, self._fetch_token)

    async def __aenter__(self) -> Connection:
        context = tls_context(self.domain, self.options)
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX, keepalive_expiry=30)
        client = httpx.AsyncClient(
            transport=direct_transport(context, limits),
            trust_env=False,
            follow_redirects=False,
            headers={"User-Agent": self.options.user_agent, "Accept-Encoding": "identity"},
            mounts=proxy_mounts(self.options.proxies, context, limits),
        )
        self._client = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def retries(self) -> Retries:
        return Retries(self.options, self._sleep)

    async def again(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Repeats the attempt until it succeeds or the options allow no more; its result."""
        retries = self.retries()
        while True:
            try:
                return await attempt()
            except AttemptFailed as failed:
                await retries.wait_or_raise(failed)

    async def reply(self, ask: Ask, limit: int) -> Reply:
        """An answer with its whole body of at most limit bytes; repeats the request if that may
        help."""
        return await self.again(lambda: self.reply_once(ask, limit))

    async def reply_once(self, ask: Ask, limit: int) -> Reply:
        """reply() without repetition.  Raises AttemptFailed as well."""
        response = await self.open_once(ask)
        try:
            data = await whole_body(response, limit, ask.what, self.options)
            return Reply(response.status_code, response.headers, data, response.url)
        finally:
            await response.aclose()

    async def open_once(self, ask: Ask) -> httpx.Response:
        """An answer whose body is not read yet; the caller closes it.

        Raises AttemptFailed as well.
        """
        base = await self._find_base(ask.what)
        url = joined(base, ask.url, ask.what)
        own = ask.authorization is None
        for attempt in (1, 2):
            header = await self.authorizer.header(ask.scopes) if own else ask.authorization
            meant_for = origin_of(base if own else url)
            response = await self._follow(ask, url, header, meant_for)
            if response.status_code in ask.accepted:
                return response
            try:
                if not (attempt == 1 and own and response.status_code == 401):
                    await self._refuse(ask, response)
                if not self._is_registry(response.url):
                    await self._refuse(ask, response)
                challenges = response.headers.get_list("www-authenticate")
                if not await self.authorizer.challenged(header, challenges, ask.scopes):
                    await self._refuse(ask, response)
            finally:
                await self._discard(response)
        raise AssertionError("a second 401 is refused above")

    async def _follow(
        self, ask: Ask, url: httpx.URL, authorization: str | None, meant_for: Origin
    ) -> httpx.Response:
        """Follows redirects; returns the first answer that is none."""
        for _ in range(REDIRECTS_MAX + 1):
            headers = dict(ask.headers)
            if authorization and origin_of(url) == meant_for:
                headers["Authorization"] = authorization
            response = await self._send(ask, url, headers)
            target = response.headers.get("location")
            status = response.status_code
            if status not in REDIRECTS or status in ask.accepted or not target:
                return response
            await self._discard(response)
            followed = ask.method in ("GET", "HEAD") or status in KEEPS_METHOD
            if not followed or callable(ask.body):
                raise RegistryError(
                    f"{ask.what}: {url.host} redirects a {ask.method} to {shown(target)}"
                )
            there = joined(url, target, ask.what)
            if ask.body is not None and origin_of(there) != origin_of(url):
                raise RegistryError(
                    f"{ask.what}: {url.host} redirects a {ask.method} to {shown(host_of(there))}"
                )
            url = there
        raise RegistryError(
            f"{ask.what}: more than {REDIRECTS_MAX} redirects, the last to {url.host}"
        )

    async def _send(self, ask: Ask, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
        self._check_scheme(ask.what, url)
        fixed = None if callable(ask.body) else ask.body
        written = ask.method in ("PUT", "PATCH")
        seconds = self.options.written_seconds if written else self.options.reply_seconds
        timeout = httpx.Timeout(
            self.options.reply_seconds,
            read=seconds,
            connect=self.options.connect_seconds,
            pool=None,
        )
        watch = HeadWatch(seconds)
        try:
            request = self._client.build_request(
                ask.method, url, headers=headers, content=fixed, timeout=timeout,
                extensions={"trace": watch.trace},
            )  # fmt: skip
            async with AsyncExitStack() as stack:
                if callable(ask.body):
                    pieces = await stack.enter_async_context(aclosing(ask.body()))
                    request.stream = _Pieces(pieces)
                with watch.watching():
                    response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            if watch.flooded:
                raise RegistryError(
                    f"{ask.what}: {host_of(url)} sends more than {HEAD_BYTES_MAX} bytes of headers"
                ) from error
            raise self._unreached(ask.what, url, error) from error
        except (httpx.InvalidURL, UnicodeError) as error:  # of a Location, which httpx looks at
            raise RegistryError(f"{ask.what}: {host_of(url)}: sent to no URL ({error})") from error
        if watch.late:
            raise AttemptFailed(RegistryError(f"{ask.what}: {host_of(url)}: no answer in time"))
        self._answered = True
        return response

    def _check_scheme(self, what: str, url: httpx.URL) -> None:
        host = host_of(url)
        if url.scheme == "https" and url.host:
            return
        if url.scheme != "http" or not url.host:
            raise RegistryError(
                f"{what}: sent to {shown(str(url))}, which is neither http nor https"
            )
        asked = host == self._host and self._plain_allowed
        allowed = self.options.is_insecure(host) or (self._is_local and is_local(host))
        if not (asked or allowed):
            raise RegistryError(
                f"{what}: sent to {host} by plain http, which --tls-verify=false would allow"
            )

    def _unreached(self, what: str, url: httpx.URL, error: httpx.TransportError) -> Exception:
        """The exception to raise: AttemptFailed, or RegistryError if a repetition would fail in the
        same way."""
        causes = list(_causes(error))
        where = f"{what}: {host_of(url)}"
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return _TlsRefused(f"{where}: certificate not believed: {cause.verify_message}")
            if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
                allow = "" if self._plain_allowed else " (--tls-verify=false allows plain http)"
                return RegistryError(f"{where}: no TLS is spoken there{allow}")
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, TLS_BROKEN):
                return _TlsRefused(f"{where}: TLS: {cause.reason or cause}")
            if isinstance(cause, gaierror):
                unknown = RegistryError(f"{where}: {cause.strerror}")
                return AttemptFailed(unknown) if self._answered else unknown
        for cause in causes:
            if isinstance(cause, ConnectionRefusedError):
                refused = RegistryError(f"{where}: connection refused")
                return AttemptFailed(refused) if self._answered else refused
        words = next((c.strerror for c in causes if isinstance(c, OSError) and c.strerror), None)
        return AttemptFailed(RegistryError(f"{where}: {words or broken(error)}"))

    async def _find_base(self, what: str) -> httpx.URL:
        """The registry's root URL, found out once: https, or http if that is allowed and the server
        does not use https."""
        secure, plain = (httpx.URL(f"{scheme}://{self._host}/") for scheme in ("https", "http"))
        async with self._base_lock:
            if self._base is None and self._plain_allowed:
                try:
                    await self._probe(what, secure)
                    self._base = secure
                except _TlsRefused:
                    raise
                except (AttemptFailed, RegistryError):
                    await self._probe(what, plain)
                    self._base = plain
            self._base = self._base or secure
            return self._base

    async def _probe(self, what: str, base: httpx.URL) -> None:
        response = await self._send(Ask("GET", "/v2/", what), base.join("/v2/"), {})
        await self._discard(response)

    async def _discard(self, response: httpx.Response) -> None:
        """Closes the answer; reads a short body first, so that the connection can be used again."""
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length[:18]) <= replies.ERROR_BYTES_MAX:
            with suppress(AttemptFailed, RegistryError, httpx.StreamError):
                await whole_body(response, replies.ERROR_BYTES_MAX, self.domain, self.options)
        await response.aclose()

    def _is_registry(self, url: httpx.URL) -> bool:
        return self._base is not None and origin_of(url) == origin_of(self._base)

    async def _refuse(self, ask: Ask, response: httpx.Response) -> None:
        """Raises the error that a status outside `accepted` means."""
        status = response.status_code
        try:
            data = await whole_body(response, replies.ERROR_BYTES_MAX, ask.what, self.options)
        except (AttemptFailed, RegistryError):
            data = b""
        why = (
            replies.error_text(data) or f"{status} {replies.clean(response.reason_phrase)}".strip()
        )
        elsewhere = "" if self._is_registry(response.url) else f"{host_of(response.url)}: "
        text = f"{ask.what}: {elsewhere}{why}"
        if status in (401, 403) and not elsewhere:
            read = ask.method in ("GET", "HEAD")
            text = f"may not be {'read' if read else 'written'} {self.authorizer.as_whom}: {why}"
            # Many registries send the same status for a missing name and for a forbidden one.
            hint = " (or nothing has that name)" if read else ""
            raise Unauthorized(f"{ask.what}: {text}{hint}")
        after = replies.retry_after(response.headers.get("retry-after"), time.time())
        if status == 429:
            limits = (response.headers.get(f"ratelimit-{w}") for w in ("limit", "remaining"))
            spent = replies.used_up(*limits)
            text = f"{text} ({spent}; {self.authorizer.as_whom})" if spent else text
            if spent and after is None:
                raise RegistryError(text)
            raise AttemptFailed(RegistryError(text), after)
        if status in RETRIED_STATUSES:
            raise AttemptFailed(RegistryError(text), after)
        if status == 404 and ask.missing is not RegistryError:
            raise ask.missing(text)
        raise Refused(text, status)

    async def _fetch_token(self, request: TokenRequest) -> TokenReply:
        ask = Ask(
            method="GET" if request.form is None else "POST",
            url=request.url,
            what=f"the token server of {self.domain}",
            headers={"Content-Type": "application/x-www-form-urlencoded"} if request.form else {},
            body=None if request.form is None else str(httpx.QueryParams(request.form)).encode(),
            accepted=frozenset((200, 400, 401, 403, 404, 405)),
            authorization=request.authorization or "",
        )
        reply = await self.reply(ask, TOKEN_BYTES_MAX)
        return TokenReply(reply.status, reply.data)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, its causes, and the members of exception groups."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _causes(each)
        error = error.__cause__ or error.__context__
