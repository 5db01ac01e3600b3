/* test_packed.c: compressed layers read at any place give the bytes of their tars.  zlib and
 * libzstd make the blobs; the tar itself is the oracle. */
#define _GNU_SOURCE /* sync_file_range */
#include "packrig.h"

#include "check.h"
#include "packed/gunzip.h"
#include "packed/unpack.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { TAR = 4500 * 1000 + 77 };

static uint8_t *tar;
static int lose_writes; /* errno of the next sync_file_range(2); 0: none */

/* In place of libc's: as a kernel does once that could not write a page to the disk. */
int sync_file_range(int fd, off_t offset, off_t size, unsigned flags) {
    (void)fd, (void)offset, (void)size, (void)flags;
    errno = lose_writes;
    lose_writes = 0;
    return errno ? -1 : 0;
}

/* Decodes 64 KiB from each of many places, from the point before it. */
static void read_from_points(const pack_blob *blob, const img_points *points) {
    img_decoder decoder;
    img_error err = {0};
    img_bytes state = {0};
    uint8_t *out = malloc(TAR);
    CHECK(out && img_decoder_init(&decoder, (img_codec)points->head.codec, &err) == 0);
    for (size_t i = 0; i < 40 + points->head.n_points; i++) {
        uint64_t to = i < 40 ? i * (TAR / 40) : points->points[i - 40].out;
        size_t want = TAR - to < 65536 ? TAR - to : 65536;
        const img_point *point = img_points_find(points, to);
        img_decoder_begin(&decoder, point->in);
        if (point->n_state) {
            CHECK(img_points_state(points, point, &state, &err) == 0);
            CHECK(img_gunzip_restore(decoder.gunzip, state.data, state.len, &err) == 0);
        }
        size_t size = (size_t)(to - point->out) + want;
        img_flow flow = {blob->data + point->in, blob->size - point->in, out, size};
        while (flow.n_out)
            CHECK(img_decode(&decoder, &flow, &err) > 0);
        CHECK(memcmp(out, tar + point->out, size) == 0);
    }
    img_bytes_free(&state);
    img_decoder_free(&decoder);
    free(out);
}

static void check_blob(pack_blob blob, img_codec codec, uint64_t points_least) {
    static const size_t pieces[] = {1 << 18, 7001, 331};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        img_points points;
        pack_points(&blob, codec, tar, TAR, pieces[i], &points);
        CHECK(points.head.n_points >= points_least);
        read_from_points(&blob, &points);
        img_points_free(&points);
    }
    free(blob.data);
}

static void test_gzip_in_all_forms(void) {
    check_blob(pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0), IMG_GZIP, 4);
    check_blob(pack_gzip(tar, TAR, 1, Z_DEFAULT_STRATEGY, 0), IMG_GZIP, 4);
    check_blob(pack_gzip(tar, TAR, 9, Z_FIXED, 0), IMG_GZIP, 4);
    check_blob(pack_gzip(tar, TAR, 6, Z_HUFFMAN_ONLY, 0), IMG_GZIP, 4);
    check_blob(pack_gzip(tar, TAR, 0, Z_DEFAULT_STRATEGY, 0), IMG_GZIP, 4); /* stored blocks */
    check_blob(pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 1234), IMG_GZIP, 15);
    check_blob(pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 3000000), IMG_GZIP, 4);
}

static void test_zstd(void) {
    check_blob(pack_zstd(tar, TAR, 3, 0), IMG_ZSTD, 1);
    check_blob(pack_zstd(tar, TAR, 3, 1 << 20), IMG_ZSTD, 5);
    check_blob(pack_zstd(tar, TAR, 1, 1000), IMG_ZSTD, 15);
}

static void test_windows_are_small(void) {
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    img_points points;
    pack_points(&blob, IMG_GZIP, tar, TAR, 1 << 18, &points);
    CHECK(points.head.pool_bytes / points.head.n_points < 8000);
    img_points_free(&points);
    free(blob.data);
}

