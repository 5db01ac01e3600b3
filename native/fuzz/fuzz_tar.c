/* fuzz_tar.c: scans one to three layers, writes and reads their indexes, merges them, and shows the
 * complete tree.
 *
 * Laws: a tar that is fed in pieces of any size gives the same index, or the same error; an index
 * that was written is the same after it is read; the tree keeps its invariants; all contents that
 * an index has can be read.
 */
#include "fuzz.h"

#include "tar/scanfd.h"
#include "tar/tarblock.h"
#include "tar/tarscan.h"
#include "tree/merge.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { LAYERS = 3, ODD = 333 /* not a divisor and not a multiple of a block */ };

static img_index *scan_in_pieces(const uint8_t *data, size_t size, img_error *err) {
    img_scanner *scanner = img_scanner_new();
    img_index *index = NULL;
    int result = 0;
    CHECK(scanner);
    for (size_t at = 0; at < size && result == 0; at += ODD)
        result = img_scanner_feed(scanner, data + at, size - at < ODD ? size - at : ODD, err);
    if (result == 0)
        index = img_scanner_finish(scanner, err);
    img_scanner_free(scanner);
    return index;
}

static void check_same(const img_index *a, const img_index *b) {
    const img_index_header *head = &a->head;
    CHECK(head->n_entries == b->head.n_entries && head->n_extents == b->head.n_extents);
    CHECK(head->pool_bytes == b->head.pool_bytes && head->archive_bytes == b->head.archive_bytes);
    CHECK(head->n_skipped == b->head.n_skipped && head->skipped_name == b->head.skipped_name &&
          head->skipped_len == b->head.skipped_len);
    CHECK(!head->n_entries ||
          memcmp(a->entries, b->entries, head->n_entries * sizeof *a->entries) == 0);
    CHECK(!head->n_extents ||
          memcmp(a->extents, b->extents, head->n_extents * sizeof *a->extents) == 0);
    CHECK(!head->pool_bytes || memcmp(a->pool, b->pool, head->pool_bytes) == 0);
}

static img_index *written_and_read(const img_index *index) {
    img_error err = {0};
    int fd = memory_file("", 0);
    CHECK(img_index_write(index, fd, 0, &err) == 0);
    img_index *again = img_index_read(fd, 0, &err);
    if (!again)
        (void)fprintf(stderr, "an index that was written is refused: %s\n", err.message);
    CHECK(again);
    check_same(index, again);
    (void)close(fd);
    return again;
}

/* The index of the tar at offset `at`; NULL if it is refused. */
static img_index *scan(int fd, const uint8_t *data, size_t size, size_t at) {
    img_error err = {0}, other = {0};
    img_index *index = img_scan_fd(fd, at, size - at, &err);
    img_index *pieces = scan_in_pieces(data + at, size - at, &other);
    CHECK(!index == !pieces);
    if (!index) {
        CHECK(err.code == EBADMSG || err.code == E2BIG);
        CHECK(err.code == other.code && err.offset == other.offset);
        CHECK(err.message[0] && strcmp(err.message, other.message) == 0);
        return NULL;
    }
    check_same(index, pieces);
    img_index_free(pieces);
    img_index *again = written_and_read(index);
    img_index_free(index);
    return again;
}

static void merge(img_index *const *indexes, const size_t *bases, size_t n, int fd, bool follow) {
    img_tree *tree = img_tree_new();
    img_bytes text = {0};
    img_error err = {0};
    int result = 0;
    CHECK(tree);
    for (size_t i = 0; i < n && result == 0; i++)
        result = img_tree_add_layer(tree, indexes[i], fd, bases[i], follow, &err);
    if (result == 0)
        tree_text(tree, true, &text);
    else
        CHECK((err.code == EBADMSG || err.code == E2BIG) && err.message[0]);
    img_bytes_free(&text);
    img_tree_free(tree);
}

static size_t skip_zeros(const uint8_t *data, size_t size, size_t at) {
    static const uint8_t zero[TAR_BLOCK];
    while (at < size && size - at >= TAR_BLOCK && memcmp(data + at, zero, TAR_BLOCK) == 0)
        at += TAR_BLOCK;
    return at < size ? at : size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    img_index *indexes[LAYERS] = {NULL};
    size_t bases[LAYERS] = {0}, n = 0;
    int fd = memory_file(data, size);
    for (size_t at = 0; n < LAYERS && at < size; n++) {
        bases[n] = at;
        indexes[n] = scan(fd, data, size, at);
        if (!indexes[n])
            break;
        at = skip_zeros(data, size, at + (size_t)indexes[n]->head.archive_bytes);
    }
    merge(indexes, bases, n, fd, false);
    merge(indexes, bases, n, fd, true);
    for (size_t i = 0; i < n; i++)
        img_index_free(indexes[i]);
    (void)close(fd);
    return 0;
}
