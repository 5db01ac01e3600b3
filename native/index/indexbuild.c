#include "index/indexbuild.h"

#include "base/hash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { TABLE_FIRST = 1024, ENTRIES_FIRST = 256 };

void img_builder_init(img_builder *builder) {
    *builder = (img_builder){0};
    if (getrandom(&builder->seed, sizeof builder->seed, GRND_NONBLOCK) < 0)
        builder->seed = 0x9e3779b97f4a7c15u; /* early in a boot there is no randomness */
}

void img_builder_free(img_builder *builder) {
    free(builder->entries);
    free(builder->extents);
    free(builder->table);
    img_bytes_free(&builder->pool);
    *builder = (img_builder){0};
}

static int no_memory(img_error *err) {
    return img_fail(err, ENOMEM, "out of memory");
}

/* E2BIG if the arrays would exceed their limit with n more items. */
static int has_room(const img_builder *builder, size_t n, size_t item, img_error *err) {
    size_t used = builder->n_entries * sizeof(img_entry) + builder->n_extents * sizeof(img_extent) +
                  builder->pool.len;
    if (n <= (IMG_INDEX_BYTES_MAX - used) / item)
        return 0;
    return img_fail(err, E2BIG,
                    "names, xattrs and members take more than %u bytes of memory, the limit",
                    IMG_INDEX_BYTES_MAX);
}

int img_builder_text(img_builder *builder, const char *text, size_t len, uint32_t *at,
                     img_error *err) {
    if (has_room(builder, len, 1, err) < 0)
        return -1;
    *at = len ? (uint32_t)builder->pool.len : 0;
    if (img_bytes_add(&builder->pool, text, len) < 0)
        return no_memory(err);
    return 0;
}

static int grow_table(img_builder *builder, img_error *err) {
    size_t size = builder->table_size ? 2 * builder->table_size : TABLE_FIRST;
    img_interned *table = calloc(size, sizeof *table);
    if (!table)
        return no_memory(err);
    for (size_t i = 0; i < builder->table_size; i++) {
        if (!builder->table[i].len)
            continue;
        size_t slot = builder->table[i].hash & (size - 1);
        while (table[slot].len)
            slot = (slot + 1) & (size - 1);
        table[slot] = builder->table[i];
    }
    free(builder->table);
    builder->table = table;
    builder->table_size = size;
    return 0;
}

static bool same(const img_builder *builder, uint32_t at, uint32_t have, const char *text,
                 size_t len) {
    return have == len && memcmp(builder->pool.data + at, text, len) == 0;
}

int img_builder_intern(img_builder *builder, const char *text, size_t len, uint32_t *at,
                       img_error *err) {
    *at = 0;
    if (len == 0)
        return 0;
    if (same(builder, builder->last_at, builder->last_len, text, len)) {
        *at = builder->last_at;
        return 0;
    }
    if (2 * (builder->table_used + 1) > builder->table_size && grow_table(builder, err) < 0)
        return -1;
    uint64_t hash = img_hash(builder->seed, text, len);
    size_t mask = builder->table_size - 1, i = hash & mask;
    for (; builder->table[i].len; i = (i + 1) & mask) {
        img_interned *slot = &builder->table[i];
        if (slot->hash == hash && same(builder, slot->at, slot->len, text, len))
            break;
    }
    img_interned *slot = &builder->table[i];
    if (!slot->len) {
        if (img_builder_text(builder, text, len, &slot->at, err) < 0)
            return -1;
        slot->hash = hash;
        slot->len = (uint32_t)len;
        builder->table_used++;
    }
    *at = builder->last_at = slot->at;
    builder->last_len = slot->len;
    return 0;
}

/* Makes room for `extra` more items behind n. */
static int grow(void **array, size_t n, size_t *cap, size_t item, size_t extra, img_error *err) {
    if (*cap - n >= extra)
        return 0;
    size_t want = *cap ? *cap : ENTRIES_FIRST;
    while (want - n < extra)
        want *= 2;
    void *grown = reallocarray(*array, want, item);
    if (!grown)
        return no_memory(err);
    *array = grown;
    *cap = want;
    return 0;
}

int img_builder_entry(img_builder *builder, const img_entry *entry, img_error *err) {
    if (builder->n_entries == IMG_ENTRIES_MAX)
        return img_fail(err, E2BIG, "more than %u members, the limit", IMG_ENTRIES_MAX);
    if (has_room(builder, 1, sizeof *entry, err) < 0)
        return -1;
    void *entries = builder->entries;
    int result = grow(&entries, builder->n_entries, &builder->entries_cap, sizeof *entry, 1, err);
    builder->entries = entries;
    if (result == 0)
        builder->entries[builder->n_entries++] = *entry;
    if (result == 0)
        img_oddities_count(&builder->oddities, entry, builder->n_entries - 1);
    return result;
}

int img_builder_skipped(img_builder *builder, const char *name, size_t len, img_error *err) {
    if (builder->n_skipped++)
        return 0;
    builder->skipped_len = len < IMG_PATH_BYTES_MAX ? (uint32_t)len : IMG_PATH_BYTES_MAX;
    return img_builder_text(builder, name, builder->skipped_len, &builder->skipped_name, err);
}

int img_builder_extents(img_builder *builder, const img_extent *extents, size_t n, uint32_t *first,
                        img_error *err) {
    *first = (uint32_t)builder->n_extents;
    if (has_room(builder, n, sizeof *extents, err) < 0)
        return -1;
    void *grown = builder->extents;
    int result = grow(&grown, builder->n_extents, &builder->extents_cap, sizeof *extents, n, err);
    builder->extents = grown;
    if (result == 0 && n) {
        memcpy(builder->extents + builder->n_extents, extents, n * sizeof *extents);
        builder->n_extents += n;
    }
    return result;
}

/* Frees the unused end of an array; if that fails, the larger block is used. */
static void *trim(void *array, size_t bytes) {
    void *less = realloc(array, bytes ? bytes : 1);
    return less ? less : array;
}

img_index *img_builder_take(img_builder *builder, uint64_t archive_bytes, img_error *err) {
    img_index *index = calloc(1, sizeof *index);
    if (!index) {
        no_memory(err);
        return NULL;
    }
    index->head = (img_index_header){
        .magic = IMG_INDEX_MAGIC,
        .version = IMG_INDEX_VERSION,
        .entry_size = sizeof(img_entry),
        .n_entries = builder->n_entries,
        .n_extents = builder->n_extents,
        .pool_bytes = builder->pool.len,
        .archive_bytes = archive_bytes,
        .n_skipped = builder->n_skipped,
        .skipped_name = builder->skipped_name,
        .skipped_len = builder->skipped_len,
    };
    index->oddities = builder->oddities;
    index->entries = trim(builder->entries, builder->n_entries * sizeof(img_entry));
    index->extents = trim(builder->extents, builder->n_extents * sizeof(img_extent));
    index->pool = trim(builder->pool.data, builder->pool.len);
    builder->entries = NULL;
    builder->extents = NULL;
    builder->pool = (img_bytes){0};
    img_builder_free(builder);
    return index;
}
