"""Law: the running file system: layers and an upper in, one view out; no pyfuse3."""

from fusemount.rootfs.open import open_rootfs
from fusemount.rootfs.view import AttrChange, Caller, RootFs, UpperOptions

__all__ = ["AttrChange", "Caller", "RootFs", "UpperOptions", "open_rootfs"]
