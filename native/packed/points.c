#define _GNU_SOURCE /* F_DUPFD_CLOEXEC */
#include "packed/points.h"

#include "base/checksum.h"
#include "base/interrupt.h"
#include "packed/gunzip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

_Static_assert(sizeof(img_points_header) % 8 == 0, "points are aligned behind the header");

/* Of a state: the tables, headers and windows of gunzip.h are at most 20 + 3 + 33 KiB. */
enum { STATE_MAX = 96 * 1024, PACK_LEVEL = 3 };
enum {
    SMALL = 8 * 1024, /* a pool that is not worth a descriptor: 500 of these are 4 MiB */
    FILES_SHARE = 8   /* files of points are at most this part of all descriptors (RLIMIT_NOFILE) */
};
enum { PACKED_MAX = ZSTD_COMPRESSBOUND(STATE_MAX), PIECE = 128 * 1024 };
_Static_assert((int)PACKED_MAX <= (int)PIECE, "a piece has room for a state");

/* ---- building ----------------------------------------------------------------------------- */

void img_points_begin(img_points *points, img_codec codec) {
    *points = (img_points){.fd = -1};
    memcpy(points->head.magic, IMG_POINTS_MAGIC, sizeof points->head.magic);
    points->head.version = IMG_POINTS_VERSION;
    points->head.codec = codec;
    points->head.states = img_gunzip_version();
}

static void point_to_made(img_points *points) {
    points->points = (const img_point *)(const void *)points->made_points.data;
    points->pool = points->made_pool.data;
}

static uint32_t sum_of(const void *state, size_t size) {
    return (uint32_t)img_checksum(state, size, 0);
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
    point->sum = sum_of(points->made_pool.data + points->made_pool.len, n);
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

static atomic_ulong files; /* that points of this process have open */

/* Keeps the file open, if there are descriptors enough. */
static void keep_open(img_points *points, int fd) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    if (atomic_fetch_add(&files, 1) >= limit.rlim_cur / FILES_SHARE ||
        (points->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)) < 0)
        atomic_fetch_sub(&files, 1);
}

void img_points_shut(img_points *points) {
    if (points->fd < 0)
        return;
    (void)close(points->fd);
    points->fd = -1;
    atomic_fetch_sub(&files, 1);
}

void img_points_free(img_points *points) {
    free(points->block);
    img_bytes_free(&points->made_points);
    img_bytes_free(&points->made_pool);
    img_points_shut(points);
    *points = (img_points){.fd = -1};
}

