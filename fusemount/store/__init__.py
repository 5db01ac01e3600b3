"""Law: keeps images on this machine in an OCI image layout, each blob once, for many processes.

layout.py     paths of the store's files, and the rules that make crashes harmless
locks.py      who may change what; which blobs living processes rely on
catalog.py    index.json: the images and their names
intake.py     takes blobs in; diffids.py keeps what their tars are
summary.py    what each manifest leads to; children.py: which manifests came with an index;
              counterpart.py: which manifest is made from another
layerdb.py    shows the layers as Docker does, repositories.py the names
store.py      finds, adds and tags images: where callers begin
listing.py lists images, usage.py counts what they take, verify.py checks the store, removal.py
              removes names and images, collection.py deletes files that nothing needs
"""

from fusemount.store.catalog import Catalog, Entry
from fusemount.store.layout import Layout
from fusemount.store.locks import Lease
from fusemount.store.store import RegistryBlob, Store, StoredImage

__all__ = ["Catalog", "Entry", "Layout", "Lease", "RegistryBlob", "Store", "StoredImage"]
