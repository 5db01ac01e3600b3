/* sparse.h: the map of a sparse member, in the four spellings that tars know.
 *
 *   GNU S     pairs of numbers in the header and in extension blocks
 *   PAX 0.0   records GNU.sparse.offset / GNU.sparse.numbytes, repeated
 *   PAX 0.1   one record GNU.sparse.map = "offset,length,..."
 *   PAX 1.0   decimal lines before the contents: count, then offset and length each, NUL-padded
 *             to a block
 * Source: GNU tar's manual, "Storing Sparse Files".
 *
 * A map is gathered pair by pair, in order, and placed once all of it and both sizes are known:
 * the stored pieces stand one behind another in the archive.
 */
#ifndef IMG_SPARSE_H
#define IMG_SPARSE_H

#include "base/error.h"
#include "index/index.h"

typedef struct img_sparse {
    img_extent *extents; /* archive_offset counts from the first stored byte until placed */
    size_t n, cap;
    uint64_t pairs;  /* as given: empty and adjoining pieces are not kept apart above */
    uint64_t end;    /* in the file, of the last piece */
    uint64_t stored; /* sum of the lengths */
    uint64_t offset; /* PAX 0.0, 1.0: an offset that waits for its length */
    bool has_offset;
    uint64_t number, left; /* PAX 1.0: the number being read; numbers that are still to come */
    bool has_digits, has_count;
} img_sparse;

void img_sparse_reset(img_sparse *sparse); /* empties it, keeps the memory */
void img_sparse_free(img_sparse *sparse);

/* One piece. EBADMSG: out of order, overlapping, beyond 63 bits. E2BIG: too many. ENOMEM. */
int img_sparse_add(img_sparse *sparse, uint64_t offset, uint64_t length, img_error *err);

/* n pairs of 12-byte tar numbers; an empty one ends them. */
int img_sparse_add_block(img_sparse *sparse, const unsigned char *pairs, unsigned n,
                         img_error *err);

/* The value of GNU.sparse.map. */
int img_sparse_add_text(img_sparse *sparse, const char *text, size_t len, img_error *err);

/* The next block of a PAX 1.0 map; returns 1 when it was the last, 0 for more, -1. */
int img_sparse_add_lines(img_sparse *sparse, const unsigned char *block, img_error *err);

/* Checks the map against both sizes and gives each piece its place from archive_offset on. */
int img_sparse_place(img_sparse *sparse, uint64_t real_size, uint64_t stored_size,
                     uint64_t archive_offset, img_error *err);

#endif
