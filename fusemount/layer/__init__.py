"""Law: takes layers as the image stores them and opens them, so that a tree can be merged of them.

blob.py is a layer before and after it is opened.  opening.py opens layers that are tars, with
decode.py for the one slow pass over their bytes, directory.py opens directories (marks.py decides
which marks count in them), and unpacked.py makes the tar of an unpacked layer again.  cache.py is
the cache directory, filestate.py the names of its facts, sparse.py writes its tars.  A layer that
is read in its compressed bytes has access points, which tarpass.py and reframe.py find out, and
chunks, which chunkcache.py holds to a size.  beside.py runs the steps of a pass in threads.
text.py prints what is kept, progress.py reports progress.
"""

from fusemount.layer.blob import BlobFile, LayerBlob, OpenLayer, measured
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
    "measured",
    "open_directories",
    "open_layers",
]
