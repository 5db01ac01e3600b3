/* Room base/.
 *
 * The basics that every room uses: byte buffers, decimal numbers, errors, counters, interruption by
 * signals, hashes, checksums, clones of mounts, a cache of descriptors, and paths resolved beneath
 * a descriptor.  The room has no code for layers, the tree or FUSE.
 *
 * May include: no other room.
 */
