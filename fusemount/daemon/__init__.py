"""The room of mounts and of the processes that serve them: mount, remount, umount, list, stats.

Law: nothing here prints or parses a command line; errors are `fusemount.errors`.
"""