uint64_t img_points_thin(img_points *points, uint64_t most) {
    img_points_header *head = &points->head;
    img_bytes left = {0}, pool = {0};
    bool fits = true;
    if (points->fd >= 0 || head->pool_bytes <= most)
        return points->fd >= 0 ? 0 : head->pool_bytes;
    for (uint64_t i = 0; fits && i < head->n_points; i++) {
        img_point point = points->points[i];
        const char *state = points->pool + point.state;
        double share = (double)most * (double)(i + 1) / (double)head->n_points;
        if (point.n_state && (double)(pool.len + point.n_state) > share)
            continue;
        point.state = (uint32_t)pool.len;
        fits = img_bytes_add(&pool, state, point.n_state) == 0 &&
               img_bytes_add(&left, &point, sizeof point) == 0;
    }
    if (!fits) {
        img_bytes_free(&left);
        img_bytes_free(&pool);
        return head->pool_bytes;
    }
    img_points_header kept = *head;
    img_points_free(points);
    points->head = kept;
    points->made_points = left;
    points->made_pool = pool;
    points->head.n_points = left.len / sizeof(img_point);
    points->head.pool_bytes = pool.len;
    point_to_made(points);
    return pool.len;
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

/* Reads size bytes at `at` of a file. */
static int read_at(int fd, void *buffer, size_t size, uint64_t at, img_error *err) {
    for (char *to = buffer; size;) {
        ssize_t n = pread(fd, to, size, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return img_fail(err, errno, "cannot read access points: %s", strerror(errno));
        if (n == 0)
            return img_fail(err, EBADMSG, "cut access points");
        to += n;
        at += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

static uint64_t pool_at(const img_points *points) {
    return sizeof(img_points_header) + points->head.n_points * sizeof(img_point);
}

int img_points_state(const img_points *points, const img_point *point, img_bytes *state,
                     img_error *err) {
    state->len = 0;
    if (img_bytes_reserve(state, STATE_MAX + PACKED_MAX) < 0)
        return img_fail(err, ENOMEM, "out of memory");
    char *from_file = state->data + STATE_MAX;
    const char *packed = points->pool ? points->pool + point->state : from_file;
    if (!points->pool &&
        read_at(points->fd, from_file, point->n_state, pool_at(points) + point->state, err) < 0)
        return -1;
    size_t n = ZSTD_decompress(state->data, STATE_MAX, packed, point->n_state);
    if (sum_of(packed, point->n_state) != point->sum || ZSTD_isError(n))
        return img_fail(err, EBADMSG, "a damaged access point");
    state->len = n;
    return 0;
}

/* ---- files -------------------------------------------------------------------------------- */

/* The checksum of the file; of a pool that is not in memory, piece by piece. */
static int checksum(const img_points *points, uint64_t key, uint64_t *sum, img_error *err) {
    img_points_header head = points->head;
    char from_file[PIECE];
    head.checksum = 0;
    *sum = img_checksum(&head, sizeof head, key);
    *sum = img_checksum(points->points, (size_t)head.n_points * sizeof(img_point), *sum);
    for (uint64_t at = 0; at < head.pool_bytes; at += PIECE) {
        size_t size = head.pool_bytes - at < PIECE ? (size_t)(head.pool_bytes - at) : PIECE;
        const char *piece = points->pool ? points->pool + at : from_file;
        if (!points->pool && read_at(points->fd, from_file, size, pool_at(points) + at, err) < 0)
            return -1;
        *sum = img_checksum(piece, size, *sum);
    }
    return 0;
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
    if (!points->pool && head.pool_bytes)
        return img_fail(err, EINVAL, "access points that are in a file");
    if (checksum(points, key, &head.checksum, err) < 0 ||
        write_all(fd, &head, sizeof head, err) < 0 ||
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
            (uint64_t)point->state + point->n_state > head->pool_bytes ||
            point->n_state > PACKED_MAX)
            return false;
    }
    return true;
}

/* Checks that the lengths in the header are those of a file of `size` bytes. */
static int check_header(const img_points_header *head, uint64_t size, img_error *err) {
    if (memcmp(head->magic, IMG_POINTS_MAGIC, sizeof head->magic) != 0)
        return img_fail(err, EBADMSG, "no access points");
    if (head->version != IMG_POINTS_VERSION || head->states != img_gunzip_version())
        return img_fail(err, EBADMSG, "access points of another version");
    if (head->n_points > IMG_POINTS_BYTES_MAX / sizeof(img_point) ||
        head->pool_bytes > IMG_POINTS_BYTES_MAX ||
        sizeof *head + head->n_points * sizeof(img_point) + head->pool_bytes != size)
        return img_fail(err, EBADMSG, "access points that are cut or have grown");
    return 0;
}

/* Reads the points, and the states too if these are few, or if there is no descriptor to read them
 * from later. */
static int load(img_points *points, int fd, uint64_t size, uint64_t key, img_error *err) {
    img_points_header *head = &points->head;
    uint64_t sum;
    if (read_at(fd, head, sizeof *head, 0, err) < 0 || check_header(head, size, err) < 0)
        return -1;
    if (head->pool_bytes > SMALL)
        keep_open(points, fd);
    size_t n = (size_t)(points->fd < 0 ? size : pool_at(points)) - sizeof *head;
    points->block = malloc(n + 1);
    if (!points->block)
        return img_fail(err, ENOMEM, "out of memory");
    if (read_at(fd, points->block, n, sizeof *head, err) < 0)
        return -1;
    points->points = points->block;
    if (points->fd < 0)
        points->pool = (const char *)points->block + head->n_points * sizeof(img_point);
    if (checksum(points, key, &sum, err) < 0)
        return -1;
    if (sum != head->checksum)
        return img_fail(err, EBADMSG, "damaged, or of another name: its checksum is another");
    if ((head->codec != IMG_GZIP && head->codec != IMG_ZSTD) || !points_hold(points))
        return img_fail(err, EBADMSG, "damaged access points");
    return 0;
}

int img_points_read(img_points *points, int fd, uint64_t key, img_error *err) {
    struct stat st;
    *points = (img_points){.fd = -1};
    err->offset = 0;
    err->member[0] = 0;
    if (fstat(fd, &st) < 0)
        return img_fail(err, errno, "cannot look at access points: %s", strerror(errno));
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof(img_points_header) ||
        (uint64_t)st.st_size > 2ull * IMG_POINTS_BYTES_MAX)
        return img_fail(err, EBADMSG, "no access points");
    if (load(points, fd, (uint64_t)st.st_size, key, err) == 0)
        return 0;
    img_points_free(points);
    return -1;
}
