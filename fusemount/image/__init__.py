"""Law: an image's documents (manifest, index, config) as values; formats only, no I/O.

fields.py reads hostile JSON, model.py has the values, parse.py makes them, platforms.py matches
platforms, describe.py is what `inspect` and `history` show.
"""

from fusemount.image.describe import (
    DescribedImage,
    HistoryRow,
    KeptLayer,
    docker_inspect,
    history_rows,
)
from fusemount.image.model import (
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Index,
    Manifest,
)
from fusemount.image.platforms import parse_platform, this_machine

__all__ = [
    "ContainerConfig",
    "DescribedImage",
    "Descriptor",
    "History",
    "HistoryRow",
    "ImageConfig",
    "Index",
    "KeptLayer",
    "Manifest",
    "docker_inspect",
    "history_rows",
    "parse_platform",
    "this_machine",
]
