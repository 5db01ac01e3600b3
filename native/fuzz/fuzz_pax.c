/* fuzz_pax.c: records of PAX headers, the maps of sparse files, and the codings of values.
 *
 * Kinds of pieces: 0 a local extended header, 1 a global one, 2 a sparse map as text (PAX 0.1),
 * 3 as lines (PAX 1.0), 4 as GNU's pairs, 5 a time, 6 %-coding, 7 base64, 8 an ACL as text.
 */
#include "fuzz.h"

#include "tar/acl.h"
#include "tar/pax.h"
#include "tar/paxcode.h"
#include "tar/tarblock.h"

#include <errno.h>
#include <string.h>

enum { PAIR = 24, FAR = 1 << 20 };

static void check_error(const img_error *err) {
    CHECK((err->code == EBADMSG || err->code == E2BIG) && err->message[0]);
}

/* A map that was accepted ascends, does not overlap, and is inside its file. */
static void check_map(img_sparse *map) {
    img_error err = {0};
    uint64_t end = 0, stored = 0;
    CHECK(map->n <= IMG_SPARSE_MAX && map->end <= INT64_MAX);
    for (size_t i = 0; i < map->n; i++) {
        const img_extent *e = &map->extents[i];
        CHECK(e->length && e->file_offset >= end && e->archive_offset == stored);
        CHECK(e->length <= (uint64_t)INT64_MAX - e->file_offset);
        end = e->file_offset + e->length;
        stored += e->length;
    }
    CHECK(stored == map->stored && end <= map->end);
    CHECK(img_sparse_finish(map, map->end, map->stored, FAR, &err) == 0);
    if (map->end)
        CHECK(img_sparse_finish(map, map->end - 1, map->stored, 0, &err) < 0);
    CHECK(img_sparse_finish(map, map->end, map->stored + 1, 0, &err) < 0);
}

static void header(img_pax *pax, const piece *p) {
    img_error err = {0};
    img_bytes records = {0};
    if (img_pax_parse(pax, (const char *)p->data, p->len, p->kind == 1, &err) < 0) {
        check_error(&err);
        img_pax_reset(pax);
        return;
    }
    CHECK(!(pax->have & pax->dropped));
    if (pax->have & PAX_MTIME)
        CHECK(pax->mtime.ns < 1000000000);
    CHECK(!(pax->have & PAX_SIZE) || pax->size <= INT64_MAX);
    CHECK(img_xattr_set_write(&pax->xattrs, &records, &err) == 0);
    img_bytes_free(&records);
    check_map(&pax->sparse);
    img_sparse_reset(&pax->sparse);
}

static void map(const piece *p) {
    img_sparse sparse = {0};
    img_error err = {0};
    uint8_t block[TAR_BLOCK];
    int result = 0;
    if (p->kind == 2)
        result = img_sparse_add_text(&sparse, (const char *)p->data, p->len, &err);
    else if (p->kind == 4)
        result = img_sparse_add_block(&sparse, p->data, (unsigned)(p->len / PAIR), &err);
    for (size_t at = 0; p->kind == 3 && at < p->len && result == 0; at += TAR_BLOCK) {
        size_t n = p->len - at < TAR_BLOCK ? p->len - at : TAR_BLOCK;
        memset(block, 0, sizeof block);
        memcpy(block, p->data + at, n);
        result = img_sparse_add_lines(&sparse, block, &err);
    }
    if (result < 0)
        check_error(&err);
    else
        check_map(&sparse);
    img_sparse_free(&sparse);
}

static void value(const piece *p) {
    const char *text = (const char *)p->data;
    char *out = malloc(p->len ? p->len : 1);
    int64_t s;
    uint32_t ns;
    CHECK(out);
    if (p->kind == 5 && img_pax_time(text, p->len, &s, &ns) == 0)
        CHECK(ns < 1000000000);
    if (p->kind == 6)
        CHECK(img_pax_percent(text, p->len, out) <= (long)p->len);
    if (p->kind == 7)
        CHECK(img_pax_base64(text, p->len, out) <= (long)p->len);
    free(out);
    if (p->kind != 8)
        return;
    img_bytes acl = {0};
    img_error err = {0};
    bool minimal;
    if (img_acl_from_text(text, p->len, &acl, &minimal, &err) < 0)
        check_error(&err);
    img_bytes_free(&acl);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    img_pax local = {0}, global = {0};
    piece p;
    for (size_t at = 0; next_piece(data, size, &at, &p);) {
        if (p.kind < 2)
            header(p.kind ? &global : &local, &p);
        else if (p.kind < 5)
            map(&p);
        else
            value(&p);
        free(p.data);
    }
    img_pax_free(&local);
    img_pax_free(&global);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return mutate_pieces(data, size, max_size, seed);
}
