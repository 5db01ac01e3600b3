/* stress_packed.c: threads read one compressed layer at random and in order while its chunks are
 * punched away.  Every byte is compared with the tar. */
#include "packrig.h"

#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { TAR = 9 * 1000 * 1000, READERS = 4, READS = 150 };

static uint8_t *tar;
static img_packed *mounts[2];
static atomic_int over;

static void *read_at_random(void *arg) {
    uint64_t random = (uint64_t)(uintptr_t)arg + 1;
    char *out = malloc(200000);
    for (int i = 0; i < READS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint64_t at = (random >> 33) % (TAR - 200000);
        size_t size = (random >> 20) % 200000;
        img_packed *packed = mounts[i % 2];
        if (i % 3 == 0 && img_packed_read_now(packed, at, out, size) != (ssize_t)size)
            continue;
        if (i % 3)
            CHECK(img_packed_read(packed, at, out, size) == (ssize_t)size);
        CHECK(memcmp(out, tar + at, size) == 0);
    }
    free(out);
    return NULL;
}

static void *read_in_order(void *arg) {
    char *out = malloc(65536);
    for (int round = 0; round < 2; round++)
        for (uint64_t at = 0; at < TAR; at += 65536) {
            size_t size = TAR - at < 65536 ? (size_t)(TAR - at) : 65536;
            CHECK(img_packed_read(arg, at, out, size) == (ssize_t)size);
            CHECK(memcmp(out, tar + at, size) == 0);
        }
    free(out);
    return NULL;
}

static void *punch(void *arg) {
    const int *fd = arg;
    for (uint64_t i = 0; !atomic_load(&over); i++) {
        CHECK(img_chunk_punch(*fd, img_chunks_of(TAR), i * 7 % img_chunks_of(TAR)) >= 0);
        img_chunkfile_note_used(img_packed_chunks(mounts[i % 2]), (uint32_t)i + 1);
        (void)usleep(200);
    }
    return NULL;
}

int main(void) {
    pthread_t readers[READERS + 2], puncher;
    tar = pack_tar(TAR);
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    int directory = pack_directory(), fd = pack_reopen(directory, "chunks");
    for (int i = 0; i < 2; i++)
        mounts[i] = pack_open(&blob, IMG_GZIP, tar, TAR, directory);
    CHECK(pthread_create(&puncher, NULL, punch, &fd) == 0);
    for (int i = 0; i < READERS + 2; i++)
        CHECK(pthread_create(&readers[i], NULL, i < READERS ? read_at_random : read_in_order,
                             i < READERS ? (void *)(uintptr_t)i : mounts[i % 2]) == 0);
    for (int i = 0; i < READERS + 2; i++)
        CHECK(pthread_join(readers[i], NULL) == 0);
    atomic_store(&over, 1);
    CHECK(pthread_join(puncher, NULL) == 0);
    img_packed_stop_threads();
    for (int i = 0; i < 2; i++)
        img_packed_free(mounts[i]);
    (void)close(fd);
    pack_remove(directory, "chunks");
    free(blob.data);
    free(tar);
    return 0;
}
