"""Law: the type of content hashes (OCI image-spec, descriptor.md "Digests"), and chain IDs; no
I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Digest(str):
    """A digest `sha256:<64 lower-case hex>`, checked when it is made.

    Raises ValueError for anything else (sha512 is registered too, but no image uses it).
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if not _DIGEST.fullmatch(text):
            raise ValueError(f"not a sha256 digest: {text[:100]!r}")
        return super().__new__(cls, text)

    @property
    def hex(self) -> str:
        """The 64 hex digits without the algorithm: the file name in `blobs/sha256/`."""
        return self[7:]

    @classmethod
    def of(cls, data: bytes) -> Digest:
        from hashlib import sha256  # OpenSSL takes 3 ms to load, and not every command hashes

        return cls("sha256:" + sha256(data).hexdigest())


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    """The chain ID after each layer (OCI image-spec, config.md "Layer ChainID")."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
