"""Law: what works on a file system that is mounted or kept: diff, commit, export and dump."""
