"""The room of diff, commit, export and dump, which read a file system and write it in another form.

Each takes a mountpoint, a kept upper or an image, and makes of it a list of changes, a new image, a
tar, or lines of text.

Law: nothing here mounts, or writes to the upper or the image that it reads.  Nothing here prints.
"""
