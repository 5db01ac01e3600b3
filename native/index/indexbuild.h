/* indexbuild.h: builds an img_index: arrays that grow, and a pool in which equal strings are
 * shared.
 *
 * An entry needs no allocation of its own, because the arrays double when they are full.  Directory
 * paths and the xattr records of a member are interned: the members of one directory, or those with
 * the same SELinux label, have one offset.  Errors: E2BIG at the limits of index.h, ENOMEM.
 */
#ifndef IMG_INDEXBUILD_H
#define IMG_INDEXBUILD_H

#include "base/bytes.h"
#include "base/error.h"
#include "index/index.h"

typedef struct img_interned {
    uint64_t hash;
    uint32_t at, len; /* offset and length in the pool; len 0: a free slot */
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
    uint64_t n_skipped; /* these three: as in img_index_header */
    uint32_t skipped_name, skipped_len;
    uint64_t seed;              /* secret, so that a hostile archive cannot choose collisions */
    uint32_t last_at, last_len; /* the string interned last: most members share their directory */
} img_builder;

void img_builder_init(img_builder *builder);
void img_builder_free(img_builder *builder);

/* Appends bytes to the pool. */
int img_builder_text(img_builder *builder, const char *text, size_t len, uint32_t *at,
                     img_error *err);
/* Appends bytes to the pool, or sets *at to their offset if they were interned before. */
int img_builder_intern(img_builder *builder, const char *text, size_t len, uint32_t *at,
                       img_error *err);

/* Appends a copy of entry. */
int img_builder_entry(img_builder *builder, const img_entry *entry, img_error *err);
/* Counts a member that gets no entry; keeps the first one's name, up to IMG_PATH_BYTES_MAX. */
int img_builder_skipped(img_builder *builder, const char *name, size_t len, img_error *err);
int img_builder_extents(img_builder *builder, const img_extent *extents, size_t n, uint32_t *first,
                        img_error *err);

/* Returns the index, which takes over the arrays; the builder is empty afterwards. */
img_index *img_builder_take(img_builder *builder, uint64_t archive_bytes, img_error *err);

#endif
