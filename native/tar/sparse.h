/* sparse.h: reads the map of a sparse member, in the four formats that tars have.
 *
 *   GNU S     pairs of numbers in the header and in extension blocks
 *   PAX 0.0   records GNU.sparse.offset / GNU.sparse.numbytes, repeated
 *   PAX 0.1   one record GNU.sparse.map = "offset,length,..."
 *   PAX 1.0   decimal lines before the contents: the count, then offset and length of each piece,
 *             padded with NULs to a block
 * Source: GNU tar's manual, "Storing Sparse Files".
 *
 * Pairs are added in order.  When the map is complete and both sizes are known, img_sparse_finish
 * gives each piece its archive offset: the archive stores the pieces one behind another.
 */
#ifndef IMG_SPARSE_H
#define IMG_SPARSE_H

#include "base/error.h"
#include "index/index.h"

typedef struct img_sparse {
    img_extent
        *extents; /* until img_sparse_finish, archive_offset counts from the first stored byte */
    size_t n, cap;
    uint64_t pairs;  /* pairs added; extents has no empty pieces and joins adjoining ones */
    uint64_t end;    /* file offset of the end of the last piece */
    uint64_t stored; /* sum of the lengths */
    uint64_t offset; /* PAX 0.0, 1.0: an offset whose length is still to come */
    bool has_offset;
    uint64_t number, left; /* PAX 1.0: the number being read; how many numbers are still to come */
    bool has_digits, has_count;
} img_sparse;

void img_sparse_reset(img_sparse *sparse); /* empties it, keeps the memory */
void img_sparse_free(img_sparse *sparse);

/* Adds a piece.  EBADMSG: out of order, overlapping, beyond 63 bits.  E2BIG: too many.  ENOMEM. */
int img_sparse_add(img_sparse *sparse, uint64_t offset, uint64_t length, img_error *err);

/* Adds n pairs of 12-byte tar numbers; an empty number ends them. */
int img_sparse_add_block(img_sparse *sparse, const unsigned char *pairs, unsigned n,
                         img_error *err);

/* Adds the value of a record GNU.sparse.map. */
int img_sparse_add_text(img_sparse *sparse, const char *text, size_t len, img_error *err);

/* Adds the next block of a PAX 1.0 map.  Returns 1 if it was the last, 0 if more follow, or -1. */
int img_sparse_add_lines(img_sparse *sparse, const unsigned char *block, img_error *err);

/* Checks the map against both sizes, and adds archive_offset to the offset of each piece. */
int img_sparse_finish(img_sparse *sparse, uint64_t real_size, uint64_t stored_size,
                      uint64_t archive_offset, img_error *err);

#endif
