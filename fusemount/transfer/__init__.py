"""Law: images move between stores, registries and archives; every byte that comes in is verified.

bring.py takes an image's blobs into a store from any BlobSource: pull.py has the one that reads a
registry, archiveload.py the one that reads archives and layouts. push.py and save.py go the other
way, copying.py goes both ways.
"""
