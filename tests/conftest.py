"""Law: this file's place puts `tests/` on the import path (tarwriter, imagewriter)."""
