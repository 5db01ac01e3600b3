/* indexbuild.h: the growing arrays of an img_index, and the sharing of equal strings in its pool.
 *
 * No allocation an entry: arrays double.  Directory paths and xattr runs are interned, so that the
 * members of one directory, or of one SELinux label, share an offset.  Errors: E2BIG at the limits
 * of index.h, ENOMEM.
 */
#ifndef IMG_INDEXBUILD_H
#define IMG_INDEXBUILD_H

#include "base/bytes.h"
#include "base/error.h"
#include "index/index.h"

typedef struct img_interned {
    uint64_t hash;
    uint32_t at, len; /* in the pool; len 0: a free slot */
} img_interned;

typedef struct img_builder {
    img_entry *entries;
    size_t n_entries, entries_cap;
    img_extent *extents;
    size_t n_extents, extents_cap;
    img_bytes pool;
    img_interned *table; /* open addressing, a power of two, at most half full */
    size_t table_size, table_used;
    img_oddities oddities;
    uint64_t seed;              /* keeps a hostile archive from choosing what collides */
    uint32_t last_at, last_len; /* what was interned last: runs of one directory are the rule */
} img_builder;

void img_builder_init(img_builder *builder);
void img_builder_free(img_builder *builder);

/* Appends bytes to the pool. */
int img_builder_text(img_builder *builder, const char *text, size_t len, uint32_t *at,
                     img_error *err);
/* The same, but equal bytes get an equal offset. */
int img_builder_intern(img_builder *builder, const char *text, size_t len, uint32_t *at,
                       img_error *err);

/* A copy of entry becomes the next one. */
int img_builder_entry(img_builder *builder, const img_entry *entry, img_error *err);
int img_builder_extents(img_builder *builder, const img_extent *extents, size_t n, uint32_t *first,
                        img_error *err);

/* The index, which takes the arrays; the builder is empty afterwards. */
img_index *img_builder_take(img_builder *builder, uint64_t archive_bytes, img_error *err);

#endif
