"""Law: opens images in archives, layouts and stores as an Image, without reading the layers.

opening.py             opens what a reference names: where callers begin
medium.py              finds files by name in a directory or a tar
docker_archive.py, oci.py    read the documents of archives and layouts
stored.py              images of our own store
docker_storage.py, containers_storage.py    stores of other programs, with unpacked layers;
                       storages.py finds out where they are
choose.py              chooses one image by name and platform; image.py is what they all return
writing.py, output.py, newfile.py    write images into archives and layouts
"""

from fusemount.sources.image import Image
from fusemount.sources.opening import open_image, path_exists

__all__ = ["Image", "open_image", "path_exists"]
