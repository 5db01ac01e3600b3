"""Law: an HTTP server that answers with the bytes that a test sets, and keeps the requests.

    with hostile() as server:
        server.on("GET /v2/a/manifests/t", Answer(503), Answer(200, data))    the last is repeated
        server.on("GET /v2/a/blobs/sha256:…", function_of_request)

An Answer has a Content-Length unless `headers` have another.  cut: the connection ends after so
many bytes of the body.  stall: after so many bytes of the body nothing comes any more.  drip:
seconds for one byte.  endless: the body is repeated for ever.  flood: these bytes instead of an
answer; the last of them is repeated, each after `drip` seconds.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat

TLS_HANDSHAKE = b"\x16"


@dataclass(frozen=True)
class Request:
    """path: with the query; headers: names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: int | None = None
    drip: float = 0.0
    endless: bool = False
    flood: tuple[bytes, ...] = ()


def error(status: int, code: str, message: str, **headers: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class Hostile:
    domain: str = ""
    requests: list[Request] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    _answers: dict[str, list[Answer | Callable[[Request], Answer]]] = field(default_factory=dict)

    def on(self, what: str, *answers: Answer | Callable[[Request], Answer]) -> None:
        """what: method and path, with the query where there is one."""
        self._answers[what] = list(answers)

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        known = self._answers.get(f"{request.method} {request.path}")
        if known is None:
            return error(404, "UNKNOWN", f"no {request.method} {request.path} here")
        found = known.pop(0) if len(known) > 1 else known[0]
        return found(request) if callable(found) else found

    @property
    def heard(self) -> list[str]:
        """Methods and paths, without the look at /v2/ that tells http from https."""
        return [f"{r.method} {r.path}" for r in self.requests if r.path != "/v2/"]

    def sent(self, name: str) -> list[str | None]:
        """A header of all requests in `heard`."""
        return [r.headers.get(name) for r in self.requests if r.path != "/v2/"]


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True


def _handler(server: Hostile) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        disable_nagle_algorithm = True  # head and body go out one by one: no wait in between

        def handle(self) -> None:
            with suppress(ConnectionResetError):  # the client had enough
                if self.connection.recv(1, socket.MSG_PEEK) != TLS_HANDSHAKE:
                    super().handle()

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.respond
            raise AttributeError(name)

        def respond(self) -> None:
            body = self._body()
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            answer = server.answer(request)
            try:
                self._send(answer)
            except OSError:
                self.close_connection = True  # the client had enough

        def _body(self) -> bytes:
            length = int(self.headers.get("Content-Length", "0"))
            try:
                return self.rfile.read(length)
            except OSError:
                return b""

        def _flood(self, answer: Answer) -> None:
            *first, last = answer.flood
            for each in chain(first, repeat(last)):
                if server.ended.wait(answer.drip):
                    break
                self.wfile.write(each)
            self.close_connection = True

        def _send(self, answer: Answer) -> None:
            if answer.flood:
                return self._flood(answer)
            self.send_response(answer.status)
            framed = {"content-length", "transfer-encoding", "connection"}
            if not framed & {name.lower() for name in answer.headers}:
                self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if answer.stall is not None:
                self.wfile.write(answer.body[: answer.stall])
                server.ended.wait()
                self.close_connection = True
            elif answer.drip:
                for byte in answer.body:
                    if server.ended.wait(answer.drip):
                        break
                    self.wfile.write(bytes((byte,)))
            elif answer.endless:
                while not server.ended.is_set():
                    self.wfile.write(answer.body)
            else:
                self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None or "connection" in {n.lower() for n in answer.headers}:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def hostile(address: str = "127.0.0.1") -> Iterator[Hostile]:
    """address: of 127.0.0.0/8; another one is another host."""
    server = Hostile()
    with _Server((address, 0), _handler(server)) as http:
        server.domain = f"{address}:{http.server_address[1]}"
        server.on("GET /v2/", Answer(200, b"{}"))
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            http.shutdown()
            thread.join()
