"""Law: layers between the image that holds them and the tree that merges them.

blob.py says where bytes stand, opening.py makes them readable,
directory.py and unpacked.py those that are unpacked, decode.py is the one slow pass,
cache.py the cache directory, progress.py how slowness is told.
"""

from fusemount.layer.blob import BlobFile, LayerBlob, OpenLayer
from fusemount.layer.directory import OpenDirectory, open_directories
from fusemount.layer.opening import open_layers
from fusemount.layer.progress import Progress, SilentProgress
from fusemount.layer.unpacked import UnpackedLayer

__all__ = [
    "BlobFile",
    "LayerBlob",
    "OpenDirectory",
    "OpenLayer",
    "Progress",
    "SilentProgress",
    "UnpackedLayer",
    "open_directories",
    "open_layers",
]
