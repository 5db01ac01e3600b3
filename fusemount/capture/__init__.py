"""The room of what is read out of a file system and written elsewhere: diff, commit, export, dump.

It takes a mountpoint, a kept upper, or an image, and returns the changes against the image, a new
image, a tar, or lines of text.

Law: nothing here mounts, or writes to the upper or the image that it reads.  Nothing here prints.
"""
