"""The modules of `scripts/bench`.  Law: a module imports only modules below it in this list.

report      medians, ratios, tables, limits: no clock, no file system
plots       PNG files from a JSON report, in a process with matplotlib
running     the order of the visits: turns, failures, load, progress
indexing    works that mount nothing
packed      works on compressed layers
packedimages  the images of these works, in each compression
storing     works on the image store
works       works on a mount: the operations, and which of them are timed
contestants one class for each file system: its inputs and its mount command
mounting    a directory with one mount that is always unmounted, and the daemon's memory
images      the archives, made once, and the forms of them that peers need
debian      the image that programs run in
tools       programs and environments that only benchmarks need; paths; child processes
walker.c    the operations that are timed in C
"""
