"""Law: images kept on this machine: an OCI image layout, each blob once, safe for many processes.

layout.py says where everything stands and keeps the crash rules; locks.py who may change what, and
what living processes rely on; intake.py takes blobs in; catalog.py knows names, layerdb.py what
layers are; store.py is the door; removal.py, verify.py and usage.py are what its name says.
"""

from fusemount.store.catalog import Catalog, Entry
from fusemount.store.layout import Layout
from fusemount.store.locks import Lease
from fusemount.store.store import Seen, Store, StoredImage

__all__ = ["Catalog", "Entry", "Layout", "Lease", "Seen", "Store", "StoredImage"]
