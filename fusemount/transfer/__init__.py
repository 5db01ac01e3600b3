"""Law: images move between stores, registries and archives; every byte that comes in is verified.

bring.py takes an image's blobs into a store from any BlobSource; origins.py has those that are read
from disk, pull.py the registry's; push.py, save.py go the other way; copying.py does both.
"""
