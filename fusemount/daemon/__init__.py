"""Mounts, and the processes that serve them.

Law: nothing here prints or parses a command line; errors are `fusemount.errors`.
"""
