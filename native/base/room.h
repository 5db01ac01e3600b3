/* Room base/.
 *
 * What every room stands on: bytes, numbers in text, errors, counters, signals, hashes, checksums,
 * descriptors of the upper's files that are kept open, and names resolved beneath a descriptor.
 * Nothing here knows a layer, a tree or FUSE.
 *
 * May include: nothing of ours.
 */
