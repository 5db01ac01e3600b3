"""Law: turns the documents of an image (manifest, index, config) into values and back, without I/O.

fields.py reads untrusted JSON, parse.py makes the values of model.py from it, platforms.py matches
platforms, describe.py prepares the output of `inspect` and `history`, nextconfig.py makes the
config of a committed image, changeline.py applies its `--change` lines.
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
