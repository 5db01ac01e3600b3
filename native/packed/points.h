/* points.h: the access points of one blob: where a decoder can begin, and with which state.
 *
 *   file = header | points[n_points] | pool[pool_bytes]
 *          header.checksum is the checksum (checksum.h) of the whole file with checksum = 0, and
 * its seed is the key of the file's name, as of an index (index.h) pool = the states of points in
 * the middle of gzip members (gunzip.h), each packed with zstd
 *
 * Many states of points that were read stay in the file: a state is read, and compared with its own
 * checksum, when a decoder begins there.  So an image of many large layers takes 32 bytes of memory
 * a point.  Few states are in memory, and those that have no file, because the cache takes none or
 * no descriptor is left; img_points_thin holds them to a size.
 *
 * Offsets `out` count bytes of the uncompressed tar, offsets `in` bytes of the blob, or of the
 * sidecar (re-framed zstd) where the point says so.  Points ascend by `out`; the first one is at 0.
 * Integers are in host order: the file is a cache that is read on the machine that wrote it.
 *
 * Threads: points do not change once they are built or read.
 */
#ifndef IMG_POINTS_H
#define IMG_POINTS_H

#include "base/bytes.h"
#include "packed/decoder.h"

#define IMG_POINTS_MAGIC "IMGPTS\0\1"
#define IMG_POINTS_VERSION 2u
#define IMG_POINTS_BYTES_MAX (1u << 30) /* of the file: points of a tar of about 200 GiB */

typedef struct img_point {
    uint64_t out, in;
    uint32_t state;      /* pool offset */
    uint32_t n_state;    /* packed bytes; 0: a member or frame begins here */
    uint32_t in_sidecar; /* 1: `in` counts bytes of the sidecar, which has zstd frames */
    uint32_t sum;        /* of the packed state: the low half of its checksum */
} img_point;

typedef struct img_points_header {
    char magic[8];
    uint32_t version;
    uint32_t codec;  /* img_codec of the blob */
    uint64_t states; /* img_gunzip_version() */
    uint64_t checksum;
    uint64_t blob_bytes, tar_bytes, sidecar_bytes;
    uint64_t n_points, pool_bytes;
} img_points_header;

typedef struct img_points {
    img_points_header head;
    const img_point *points;
    const char *pool;                 /* NULL: it is in fd */
    int fd;                           /* owned; the file that has the pool; -1: none */
    void *block;                      /* what was read of a file */
    img_bytes made_points, made_pool; /* of points that are being built */
} img_points;

/* The points of a blob of which nothing is known yet. */
void img_points_begin(img_points *points, img_codec codec);
/* Adds a point behind the last one.  state: of img_gunzip_save, its window perhaps reduced; NULL at
 * the start of a member or frame.  -1: ENOMEM, E2BIG. */
int img_points_add(img_points *points, uint64_t out, uint64_t in, bool in_sidecar,
                   const img_bytes *state, img_error *err);
/* No more points come: sets the lengths. */
void img_points_end(img_points *points, uint64_t blob_bytes, uint64_t tar_bytes,
                    uint64_t sidecar_bytes);
void img_points_free(img_points *points);
void img_points_shut(img_points *points); /* closes the file alone: no state can be read any more */

/* Leaves out states in the middle of members, as evenly as their sizes allow, until all of them
 * take at most `most` bytes of memory; 0 if they are in a file.  The bytes that they take.  Out of
 * memory: they stay. */
uint64_t img_points_thin(img_points *points, uint64_t most);

/* The last point at or before out. */
const img_point *img_points_find(const img_points *points, uint64_t out);
/* Unpacks the state of a point.  -1: ENOMEM, EBADMSG, an error of pread(2). */
int img_points_state(const img_points *points, const img_point *point, img_bytes *state,
                     img_error *err);

int img_points_write(const img_points *points, int fd, uint64_t key, img_error *err);
/* Reads what img_points_write has written, and compares its checksum.  The file must stay as it is,
 * but may lose its name; the descriptor stays the caller's.  EBADMSG: damaged, of another name,
 * another version, or states of another ISA-L. */
int img_points_read(img_points *points, int fd, uint64_t key, img_error *err);

#endif
