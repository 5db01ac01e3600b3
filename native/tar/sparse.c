#include "tar/sparse.h"

#include "base/decimal.h"
#include "tar/tarblock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_WIDTH = 12, PAIR_WIDTH = 2 * NUMBER_WIDTH };

void img_sparse_reset(img_sparse *sparse) {
    img_extent *extents = sparse->extents;
    size_t cap = sparse->cap;
    *sparse = (img_sparse){.extents = extents, .cap = cap};
}

void img_sparse_free(img_sparse *sparse) {
    free(sparse->extents);
    *sparse = (img_sparse){0};
}

static int keep_piece(img_sparse *sparse, uint64_t offset, uint64_t length, img_error *err) {
    img_extent *last = sparse->n ? &sparse->extents[sparse->n - 1] : NULL;
    if (last && last->file_offset + last->length == offset) {
        last->length += length; /* pieces that adjoin in the file adjoin in the archive too */
        return 0;
    }
    if (sparse->n == sparse->cap) {
        size_t cap = sparse->cap ? 2 * sparse->cap : 16;
        img_extent *grown = realloc(sparse->extents, cap * sizeof *grown);
        if (!grown)
            return img_fail(err, ENOMEM, "out of memory");
        sparse->extents = grown;
        sparse->cap = cap;
    }
    sparse->extents[sparse->n++] = (img_extent){offset, length, sparse->stored};
    return 0;
}

int img_sparse_add(img_sparse *sparse, uint64_t offset, uint64_t length, img_error *err) {
    if (++sparse->pairs > IMG_SPARSE_MAX)
        return img_fail(err, E2BIG, "a sparse map of more than %u pieces, the limit",
                        IMG_SPARSE_MAX);
    if (offset < sparse->end || offset > INT64_MAX || length > (uint64_t)INT64_MAX - offset)
        return img_fail(err, EBADMSG, "a sparse map out of order: %" PRIu64 " bytes at %" PRIu64,
                        length, offset);
    if (length && keep_piece(sparse, offset, length, err) < 0)
        return -1;
    sparse->end = offset + length;
    sparse->stored += length; /* stored <= end, because pieces do not overlap */
    return 0;
}

int img_sparse_add_block(img_sparse *sparse, const unsigned char *pairs, unsigned n,
                         img_error *err) {
    for (unsigned i = 0; i < n; i++, pairs += PAIR_WIDTH) {
        if (pairs[0] == 0 || pairs[NUMBER_WIDTH] == 0)
            break;
        int64_t offset, length;
        if (tar_number(pairs, NUMBER_WIDTH, &offset) < 0 ||
            tar_number(pairs + NUMBER_WIDTH, NUMBER_WIDTH, &length) < 0 || offset < 0 || length < 0)
            return img_fail(err, EBADMSG, "a sparse map with something that is no number");
        if (img_sparse_add(sparse, (uint64_t)offset, (uint64_t)length, err) < 0)
            return -1;
    }
    return 0;
}

int img_sparse_add_text(img_sparse *sparse, const char *text, size_t len, img_error *err) {
    const char *at = text, *end = text + len;
    uint64_t offset = 0;
    bool has_offset = false;
    while (at < end) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        const char *stop = comma ? comma : end;
        uint64_t number;
        if (img_decimal(at, (size_t)(stop - at), &number) < 0)
            return img_fail(err, EBADMSG, "GNU.sparse.map holds something that is no number");
        if (has_offset && img_sparse_add(sparse, offset, number, err) < 0)
            return -1;
        offset = number;
        has_offset = !has_offset;
        at = stop + 1;
    }
    if (has_offset || at == end) /* at == end: the text ends with a comma */
        if (len)
            return img_fail(err, EBADMSG, "GNU.sparse.map ends within a pair");
    return 0;
}

/* Takes one complete number of a PAX 1.0 map: first the count, then offsets and lengths in turn. */
static int take_line(img_sparse *sparse, img_error *err) {
    if (!sparse->has_count) {
        if (sparse->number > IMG_SPARSE_MAX)
            return img_fail(err, E2BIG, "a sparse map of %" PRIu64 " pieces, the limit is %u",
                            sparse->number, IMG_SPARSE_MAX);
        sparse->has_count = true;
        sparse->left = 2 * sparse->number;
        return 0;
    }
    sparse->left--;
    sparse->has_offset = !sparse->has_offset;
    if (!sparse->has_offset)
        return img_sparse_add(sparse, sparse->offset, sparse->number, err);
    sparse->offset = sparse->number;
    return 0;
}

int img_sparse_add_lines(img_sparse *sparse, const unsigned char *block, img_error *err) {
    for (unsigned i = 0; i < TAR_BLOCK; i++) {
        unsigned char c = block[i];
        if (c >= '0' && c <= '9') {
            if (__builtin_mul_overflow(sparse->number, (uint64_t)10, &sparse->number) ||
                __builtin_add_overflow(sparse->number, (uint64_t)(c - '0'), &sparse->number))
                return img_fail(err, EBADMSG, "a sparse map with a number beyond 64 bits");
            sparse->has_digits = true;
        } else if (c == '\n' && sparse->has_digits) {
            if (take_line(sparse, err) < 0)
                return -1;
            sparse->number = 0;
            sparse->has_digits = false;
            if (sparse->left == 0)
                return 1;
        } else {
            return img_fail(err, EBADMSG, "a sparse map with something that is no number");
        }
    }
    return 0;
}

int img_sparse_finish(img_sparse *sparse, uint64_t real_size, uint64_t stored_size,
                      uint64_t archive_offset, img_error *err) {
    if (sparse->end > real_size)
        return img_fail(err, EBADMSG,
                        "a sparse map that reaches byte %" PRIu64 " of a file of %" PRIu64,
                        sparse->end, real_size);
    if (sparse->stored != stored_size)
        return img_fail(err, EBADMSG,
                        "a sparse map of %" PRIu64 " bytes for %" PRIu64 " stored ones",
                        sparse->stored, stored_size);
    for (size_t i = 0; i < sparse->n; i++)
        sparse->extents[i].archive_offset += archive_offset;
    return 0;
}
