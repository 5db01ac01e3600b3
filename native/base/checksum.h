/* checksum.h: a 64-bit checksum against damage: bits that a disk, a memory or a cut write changed.
 *
 * It protects against damage only: a process that can write the data can write the checksum too.
 * It is fast enough to be taken of everything that is read: about 10 GB/s, a tenth of the cost of
 * reading from a warm page cache.  The function is XXH64 (github.com/Cyan4973/xxHash,
 * doc/xxhash_spec.md).  Each of its steps is a bijection of the eight bytes that it takes in.  So a
 * change within one of these words always changes the result; any other change does so with a
 * probability of 1 - 2^-64.
 */
#ifndef IMG_CHECKSUM_H
#define IMG_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* For several pieces of data: call it for each piece, with the result as the seed of the next. */
uint64_t img_checksum(const void *data, size_t size, uint64_t seed);

#endif