static void decode_all(const pack_blob *blob, img_codec codec, const char *message) {
    img_error err = {0};
    img_unpacker *unpacker = img_unpacker_new(codec, &err);
    uint8_t *out = malloc(IMG_CHUNK_BYTES);
    size_t n;
    int result;
    img_unpacker_feed(unpacker, blob->data, blob->size);
    do
        result = img_unpacker_next(unpacker, out, IMG_CHUNK_BYTES, &n, &err);
    while (result == IMG_DECODED_FULL);
    if (result >= 0)
        result = img_unpacker_finish(unpacker, &err);
    CHECK((result < 0) == (message != NULL));
    if (message && (err.code != EBADMSG || !strstr(err.message, message))) {
        fprintf(stderr, "%s\n", err.message);
        CHECK(!"the message");
    }
    img_unpacker_free(unpacker);
    free(out);
}

static void test_damage_is_told(void) {
    pack_blob blob = pack_gzip(tar, 700000, 6, Z_DEFAULT_STRATEGY, 0);
    pack_blob cut = {blob.data, blob.size - 1}, empty = {blob.data, 0};
    decode_all(&blob, IMG_GZIP, NULL);
    decode_all(&cut, IMG_GZIP, "cut off");
    decode_all(&empty, IMG_GZIP, "cut off");
    blob.data[blob.size - 6] ^= 1; /* of the CRC */
    decode_all(&blob, IMG_GZIP, "CRC");
    blob.data[1] ^= 1;
    decode_all(&blob, IMG_GZIP, "header");
    free(blob.data);
    blob = pack_zstd(tar, 700000, 3, 100000);
    cut = (pack_blob){blob.data, blob.size - 1};
    decode_all(&blob, IMG_ZSTD, NULL);
    decode_all(&cut, IMG_ZSTD, "cut off");
    blob.data[0] ^= 1;
    decode_all(&blob, IMG_ZSTD, "damaged");
    free(blob.data);
}

static void test_what_follows_a_gzip_stream_is_ignored(void) {
    pack_blob blob = pack_gzip(tar, 700000, 6, Z_DEFAULT_STRATEGY, 0);
    blob.data = realloc(blob.data, blob.size + 8);
    memcpy(blob.data + blob.size, "\0\0\0\0\x1f\x8b\x08\0", 8);
    blob.size += 8;
    decode_all(&blob, IMG_GZIP, NULL);
    free(blob.data);
}

/* Puts a header with these flags (RFC 1952, 2.3.1) in the place of the first ten bytes. */
static pack_blob with_header(const pack_blob *blob, unsigned flags) {
    static const uint8_t extra[] = "\x04\0abcd", name[] = "a name", comment[] = "";
    pack_blob made = {malloc(blob->size + 100), 10};
    CHECK(made.data);
    memcpy(made.data, blob->data, 10);
    made.data[3] = (uint8_t)flags;
    struct {
        unsigned flag;
        const uint8_t *data;
        size_t size;
    } fields[] = {{4, extra, 6}, {8, name, sizeof name}, {16, comment, sizeof comment}};
    for (size_t i = 0; i < 3; i++)
        if (flags & fields[i].flag) {
            memcpy(made.data + made.size, fields[i].data, fields[i].size);
            made.size += fields[i].size;
        }
    if (flags & 2) {
        uLong sum = crc32(0, made.data, (uInt)made.size);
        made.data[made.size++] = (uint8_t)(sum & 255);
        made.data[made.size++] = (uint8_t)(sum >> 8 & 255);
    }
    memcpy(made.data + made.size, blob->data + 10, blob->size - 10);
    made.size += blob->size - 10;
    return made;
}

static void test_headers_come_in_any_pieces(void) {
    pack_blob blob = pack_gzip(tar, 3000, 6, Z_DEFAULT_STRATEGY, 0);
    for (unsigned flags = 0; flags < 32; flags++)
        for (size_t piece = 1; piece < 100; piece += 7) {
            pack_blob made = with_header(&blob, flags);
            img_points points;
            pack_points(&made, IMG_GZIP, tar, 3000, piece, &points);
            img_points_free(&points);
            free(made.data);
        }
    free(blob.data);
}

