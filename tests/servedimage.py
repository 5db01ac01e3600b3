"""Law: an image at a hostile registry, which serves it correctly until a test sets other answers.

image = ServedImage(server, oci_files([...]), "a", "t")
server.on(image.blob(digest), Answer(503))         and image.serve() makes all right again
image.name                                         what is pulled
image.asked(digest)                                offsets of its GETs
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hostile import Answer, Hostile, Request
from imagewriter import Files


def offset_of(request: Request) -> int:
    text = request.headers.get("range", "bytes=0-")
    return int(text.removeprefix("bytes=").partition("-")[0])


def in_range(data: bytes, **more: Any) -> Callable[[Request], Answer]:
    """From where it was asked for; more: of an Answer, counted from there."""

    def answer(request: Request) -> Answer:
        at = offset_of(request)
        headers = {"Content-Range": f"bytes {at}-{len(data) - 1}/{len(data)}"}
        return Answer(206 if at else 200, data[at:], headers, **more)

    return answer


class ServedImage:
    """manifest: the tag's path; config, layers: digests, lowest first."""

    def __init__(self, server: Hostile, files: Files, repository: str, tag: str) -> None:
        self.server, self._files, self._base = server, files, f"/v2/{repository}"
        self.name = f"{server.domain}/{repository}:{tag}"
        (top, *_) = json.loads(self._data("index.json"))["manifests"]
        self.digest: str = top["digest"]
        self.kind: str = top["mediaType"]
        self.manifest = f"GET {self._base}/manifests/{tag}"
        document = json.loads(self.bytes_of(self.digest))
        self.config: str = document["config"]["digest"]
        self.layers: list[str] = [layer["digest"] for layer in document["layers"]]
        self.serve()

    def serve(self) -> None:
        data, kind = self.bytes_of(self.digest), {"Content-Type": self.kind}
        for path in (self.manifest, f"GET {self._base}/manifests/{self.digest}"):
            self.server.on(path, Answer(200, data, kind))
        for name in self._files:
            if name.startswith("blobs/"):
                digest = name.removeprefix("blobs/").replace("/", ":")
                self.server.on(self.blob(digest), in_range(self.bytes_of(digest)))

    def _data(self, name: str) -> bytes:
        data = self._files[name]
        assert isinstance(data, bytes)
        return data

    def bytes_of(self, digest: str) -> bytes:
        return self._data(f"blobs/{digest.replace(':', '/')}")

    def blob(self, digest: str) -> str:
        return f"GET {self._base}/blobs/{digest}"

    def asked(self, digest: str) -> list[int]:
        path = self.blob(digest).removeprefix("GET ")
        found = [r for r in list(self.server.requests) if r.method == "GET" and r.path == path]
        return [offset_of(request) for request in found]
