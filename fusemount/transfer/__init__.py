"""Law: moves images between stores, registries and archives, and verifies every byte that comes in.

documents.py      reads what leads to the blobs of an image that comes in, within limits
bring.py          takes an image's blobs into a store from any BlobSource
pull.py           the BlobSource of a registry; archiveload.py that of layouts, and docker archives,
                  whose images archivelists.py finds
importing.py, storewriter.py, newimage.py    images that are made here
push.py, save.py  out of a store; copying.py from anywhere to anywhere
running.py        trio and signals; reports.py the progress of several transfers
"""
