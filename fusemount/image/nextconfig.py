"""Law: makes the config of an image with one more step from its base's (OCI image-spec, config.md),
without I/O.

Keys of the base's document that are not known here are kept, except those that describe the
container in which the base was made.
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
from fusemount.image.parse import parse_config

_OF_A_CONTAINER = frozenset(
    ("container", "container_config", "docker_version", "id", "parent", "parent_id", "layer_id",
     "throwaway", "Size", "comment")
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """created_ns: since 1970. changes: lines of a Dockerfile. author, comment: "" for none."""

    created_ns: int
    changes: tuple[str, ...] = ()
    author: str = ""
    comment: str = ""
    created_by: str = "imgmount commit"


def committed_config(
    base: ImageConfig, diff_ids: Sequence[Digest], new: Digest | None, step: Step
) -> bytes:
    """The bytes of the config. diff_ids: of the base's layers; new: of the layer on top, None if
    the step made none.

    Raises UsageError for a change that cannot be understood; MalformedImage if the config would be
    beyond a limit, and no reader would accept it.
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
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    parse_config(data, "the new config")
    return data


def rfc3339(ns: int) -> str:
    """RFC 3339 as Go writes it: without zeros at the end of the fraction."""
    seconds, fraction = divmod(ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + f".{fraction:09}".rstrip("0").rstrip(".") + "Z"


def _history(base: ImageConfig, layers: int) -> list[Any]:
    """The base's history, with entries for layers that it has no step for.

    Readers count the steps that made a layer; without these entries they would take the new step
    for that of a lower layer.
    """
    written = base.document.get("history")
    steps = list(written) if isinstance(written, list) else [_entry(s) for s in base.history]
    known = sum(not step.empty_layer for step in base.history)
    return steps + [{"comment": "no history of this layer"}] * max(layers - known, 0)


def _entry(step: History) -> dict[str, Any]:
    values = {
        "created": step.created,
        "created_by": step.created_by,
        "author": step.author,
        "comment": step.comment,
        "empty_layer": step.empty_layer,
    }
    return {key: value for key, value in values.items() if value}
