#define _GNU_SOURCE /* mkostemp */
#include "packrig.h"

#include "check.h"
#include "packed/unpack.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

uint8_t *pack_tar(size_t size) {
    static const char *words[] = {"layer ", "chunk ", "point ", "the ",        "window ",  "of ",
                                  "a ",     "blob\n", "index ", "0123456789 ", "decoder ", "tar\n"};
    uint8_t *tar = malloc(size + 1);
    uint64_t random = 7;
    CHECK(tar);
    for (size_t at = 0; at < size;) {
        size_t stretch = 1000 + (size_t)next_random(&random) % 60000;
        size_t end = at + stretch < size ? at + stretch : size;
        unsigned kind = (unsigned)next_random(&random) % 5;
        while (at < end && kind < 3) {
            const char *word = words[next_random(&random) % 12];
            size_t n = strlen(word) < end - at ? strlen(word) : end - at;
            memcpy(tar + at, word, n);
            at += n;
        }
        for (; at < end; at++)
            tar[at] = kind == 3 ? (uint8_t)next_random(&random) : 0;
    }
    return tar;
}

/* Room for parts of `part` bytes each, none of which grows by more than a tenth and 128 bytes. */
static uint8_t *room(size_t size, size_t part) {
    uint8_t *data = malloc(size + size / 10 + (size / part + 1) * 128);
    CHECK(data);
    return data;
}

static void add_member(pack_blob *blob, z_stream *z, const uint8_t *data, size_t size) {
    CHECK(deflateReset(z) == Z_OK);
    z->next_in = (Bytef *)(uintptr_t)data;
    z->avail_in = (uInt)size;
    z->next_out = blob->data + blob->size;
    z->avail_out = UINT32_MAX;
    CHECK(deflate(z, Z_FINISH) == Z_STREAM_END);
    blob->size += z->total_out;
}

pack_blob pack_gzip(const uint8_t *tar, size_t size, int level, int strategy, size_t member) {
    z_stream z = {0};
    member = member ? member : size;
    pack_blob blob = {room(size, member), 0};
    CHECK(deflateInit2(&z, level, Z_DEFLATED, 31, 9, strategy) == Z_OK);
    for (size_t at = 0; at < size; at += member)
        add_member(&blob, &z, tar + at, size - at < member ? size - at : member);
    (void)deflateEnd(&z);
    return blob;
}

pack_blob pack_zstd(const uint8_t *tar, size_t size, int level, size_t frame) {
    ZSTD_CCtx *context = ZSTD_createCCtx();
    frame = frame ? frame : size;
    pack_blob blob = {room(size, frame), 0};
    CHECK(context);
    for (size_t at = 0; at < size; at += frame) {
        size_t n = size - at < frame ? size - at : frame;
        size_t packed = ZSTD_compressCCtx(context, blob.data + blob.size, ZSTD_compressBound(n),
                                          tar + at, n, level);
        CHECK(!ZSTD_isError(packed));
        blob.size += packed;
    }
    (void)ZSTD_freeCCtx(context);
    return blob;
}

static void finish_points(img_unpacker *unpacker, img_points *points) {
    img_error err;
    for (img_begun *begun; (begun = img_unpacker_take(unpacker));) {
        CHECK(img_begun_finish(begun, points, &err) == 0);
        img_begun_free(begun);
    }
}

void pack_points(const pack_blob *blob, img_codec codec, const uint8_t *tar, size_t size,
                 size_t piece, img_points *points) {
    img_error err = {0};
    img_unpacker *unpacker = img_unpacker_new(codec, &err);
    uint8_t *out = malloc(IMG_CHUNK_BYTES);
    size_t fed = 0, made = 0, n;
    CHECK(unpacker && out);
    img_points_begin(points, codec);
    for (;;) {
        int result = img_unpacker_next(unpacker, out, IMG_CHUNK_BYTES, &n, &err);
        CHECK(result > 0 && made + n <= size && memcmp(out, tar + made, n) == 0);
        made += n;
        finish_points(unpacker, points);
        if (result == IMG_DECODED_END || (result == IMG_DECODED_HUNGRY && fed == blob->size))
            break;
        if (result != IMG_DECODED_HUNGRY)
            continue;
        size_t more = blob->size - fed < piece ? blob->size - fed : piece;
        img_unpacker_feed(unpacker, blob->data + fed, more);
        fed += more;
    }
    CHECK(img_unpacker_finish(unpacker, &err) == 0 && made == size);
    finish_points(unpacker, points);
    img_points_end(points, blob->size, made, 0);
    img_unpacker_free(unpacker);
    free(out);
}

int pack_file(const void *data, size_t size) {
    char path[] = "/var/tmp/packrig-XXXXXX"; /* tmpfs has no RWF_NOWAIT */
    int fd = mkostemp(path, O_CLOEXEC);
    CHECK(fd >= 0 && unlink(path) == 0);
    for (size_t at = 0; at < size;) {
        ssize_t n = write(fd, (const char *)data + at, size - at);
        CHECK(n > 0);
        at += (size_t)n;
    }
    return fd;
}

int pack_directory(void) {
    char path[] = "/var/tmp/packrig-XXXXXX";
    CHECK(mkdtemp(path));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

int pack_reopen(int directory, const char *name) {
    int fd = openat(directory, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    return fd;
}

void pack_remove(int directory, const char *name) {
    char path[64], real[256];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", directory);
    ssize_t n = readlink(path, real, sizeof real - 1);
    CHECK(n > 0 && unlinkat(directory, name, 0) == 0);
    real[n] = 0;
    CHECK(rmdir(real) == 0 && close(directory) == 0);
}

uint8_t *pack_digests(const uint8_t *tar, size_t size) {
    uint64_t n = img_chunks_of(size);
    uint8_t *digests = malloc(n * IMG_DIGEST + 1), whole[EVP_MAX_MD_SIZE];
    CHECK(digests);
    for (uint64_t i = 0; i < n; i++) {
        size_t left = size - i * IMG_CHUNK_BYTES;
        CHECK(EVP_Digest(tar + i * IMG_CHUNK_BYTES, left < IMG_CHUNK_BYTES ? left : IMG_CHUNK_BYTES,
                         whole, NULL, EVP_sha256(), NULL) == 1);
        memcpy(digests + i * IMG_DIGEST, whole, IMG_DIGEST);
    }
    return digests;
}

img_packed *pack_open(const pack_blob *blob, img_codec codec, const uint8_t *tar, size_t size,
                      int directory) {
    img_points points;
    img_error err;
    uint8_t *digests = pack_digests(tar, size);
    pack_points(blob, codec, tar, size, 1 << 18, &points);
    img_packed_files files = {.blob_fd = pack_file(blob->data, blob->size),
                              .sidecar_fd = -1,
                              .chunks_dir = directory,
                              .chunks_path = "/the/cache/chunks",
                              .log_fd = -1};
    img_packed *packed =
        img_packed_new(&files, &points, digests, img_chunks_of(size), "a test", &err);
    CHECK(packed);
    free(digests);
    return packed;
}