/* gzip(1): "has flags 0x.. -- not supported", also of a later member. */
static void test_reserved_flags_are_refused(void) {
    pack_blob blob = pack_gzip(tar, 3000, 6, Z_DEFAULT_STRATEGY, 1500);
    size_t second = blob.size - 1;
    while (memcmp(blob.data + second, "\x1f\x8b\x08", 3) != 0)
        second--;
    for (unsigned flag = 32; flag < 256; flag *= 2)
        for (size_t at = 0; at <= second; at += second) {
            blob.data[at + 3] = (uint8_t)flag;
            decode_all(&blob, IMG_GZIP, "reserved flags");
            blob.data[at + 3] = 0;
        }
    decode_all(&blob, IMG_GZIP, NULL);
    free(blob.data);
}

static void test_points_are_kept_in_a_file(void) {
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    img_points points, again;
    img_error err;
    struct stat st;
    int fd = pack_file("", 0);
    pack_points(&blob, IMG_GZIP, tar, TAR, 1 << 18, &points);
    CHECK(img_points_write(&points, fd, 5, &err) == 0);
    CHECK(img_points_read(&again, fd, 5, &err) == 0);
    read_from_points(&blob, &again);
    img_points_free(&again);
    CHECK(img_points_read(&again, fd, 6, &err) < 0 && err.code == EBADMSG);
    CHECK(fstat(fd, &st) == 0);
    for (off_t at = 0; at < st.st_size; at += 997) {
        char byte;
        CHECK(pread(fd, &byte, 1, at) == 1);
        byte ^= 4;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
        CHECK(img_points_read(&again, fd, 5, &err) < 0 && err.code == EBADMSG);
        byte ^= 4;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
    }
    CHECK(ftruncate(fd, st.st_size - 1) == 0);
    CHECK(img_points_read(&again, fd, 5, &err) < 0 && err.code == EBADMSG);
    (void)close(fd);
    img_points_free(&points);
    free(blob.data);
}

/* The states stay in the file: one that is damaged since is left out, and costs time only. */
static void test_states_are_read_when_they_are_needed(void) {
    enum { BIG = 12 << 20 }; /* few states would be in memory */
    uint8_t *big = pack_tar(BIG);
    pack_blob blob = pack_gzip(big, BIG, 6, Z_DEFAULT_STRATEGY, 0);
    uint8_t *digests = pack_digests(big, BIG);
    char *out = malloc(BIG);
    img_points points, again;
    img_error err;
    int fd = pack_file("", 0);
    pack_points(&blob, IMG_GZIP, big, BIG, 1 << 18, &points);
    CHECK(img_points_write(&points, fd, 5, &err) == 0);
    CHECK(img_points_read(&again, fd, 5, &err) == 0 && !again.pool);
    img_packed_files files = {.blob_fd = pack_file(blob.data, blob.size),
                              .sidecar_fd = -1,
                              .chunks_dir = -1,
                              .chunks_path = "",
                              .log_fd = -1};
    uint64_t at = sizeof again.head + again.head.n_points * sizeof(img_point) +
                  again.points[again.head.n_points - 1].state;
    CHECK(again.points[again.head.n_points - 1].n_state > 100);
    img_packed *packed =
        img_packed_new(&files, &again, digests, img_chunks_of(BIG), "a test", &err);
    CHECK(img_packed_read(packed, BIG - 10, out, 10) == 10);
    CHECK(memcmp(out, big + BIG - 10, 10) == 0);
    CHECK(img_packed_read(packed, 0, out, 10) == 10);
    uint64_t before = img_packed_count(packed).begun;
    CHECK(pwrite(fd, "damaged", 7, (off_t)at + 50) == 7);
    for (uint64_t i = img_chunks_of(BIG); i-- > 0;) {
        uint64_t size = BIG - i * IMG_CHUNK_BYTES;
        size = size < IMG_CHUNK_BYTES ? size : IMG_CHUNK_BYTES;
        CHECK(img_packed_read(packed, i * IMG_CHUNK_BYTES, out, size) == (ssize_t)size);
        CHECK(memcmp(out, big + i * IMG_CHUNK_BYTES, size) == 0);
    }
    CHECK(img_packed_count(packed).begun > before && img_packed_count(packed).wrong == 0);
    img_packed_free(packed);
    img_points_free(&points);
    (void)close(fd);
    free(out);
    free(big);
    free(digests);
    free(blob.data);
}

