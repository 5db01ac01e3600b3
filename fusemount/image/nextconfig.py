"""Law: a config becomes that of an image with one step more (OCI image-spec, config.md); no I/O.

What is in the base's document and not known here is kept, save what tells of the container that the
base was made in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.image.changeline import apply_changes
from fusemount.image.model import History, ImageConfig

_OF_A_CONTAINER = frozenset(
    ("container", "container_config", "docker_version", "id", "parent", "parent_id", "layer_id",
     "throwaway", "Size", "comment")
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """created_ns: since 1970. changes: lines as of a Dockerfile. author, comment: "" for none."""

    created_ns: int
    changes: tuple[str, ...] = ()
    author: str = ""
    comment: str = ""
    created_by: str = "imgmount commit"


def committed_config(
    base: ImageConfig, diff_ids: Sequence[Digest], new: Digest | None, step: Step
) -> bytes:
    """The bytes of the config. diff_ids: the base's layers; new: the one on top, None where the
    step made none.

    Raises UsageError for a change that cannot be understood.
    """
    created = rfc3339(step.created_ns)
    document = {k: v for k, v in base.document.items() if k not in _OF_A_CONTAINER}
    if step.author:
        document["author"] = step.author
    container = base.document.get("config")
    edited = apply_changes(container if isinstance(container, Mapping) else {}, list(step.changes))
    entry = {"created": created, "created_by": step.created_by}
    entry |= {"author": step.author} if step.author else {}
    entry |= {"comment": step.comment} if step.comment else {}
    whole = entry | ({"empty_layer": True} if new is None else {})
    document |= {
        "created": created,
        "architecture": base.architecture,
        "os": base.os,
        "config": edited,
        "rootfs": {"type": "layers", "diff_ids": [*diff_ids, *([new] if new else [])]},
        "history": [*_history(base, len(diff_ids)), whole],
    }
    if base.variant:
        document["variant"] = base.variant
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def rfc3339(ns: int) -> str:
    """As Go writes it: no zeros at a fraction's end."""
    seconds, fraction = divmod(ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + f".{fraction:09}".rstrip("0").rstrip(".") + "Z"


def _history(base: ImageConfig, layers: int) -> list[Any]:
    """The base's, filled up: readers count the steps that made a layer, and a new one must not be
    taken for that of a lower layer."""
    written = base.document.get("history")
    steps = list(written) if isinstance(written, list) else [_entry(s) for s in base.history]
    told = sum(not step.empty_layer for step in base.history)
    return steps + [{"comment": "no history of this layer"}] * max(layers - told, 0)


def _entry(step: History) -> dict[str, Any]:
    said = {
        "created": step.created,
        "created_by": step.created_by,
        "author": step.author,
        "comment": step.comment,
        "empty_layer": step.empty_layer,
    }
    return {key: value for key, value in said.items() if value}
