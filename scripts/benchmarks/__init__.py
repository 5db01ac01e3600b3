"""What `scripts/bench` is made of; imports point down this list only.

report      medians, ratios, tables, limits: no clock, no file system
plots       PNG files from a JSON report, in a process with matplotlib
running     who runs when: turns, failures, load, progress
indexing    works that mount nothing
works       works on a mount: what is done and what is timed
contestants one class a file system: how it is fed and mounted
mounting    a place with one mount that is taken down whatever happens, and its daemon's memory
images      the archives, made once, and what peers need of them
debian      the image that programs run in
tools       programs and environments that only benchmarks need; paths; child processes
walker.c    what is timed in C
"""
