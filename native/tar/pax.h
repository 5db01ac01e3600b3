/* pax.h: collects the records of PAX extended headers ('x' and 'g') for the members they apply to.
 *
 *   record = decimal length of the whole record | " " | key | "=" | value | "\n"
 *
 * Source: POSIX.1-2017 pax, "pax Header Block"; star(5) for SCHILY.*; libarchive tar(5) for
 * LIBARCHIVE.*.  Keys that do not change what a file system shows are skipped.  With an empty
 * value, the field of the header block counts again (but an xattr may be empty).
 */
#ifndef IMG_PAX_H
#define IMG_PAX_H

#include "base/bytes.h"
#include "base/error.h"
#include "index/xattrset.h"
#include "tar/sparse.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    PAX_PATH = 1 << 0,
    PAX_LINKPATH = 1 << 1,
    PAX_SIZE = 1 << 2,
    PAX_UID = 1 << 3,
    PAX_GID = 1 << 4,
    PAX_MTIME = 1 << 5,
    PAX_ATIME = 1 << 6,
    PAX_CTIME = 1 << 7,
    PAX_DEVMAJOR = 1 << 8,
    PAX_DEVMINOR = 1 << 9,
    PAX_REALSIZE = 1 << 10,
    PAX_SPARSE_NAME = 1 << 11,
    PAX_SPARSE_MAJOR = 1 << 12,
    PAX_SPARSE_MINOR = 1 << 13,
    PAX_SPARSE_BLOCKS = 1 << 14,
    PAX_SPARSE_MAP = 1 << 15, /* the map of PAX 0.0 or 0.1 has at least one piece */
};

#define PAX_NO_ID UINT64_MAX /* value of uid, gid: the number is negative or beyond 63 bits */

typedef struct img_time {
    int64_t s;
    uint32_t ns; /* 0 .. 999,999,999 */
} img_time;

typedef struct img_pax {
    uint32_t have; /* PAX_*: which of the fields below are set */
    uint32_t
        dropped; /* PAX_*: given with an empty value, which also hides a global header's value */
    img_bytes path, linkpath, sparse_name;
    uint64_t size, uid, gid, devmajor, devminor, realsize; /* the caller checks ids and devices */
    uint64_t sparse_major, sparse_minor, sparse_blocks;
    img_time mtime, atime, ctime;
    img_sparse sparse;
    img_xattr_set xattrs;
    img_bytes scratch;
} img_pax;

void img_pax_reset(img_pax *pax); /* empties it, keeps the memory */
void img_pax_free(img_pax *pax);

/* Adds the records of one header; the caller calls img_pax_reset before the next 'x' header.  If a
 * key comes again, its value is replaced.  global: data is a 'g' header, in which a sparse map is
 * refused, because it belongs to one file.  EBADMSG, E2BIG, ENOMEM. */
int img_pax_parse(img_pax *pax, const char *data, size_t len, bool global, img_error *err);

#endif
