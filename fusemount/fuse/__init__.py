"""Law: the only place that imports pyfuse3: a view in, a served channel out."""

from fusemount.fuse.serve import serve

__all__ = ["serve"]
