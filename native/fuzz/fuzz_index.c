/* fuzz_index.c: the loader of an index, and the merge of an index that it accepted.
 *
 * The checksum is made right before the load, so that the checks behind it are reached.
 * Laws: an index that is read can be merged, alone and upon itself, or is refused with a reason; if
 * it is written again, the bytes are the same.
 */
#include "fuzz.h"

#include "../tests/seal.h"
#include "tree/merge.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void write_again(const img_index *index, int from, size_t size) {
    img_error err = {0};
    int fd = memory_file("", 0);
    uint8_t *again = malloc(size), *data = malloc(size);
    struct stat st;
    CHECK(again && data && img_index_write(index, fd, 0, &err) == 0);
    CHECK(fstat(fd, &st) == 0 && (size_t)st.st_size == size);
    CHECK(pread(fd, again, size, 0) == (ssize_t)size &&
          pread(from, data, size, 0) == (ssize_t)size);
    CHECK(memcmp(again, data, size) == 0);
    free(again);
    free(data);
    (void)close(fd);
}

static void merge(const img_index *index, unsigned times, bool follow) {
    img_tree *tree = img_tree_new();
    img_bytes text = {0};
    img_error err = {0};
    int result = 0;
    CHECK(tree);
    for (unsigned i = 0; i < times && result == 0; i++)
        result = img_tree_add_layer(tree, index, -1, 0, NULL, follow, &err);
    if (result == 0)
        tree_text(tree, false, &text);
    else
        CHECK((err.code == EBADMSG || err.code == E2BIG) && err.message[0]);
    img_bytes_free(&text);
    img_tree_free(tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    img_error err = {0};
    int fd = memory_file(data, size);
    seal(fd);
    img_index *index = img_index_read(fd, 0, &err);
    if (!index) {
        (void)close(fd);
        CHECK(err.code == EBADMSG && err.message[0]);
        return 0;
    }
    write_again(index, fd, size);
    (void)close(fd);
    merge(index, 1, false);
    merge(index, 2, true);
    img_index_drop_entries(index);
    img_index_free(index);
    return 0;
}

/* Changes any bytes, a field of one entry, or the pool, whose size in the header follows. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    img_index_header head;
    if (size < sizeof head)
        return LLVMFuzzerMutate(data, size, max_size);
    memcpy(&head, data, sizeof head);
    uint64_t n = head.n_entries < 4096 ? head.n_entries : 0;
    size_t entries = sizeof head + (size_t)n * sizeof(img_entry);
    size_t pool =
        entries + (size_t)(head.n_extents < 4096 ? head.n_extents : 0) * sizeof(img_extent);
    uint32_t way = pick(&seed, 16);
    if (n && way < 8 && entries <= size) { /* four bytes of an entry: one field, or part of it */
        size_t at = sizeof head + pick(&seed, (uint32_t)n) * sizeof(img_entry);
        at += pick(&seed, sizeof(img_entry) / 4) * 4;
        (void)LLVMFuzzerMutate(data + at, 4, 4);
    } else if (way < 14 && pool <= size) {
        size = pool + LLVMFuzzerMutate(data + pool, size - pool, max_size - pool);
        head.pool_bytes = size - pool;
        memcpy(data, &head, sizeof head);
    } else {
        size = LLVMFuzzerMutate(data, size, max_size);
    }
    return size;
}
