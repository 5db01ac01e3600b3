"""Law: the running file system.  Layers and an upper become one view (RootFs); no pyfuse3 here."""

from fusemount.rootfs.open import open_rootfs
from fusemount.rootfs.request import AttrChange, Caller
from fusemount.rootfs.view import RootFs, UpperOptions

__all__ = ["AttrChange", "Caller", "RootFs", "UpperOptions", "open_rootfs"]
