#include "packed/points.h"

#include "base/checksum.h"
#include "base/interrupt.h"
#include "packed/gunzip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

_Static_assert(sizeof(img_points_header) % 8 == 0, "points are aligned behind the header");

/* Of a state: the tables, headers and windows of gunzip.h are at most 20 + 3 + 33 KiB. */
enum { STATE_MAX = 96 * 1024, PACK_LEVEL = 3 };

/* ---- building ----------------------------------------------------------------------------- */

void img_points_begin(img_points *points, img_codec codec) {
    *points = (img_points){0};
    memcpy(points->head.magic, IMG_POINTS_MAGIC, sizeof points->head.magic);
    points->head.version = IMG_POINTS_VERSION;
    points->head.codec = codec;
    points->head.states = img_gunzip_version();
}

static void point_to_made(img_points *points) {
    points->points = (const img_point *)(const void *)points->made_points.data;
    points->pool = points->made_pool.data;
}

static int pack(img_points *points, const img_bytes *state, img_point *point, img_error *err) {
    size_t most = ZSTD_compressBound(state->len);
    point->state = (uint32_t)points->made_pool.len;
    if (points->made_pool.len + most > IMG_POINTS_BYTES_MAX)
        return img_fail(err, E2BIG, "access points of more than %u bytes", IMG_POINTS_BYTES_MAX);
    if (img_bytes_reserve(&points->made_pool, most) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    size_t n = ZSTD_compress(points->made_pool.data + points->made_pool.len, most, state->data,
                             state->len, PACK_LEVEL);
    if (ZSTD_isError(n))
        return img_fail(err, ENOMEM, "out of memory");
    points->made_pool.len += n;
    point->n_state = (uint32_t)n;
    return 0;
}

int img_points_add(img_points *points, uint64_t out, uint64_t in, bool in_sidecar,
                   const img_bytes *state, img_error *err) {
    img_point point = {.out = out, .in = in, .in_sidecar = in_sidecar};
    if (state && pack(points, state, &point, err) < 0)
        return -1;
    if (points->made_points.len > IMG_POINTS_BYTES_MAX - sizeof point)
        return img_fail(err, E2BIG, "access points of more than %u bytes", IMG_POINTS_BYTES_MAX);
    if (img_bytes_add(&points->made_points, &point, sizeof point) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    points->head.n_points++;
    point_to_made(points);
    return 0;
}

void img_points_end(img_points *points, uint64_t blob_bytes, uint64_t tar_bytes,
                    uint64_t sidecar_bytes) {
    points->head.blob_bytes = blob_bytes;
    points->head.tar_bytes = tar_bytes;
    points->head.sidecar_bytes = sidecar_bytes;
    points->head.pool_bytes = points->made_pool.len;
}

void img_points_free(img_points *points) {
    free(points->block);
    img_bytes_free(&points->made_points);
    img_bytes_free(&points->made_pool);
    *points = (img_points){0};
}

/* ---- use ---------------------------------------------------------------------------------- */

const img_point *img_points_find(const img_points *points, uint64_t out) {
    uint64_t low = 0, high = points->head.n_points; /* the point is in [low, high) */
    while (high - low > 1) {
        uint64_t mid = low + (high - low) / 2;
        if (points->points[mid].out <= out)
            low = mid;
        else
            high = mid;
    }
    return &points->points[low];
}

int img_points_state(const img_points *points, const img_point *point, img_bytes *state,
                     img_error *err) {
    state->len = 0;
    if (img_bytes_reserve(state, STATE_MAX) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    size_t n = ZSTD_decompress(state->data, STATE_MAX, points->pool + point->state, point->n_state);
    if (ZSTD_isError(n))
        return img_fail(err, EBADMSG, "a damaged access point");
    state->len = n;
    return 0;
}

/* ---- files -------------------------------------------------------------------------------- */

static uint64_t checksum(const img_points *points, uint64_t key) {
    img_points_header head = points->head;
    head.checksum = 0;
    uint64_t sum = img_checksum(&head, sizeof head, key);
    sum = img_checksum(points->points, (size_t)head.n_points * sizeof(img_point), sum);
    return img_checksum(points->pool, (size_t)head.pool_bytes, sum);
}

static int write_all(int fd, const void *data, size_t size, img_error *err) {
    for (const char *at = data; size;) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return img_fail(err, errno, "cannot write access points: %s", strerror(errno));
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

int img_points_write(const img_points *points, int fd, uint64_t key, img_error *err) {
    img_points_header head = points->head;
    head.checksum = checksum(points, key);
    if (write_all(fd, &head, sizeof head, err) < 0 ||
        write_all(fd, points->points, (size_t)head.n_points * sizeof(img_point), err) < 0)
        return -1;
    return write_all(fd, points->pool, (size_t)head.pool_bytes, err);
}

static bool points_hold(const img_points *points) {
    const img_points_header *head = &points->head;
    if (!head->n_points || points->points[0].out != 0)
        return false;
    for (uint64_t i = 0; i < head->n_points; i++) {
        const img_point *point = &points->points[i];
        uint64_t end = point->in_sidecar ? head->sidecar_bytes : head->blob_bytes;
        if (point->in > end || point->out > head->tar_bytes ||
            (i && point->out < points->points[i - 1].out) ||
            (uint64_t)point->state + point->n_state > head->pool_bytes)
            return false;
    }
    return true;
}

static int read_block(img_points *points, int fd, size_t size, img_error *err) {
    char *block = points->block = malloc(size);
    if (!block)
        return img_fail(err, ENOMEM, "out of memory");
    for (size_t at = 0; at < size;) {
        ssize_t n = pread(fd, block + at, size - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return img_fail(err, errno, "cannot read access points: %s", strerror(errno));
        if (n == 0)
            return img_fail(err, EBADMSG, "cut access points");
        at += (size_t)n;
    }
    return 0;
}

static int lay_out(img_points *points, size_t size, uint64_t key, img_error *err) {
    const char *block = points->block;
    img_points_header *head = &points->head;
    memcpy(head, block, sizeof *head);
    if (memcmp(head->magic, IMG_POINTS_MAGIC, sizeof head->magic) != 0)
        return img_fail(err, EBADMSG, "no access points");
    if (head->version != IMG_POINTS_VERSION || head->states != img_gunzip_version())
        return img_fail(err, EBADMSG, "access points of another version");
    if (head->n_points > IMG_POINTS_BYTES_MAX / sizeof(img_point) ||
        head->pool_bytes > IMG_POINTS_BYTES_MAX ||
        sizeof *head + head->n_points * sizeof(img_point) + head->pool_bytes != size)
        return img_fail(err, EBADMSG, "access points that are cut or have grown");
    points->points = (const img_point *)(const void *)(block + sizeof *head);
    points->pool = block + sizeof *head + head->n_points * sizeof(img_point);
    if (checksum(points, key) != head->checksum)
        return img_fail(err, EBADMSG, "damaged, or of another name: its checksum is another");
    if ((head->codec != IMG_GZIP && head->codec != IMG_ZSTD) || !points_hold(points))
        return img_fail(err, EBADMSG, "damaged access points");
    return 0;
}

int img_points_read(img_points *points, int fd, uint64_t key, img_error *err) {
    struct stat st;
    *points = (img_points){0};
    err->offset = 0;
    err->member[0] = 0;
    if (fstat(fd, &st) < 0)
        return img_fail(err, errno, "cannot look at access points: %s", strerror(errno));
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof(img_points_header) ||
        (uint64_t)st.st_size > 2ull * IMG_POINTS_BYTES_MAX)
        return img_fail(err, EBADMSG, "no access points");
    if (read_block(points, fd, (size_t)st.st_size, err) == 0 &&
        lay_out(points, (size_t)st.st_size, key, err) == 0)
        return 0;
    img_points_free(points);
    return -1;
}