/* Points that are further apart lead to the same bytes. */
static void test_states_are_left_out(void) {
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    img_points points;
    pack_points(&blob, IMG_GZIP, tar, TAR, 1 << 18, &points);
    uint64_t all = points.head.pool_bytes, n = points.head.n_points;
    CHECK(img_points_thin(&points, all) == all && points.head.n_points == n);
    uint64_t some = img_points_thin(&points, all * 2 / 3);
    CHECK(some > 0 && some <= all * 2 / 3 && points.head.pool_bytes == some);
    CHECK(points.head.n_points > 1 && points.head.n_points < n);
    read_from_points(&blob, &points);
    CHECK(img_points_thin(&points, 0) == 0 && points.head.n_points == 1);
    read_from_points(&blob, &points);
    img_points_free(&points);
    free(blob.data);
}

/* Without a file of them, the states of all layers of the process together have a limit. */
static void test_states_in_memory_have_a_limit(void) {
    enum { LAYERS = 40, STATES = 100, STATE = 30000 };
    img_packed_files files = {
        .blob_fd = -1, .sidecar_fd = -1, .chunks_dir = -1, .chunks_path = "", .log_fd = -1};
    img_packed *packed[LAYERS];
    uint8_t *noise = malloc(STATE), digest[IMG_DIGEST] = {0};
    for (size_t i = 0; i < STATE; i++)
        noise[i] = (uint8_t)rand();
    img_bytes state = {.data = (char *)noise, .len = STATE};
    for (int i = 0; i < LAYERS; i++) {
        img_points points;
        img_error err;
        img_points_begin(&points, IMG_GZIP);
        for (int j = 0; j < STATES; j++)
            CHECK(img_points_add(&points, 0, 0, false, j ? &state : NULL, &err) == 0);
        img_points_end(&points, 1, 1, 0);
        packed[i] = img_packed_new(&files, &points, digest, 1, "a test", &err);
        CHECK(packed[i] && img_packed_states() > 0 && img_packed_states() <= IMG_STATES_MAX);
    }
    for (int i = 0; i < LAYERS; i++)
        img_packed_free(packed[i]);
    CHECK(img_packed_states() == 0);
    free(noise);
}

/* ---- the address space -------------------------------------------------------------------- */

static void read_places(img_packed *packed) {
    char *out = malloc(700000);
    for (size_t i = 0; i < 60; i++) {
        uint64_t at = i * 7919 * 331 % TAR;
        size_t size = i % 3 == 0 ? 10 : i % 3 == 1 ? 65536 : 700000;
        size = TAR - at < size ? (size_t)(TAR - at) : size;
        CHECK(img_packed_read(packed, at, out, size) == (ssize_t)size);
        CHECK(memcmp(out, tar + at, size) == 0);
    }
    CHECK(img_packed_read(packed, TAR - 5, out, 6) == -EIO);
    CHECK(img_packed_read(packed, UINT64_MAX - 2, out, 6) == -EIO);
    CHECK(img_packed_read(packed, TAR, out, 0) == 0);
    free(out);
}

static void test_any_place_is_read(void) {
    pack_blob blobs[] = {pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0),
                         pack_zstd(tar, TAR, 3, 1 << 20)};
    for (int i = 0; i < 2; i++) {
        img_codec codec = i ? IMG_ZSTD : IMG_GZIP;
        int directory = pack_directory();
        img_packed *kept = pack_open(&blobs[i], codec, tar, TAR, directory);
        img_packed *without = pack_open(&blobs[i], codec, tar, TAR, -1);
        read_places(kept);
        read_places(without);
        img_packed_free(kept);
        img_packed_free(without);
        pack_remove(directory, "chunks");
        free(blobs[i].data);
    }
}

/* The last block begins in one chunk and ends in the next, and is longer than what is read of the
 * blob at once: the decoder has all of the blob before it has given all of the tar. */
