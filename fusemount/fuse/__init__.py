"""Law: serves a view on a FUSE channel.  No other room imports pyfuse3."""

from fusemount.fuse.serve import serve

__all__ = ["serve"]
