"""Law: the running file system (floor 4): layers and an upper in, one view out; no pyfuse3."""

from fusemount.rootfs.open import open_rootfs
from fusemount.rootfs.request import AttrChange, Caller
from fusemount.rootfs.view import RootFs, UpperOptions

__all__ = ["AttrChange", "Caller", "RootFs", "UpperOptions", "open_rootfs"]
