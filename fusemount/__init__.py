"""imgmount: a container image as a writable root file system, without unpacking it.

Law: this file has the version and imports nothing, so that `imgmount --version` stays quick.
"""

__version__ = "0.1.0"
