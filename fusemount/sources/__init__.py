"""Law: media that hold images (archives, layouts) become an Image; the layers' bytes are not read.

medium.py locates blobs by name, docker_archive.py and oci.py read the documents, docker_storage.py
and containers_storage.py those of other programs' stores, whose layers are unpacked directories;
choose.py picks one image, opening.py is the door.
"""

from fusemount.sources.image import Image
from fusemount.sources.opening import open_image, path_exists

__all__ = ["Image", "open_image", "path_exists"]