static void test_the_blob_ends_before_the_tar(void) {
    enum { SIZE = 531000, FRAME = 200000 };
    uint8_t *noise = malloc(SIZE);
    char *out = malloc(IMG_CHUNK_BYTES);
    CHECK(noise && out);
    for (uint32_t i = 0, x = 1; i < SIZE; i++, x = x * 1664525 + 1013904223)
        noise[i] = (uint8_t)(x >> 24 & 63);
    pack_blob blob = pack_zstd(noise, SIZE, 3, FRAME);
    img_packed *packed = pack_open(&blob, IMG_ZSTD, noise, SIZE, -1);
    for (uint64_t at = 0; at < SIZE; at += IMG_CHUNK_BYTES) {
        size_t size = SIZE - at < IMG_CHUNK_BYTES ? (size_t)(SIZE - at) : IMG_CHUNK_BYTES;
        CHECK(img_packed_read(packed, at, out, size) == (ssize_t)size);
        CHECK(memcmp(out, noise + at, size) == 0);
    }
    free(out);
    free(noise);
    img_packed_free(packed);
    free(blob.data);
}

static void test_what_is_kept_is_not_decoded_again(void) {
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    int directory = pack_directory(), fd = pack_reopen(directory, "chunks");
    char *out = malloc(TAR);
    img_packed *first = pack_open(&blob, IMG_GZIP, tar, TAR, directory);
    img_packed *second = pack_open(&blob, IMG_GZIP, tar, TAR, directory);
    CHECK(img_packed_read_now(first, 0, out, 10) == -EAGAIN);
    CHECK(img_packed_read(first, 0, out, TAR) == TAR && memcmp(out, tar, TAR) == 0);
    CHECK(img_packed_read_now(first, 1000000, out, 400000) == 400000);
    CHECK(memcmp(out, tar + 1000000, 400000) == 0);
    CHECK(img_packed_read(second, 0, out, TAR) == TAR && memcmp(out, tar, TAR) == 0);
    CHECK(img_packed_count(second).decoded == 0);

    /* A chunk that was punched is decoded anew, and never shown as zeros. */
    CHECK(img_chunk_punch(fd, img_chunks_of(TAR), 3) == 1);
    CHECK(img_packed_read_now(second, 3 * IMG_CHUNK_BYTES, out, 10) == -EAGAIN);
    CHECK(img_packed_read(second, 3 * IMG_CHUNK_BYTES, out, 10) == 10);
    CHECK(memcmp(out, tar + 3 * IMG_CHUNK_BYTES, 10) == 0);
    CHECK(img_packed_count(second).decoded > 0);
    img_packed_free(first);
    img_packed_free(second);

    /* A damaged chunk is not believed. */
    CHECK(pwrite(fd, "damaged", 7, 5 * IMG_CHUNK_BYTES + 100) == 7);
    first = pack_open(&blob, IMG_GZIP, tar, TAR, directory);
    CHECK(img_packed_read(first, 0, out, TAR) == TAR && memcmp(out, tar, TAR) == 0);
    CHECK(img_packed_count(first).decoded > 0 && img_packed_count(first).wrong == 0);
    img_packed_free(first);
    (void)close(fd);
    pack_remove(directory, "chunks");
    free(out);
    free(blob.data);
}

/* What write(2) took, and the disk did not: the error comes later, and the chunk's page may go. */
static void test_a_chunk_that_the_disk_did_not_take(void) {
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    int directory = pack_directory(), fd = pack_reopen(directory, "chunks");
    int log = pack_file("", 0);
    char *out = malloc(TAR), line[5000] = "";
    img_packed *packed = pack_open(&blob, IMG_GZIP, tar, TAR, directory);
    img_packed_log_to(packed, log);
    CHECK(img_packed_read(packed, 0, out, TAR) == TAR);
    CHECK(img_packed_read_now(packed, 0, out, TAR) == TAR);
    CHECK(pwrite(fd, "not these", 9, 100) == 9); /* what is there instead, with no other mark */
    lose_writes = EIO;
    CHECK(img_packed_read_now(packed, 0, out, 1000) == -EAGAIN);
    for (int i = 0; i < 3; i++) {
        CHECK(img_packed_read(packed, 0, out, TAR) == TAR && memcmp(out, tar, TAR) == 0);
        lose_writes = EIO;
    }
    lose_writes = 0;
    CHECK(pread(log, line, sizeof line - 1, 0) > 0);
    CHECK(strncmp(line, "/the/cache: ", 12) == 0);
    CHECK(strstr(line, strerror(EIO)) && strstr(line, "cannot be kept"));
    CHECK(strchr(line, '\n') == line + strlen(line) - 1); /* once */
    img_packed_free(packed);
    (void)close(fd);
    (void)close(log);
    pack_remove(directory, "chunks");
    free(out);
    free(blob.data);
}

