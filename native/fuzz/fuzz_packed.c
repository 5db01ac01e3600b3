/* fuzz_packed.c: compressed streams, unpacked in pieces and read from their access points.
 *
 * An input is u8 codec (odd: zstd) | u16 bytes to feed at a time, low byte first | u16 bytes to ask
 * for, likewise | the stream.  Of the output, the first OUT_MAX bytes count, and none of a call
 * that fails. Laws: pieces of any size give the same bytes, and the same end (whole, damaged or cut
 * off); each access point leads to the bytes that the whole stream has there; an address space
 * gives each chunk of it, and of a damaged stream that chunk or EIO, when chunks are read
 * backwards, so that a cursor begins at points, and forwards, so that it goes on.
 */
#define _GNU_SOURCE /* memfd_create */
#include "fuzz.h"

#include "packed/packed.h"
#include "packed/unpack.h"
#include "packrig.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HEAD = 5, OUT_MAX = 4 << 20, FROM_A_POINT = 100000 };

typedef struct run {
    uint8_t *out;
    size_t made;
    bool damaged; /* or cut off */
    img_points points;
} run;

static void finish_points(img_unpacker *unpacker, img_points *points) {
    img_error err = {0};
    img_begun *begun;
    while ((begun = img_unpacker_take(unpacker))) {
        CHECK(img_begun_finish(begun, points, &err) == 0);
        img_begun_free(begun);
    }
}

static void unpack(run *to, img_codec codec, const uint8_t *stream, size_t size, size_t feed,
                   size_t ask) {
    img_error err = {0};
    img_unpacker *unpacker = img_unpacker_new(codec, &err);
    size_t fed = 0, n;
    int result = IMG_DECODED_HUNGRY;
    *to = (run){.out = malloc(OUT_MAX)};
    CHECK(unpacker && to->out);
    img_points_begin(&to->points, codec);
    while (to->made < OUT_MAX) {
        size_t room = OUT_MAX - to->made < ask ? OUT_MAX - to->made : ask;
        result = img_unpacker_next(unpacker, to->out + to->made, room, &n, &err);
        CHECK(n <= room);
        to->made += result < 0 ? 0 : n;
        finish_points(unpacker, &to->points);
        if (result < 0 || result == IMG_DECODED_END ||
            (result == IMG_DECODED_HUNGRY && fed == size))
            break;
        if (result != IMG_DECODED_HUNGRY)
            continue;
        n = size - fed < feed ? size - fed : feed;
        img_unpacker_feed(unpacker, stream + fed, n);
        fed += n;
    }
    if (result >= 0 && to->made < OUT_MAX)
        result = img_unpacker_finish(unpacker, &err);
    finish_points(unpacker, &to->points);
    img_points_end(&to->points, size, to->made, 0);
    to->damaged = result < 0;
    CHECK(!to->damaged || (err.code == EBADMSG && err.message[0] && err.offset <= size));
    img_unpacker_free(unpacker);
}

static void read_from(const run *whole, const img_point *point, const uint8_t *stream,
                      size_t size) {
    img_decoder decoder;
    img_error err = {0};
    img_bytes state = {0};
    CHECK(point->in <= size && !point->in_sidecar);
    if (point->out > whole->made) { /* of the call that failed */
        CHECK(whole->damaged);
        return;
    }
    size_t left = whole->made - (size_t)point->out;
    size_t want = left < FROM_A_POINT ? left : FROM_A_POINT;
    uint8_t *out = malloc(want + 1);
    CHECK(out && img_decoder_init(&decoder, (img_codec)whole->points.head.codec, &err) == 0);
    img_decoder_begin(&decoder, point->in);
    if (point->n_state) {
        CHECK(img_points_state(&whole->points, point, &state, &err) == 0);
        CHECK(img_gunzip_restore(decoder.gunzip, state.data, state.len, &err) == 0);
    }
    img_flow flow = {stream + point->in, size - (size_t)point->in, out, want};
    int result = IMG_DECODED_FULL;
    size_t made = 0;
    while (flow.n_out && result != IMG_DECODED_END &&
           !(result == IMG_DECODED_HUNGRY && flow.n_in == 0)) {
        result = img_decode(&decoder, &flow, &err);
        if (result < 0)
            break;
        made = want - flow.n_out;
    }
    CHECK(whole->damaged || made == want);
    CHECK(memcmp(out, whole->out + point->out, made) == 0);
    img_bytes_free(&state);
    img_decoder_free(&decoder);
    free(out);
}

