"""Law: gives the names of a store's images in the format of Docker's repositories.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress

from fusemount.errors import UsageError
from fusemount.imagename import parse_name
from fusemount.store.catalog import Catalog, Entry
from fusemount.store.summary import Summaries


def repositories_json(catalog: Catalog, summaries: Summaries) -> bytes:
    """Docker's {"Repositories": {REPOSITORY: {NAME:TAG or NAME@DIGEST: image ID}}}.

    "Index" is the digest of the index.json that it was made from.  Docker ignores that field.
    """
    repositories: dict[str, dict[str, str]] = {}
    ids = {each: summaries.of(each, kind).config for each, kind in catalog.manifests.items()}
    for entry in catalog.entries:
        ident = ids[entry.digest] or entry.digest
        for name in _docker_names(entry):
            repository = name.rpartition("@")[0] or name.rpartition(":")[0]
            repositories.setdefault(repository, {})[name] = ident
    document = {"Index": catalog.digest, "Repositories": repositories}
    return json.dumps(document, sort_keys=True).encode()


def _docker_names(entry: Entry) -> Iterable[str]:
    if entry.name is not None:
        yield entry.name.familiar
    for text in entry.repo_digests:
        with suppress(UsageError):
            yield parse_name(text).familiar