/* A cache that takes nothing: reads beside each other in a chunk decode and hash it once. */
static void test_a_chunk_is_decoded_once_without_a_cache(void) {
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    img_points points;
    img_error err;
    uint8_t *digests = pack_digests(tar, TAR);
    char out[1];
    pack_points(&blob, IMG_GZIP, tar, TAR, 1 << 18, &points);
    img_packed_files files = {.blob_fd = pack_file(blob.data, blob.size),
                              .sidecar_fd = -1,
                              .chunks_dir = -1,
                              .chunks_path = "",
                              .log_fd = -1};
    img_packed *packed =
        img_packed_new(&files, &points, digests, img_chunks_of(TAR), "a test", &err);
    for (uint64_t at = 0; at < 1000; at++)
        CHECK(img_packed_read(packed, at * 3, out, 1) == 1 && out[0] == (char)tar[at * 3]);
    CHECK(img_packed_count(packed).decoded == IMG_CHUNK_BYTES);
    img_packed_free(packed);
    free(digests);
    free(blob.data);
}

static void test_another_blob_is_an_error(void) {
    pack_blob blob = pack_gzip(tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    uint8_t *other_tar = pack_tar(TAR);
    memset(other_tar + 4000000, 'x', 1000);
    pack_blob other = pack_gzip(other_tar, TAR, 6, Z_DEFAULT_STRATEGY, 0);
    img_points points;
    img_error err;
    uint8_t *digests = pack_digests(tar, TAR);
    char *out = malloc(TAR);
    pack_points(&blob, IMG_GZIP, tar, TAR, 1 << 18, &points);
    img_packed_files files = {.blob_fd = pack_file(other.data, other.size),
                              .sidecar_fd = -1,
                              .chunks_dir = -1,
                              .chunks_path = "",
                              .log_fd = -1};
    img_packed *packed =
        img_packed_new(&files, &points, digests, img_chunks_of(TAR), "a test", &err);
    CHECK(img_packed_read(packed, 1000, out, 10) == 10 && memcmp(out, tar + 1000, 10) == 0);
    CHECK(img_packed_read(packed, 4000000, out, 10) == -EIO);
    CHECK(img_packed_count(packed).wrong == 1);
    CHECK(ftruncate(files.blob_fd, (off_t)(other.size / 2)) == 0);
    CHECK(img_packed_read(packed, TAR - 10, out, 10) == -EIO);
    img_packed_free(packed);
    free(digests);
    free(out);
    free(other_tar);
    free(other.data);
    free(blob.data);
}

int main(void) {
    tar = pack_tar(TAR);
    test_gzip_in_all_forms();
    test_zstd();
    test_windows_are_small();
    test_damage_is_told();
    test_what_follows_a_gzip_stream_is_ignored();
    test_headers_come_in_any_pieces();
    test_reserved_flags_are_refused();
    test_points_are_kept_in_a_file();
    test_states_are_read_when_they_are_needed();
    test_states_are_left_out();
    test_states_in_memory_have_a_limit();
    test_any_place_is_read();
    test_the_blob_ends_before_the_tar();
    test_what_is_kept_is_not_decoded_again();
    test_a_chunk_that_the_disk_did_not_take();
    test_a_chunk_is_decoded_once_without_a_cache();
    test_another_blob_is_an_error();
    img_packed_stop_threads();
    free(tar);
    return 0;
}