static int file_of(const uint8_t *data, size_t size) {
    int fd = memfd_create("blob", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    return fd;
}

/* The states come from memory, or from a file, where few are in memory too (points.h). */
static img_packed *open_packed(run *whole, const uint8_t *stream, size_t size, bool kept) {
    img_error err = {0};
    img_points points = whole->points;
    uint8_t *digests = pack_digests(whole->out, whole->made);
    img_packed_files files = {.blob_fd = file_of(stream, size),
                              .sidecar_fd = -1,
                              .chunks_dir = -1,
                              .chunks_path = "",
                              .log_fd = -1};
    if (kept) {
        int fd = file_of(NULL, 0);
        CHECK(img_points_write(&whole->points, fd, 1, &err) == 0);
        CHECK(img_points_read(&points, fd, 1, &err) == 0);
        (void)close(fd);
    } else {
        whole->points = (img_points){.fd = -1};
    }
    img_packed *packed =
        img_packed_new(&files, &points, digests, img_chunks_of(whole->made), "a blob", &err);
    CHECK(packed);
    free(digests);
    return packed;
}

static void read_chunks(run *whole, const uint8_t *stream, size_t size, bool kept) {
    uint8_t *out = malloc(IMG_CHUNK_BYTES);
    uint64_t n = img_chunks_of(whole->made);
    if (!whole->points.head.n_points)
        goto end;
    while (whole->points.points[whole->points.head.n_points - 1].out > whole->made)
        whole->points.head.n_points--; /* of the call that failed */
    img_packed *packed = open_packed(whole, stream, size, kept);
    for (uint64_t i = 0; i < 2 * n; i++) {
        size_t at = (size_t)(i < n ? n - 1 - i : i - n) * IMG_CHUNK_BYTES;
        size_t want = whole->made - at < IMG_CHUNK_BYTES ? whole->made - at : IMG_CHUNK_BYTES;
        ssize_t got = img_packed_read(packed, at, out, want);
        CHECK(got == (ssize_t)want || (whole->damaged && got == -EIO));
        CHECK(got < 0 || memcmp(out, whole->out + at, want) == 0);
    }
    img_packed_free(packed);
end:
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    run first, second;
    if (size < HEAD)
        return 0;
    img_codec codec = data[0] & 1 ? IMG_ZSTD : IMG_GZIP;
    size_t feed = 1 + (size_t)(data[1] | data[2] << 8), ask = 1 + (size_t)(data[3] | data[4] << 8);
    const uint8_t *stream = data + HEAD;
    size -= HEAD;
    unpack(&first, codec, stream, size, size + 1, IMG_CHUNK_BYTES);
    unpack(&second, codec, stream, size, feed, ask);
    size_t both = first.made < second.made ? first.made : second.made;
    CHECK(memcmp(first.out, second.out, both) == 0);
    if (first.made < OUT_MAX && second.made < OUT_MAX) {
        CHECK(first.damaged == second.damaged);
        CHECK(first.damaged || first.made == second.made);
    }
    for (uint64_t i = 0; i < first.points.head.n_points; i++)
        read_from(&first, &first.points.points[i], stream, size);
    for (uint64_t i = 0; i < second.points.head.n_points; i++)
        read_from(&second, &second.points.points[i], stream, size);
    read_chunks(&first, stream, size, true);
    read_chunks(&second, stream, size, false);
    img_points_free(&first.points);
    img_points_free(&second.points);
    free(first.out);
    free(second.out);
    return 0;
}

/* Changes the stream, or how it is divided; the codec stays that of the stream. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    if (size <= HEAD || max_size <= HEAD)
        return LLVMFuzzerMutate(data, size, max_size);
    if (pick(&seed, 4) == 0) {
        (void)LLVMFuzzerMutate(data + 1, HEAD - 1, HEAD - 1);
        return size;
    }
    return HEAD + LLVMFuzzerMutate(data + HEAD, size - HEAD, max_size - HEAD);
}
