/* checksum.h: a 64-bit checksum against damage: bits that a disk, a memory or a cut write changed.
 *
 * Against damage only: who can write the data can write the checksum too.  Fast enough to be taken
 * of all that is read (about 10 GB/s, a tenth of what reading costs from a warm page cache).  The
 * function is XXH64 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), whose steps are bijections of
 * the eight bytes taken in: a change within one of those words changes the result surely, any other
 * with a chance of 1 - 2^-64.
 */
#ifndef IMG_CHECKSUM_H
#define IMG_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Several stretches are summed one after another, the sum so far being the next seed. */
uint64_t img_checksum(const void *data, size_t size, uint64_t seed);

#endif
