/* fast.h: the types and constants that the files of the fast path share.
 *
 *   fastpath.c     starts and ends the fast path
 *   fastloop.c     the threads that read the device
 *   fastrequest.c  one request: checked, dispatched, answered, counted
 *   fastlook.c     requests that only read: names, attributes, listings, links, xattrs, statfs
 *   fastfile.c     contents: READ, WRITE, FSYNC, LSEEK, FALLOCATE, COPY_FILE_RANGE
 *   fastname.c     changes of names, attributes and xattrs
 *   fastrelay.c    requests that go to pyfuse3, and their answers
 *   notify.c       the thread that may wait for the kernel's page locks; it works for
 *   push.c           files that are put into the kernel's page cache ahead of a reader, and
 *   defer.c          requests that must not be answered by any other thread
 */
#ifndef IMG_FAST_H
#define IMG_FAST_H

#include "fast/fastpath.h"
#include "fast/fusewire.h"

enum {
    FAST_MAX_WRITE = 1 << 20,
    FAST_BUFFER = FAST_MAX_WRITE + 4096, /* a request or an answer, headers included */
    FAST_FOREVER = 86400 * 365,          /* seconds that the kernel may keep names, attributes */
    FAST_PATIENCE_MS = 2                 /* how long a request waits for the lock `change` */
};

/* What a handler returns: 0 when it has answered, a negative errno to answer, or one of these. */
enum {
    FAST_RELAY = 1,          /* declined: the request goes to pyfuse3 */
    FAST_COPY_UP_DATA,       /* Python copies up the node `wanted`, then the request runs again */
    FAST_COPY_UP_ATTRIBUTES, /* the same, but the node's data may stay in the layers */
    FAST_SILENT              /* no answer is due, or not now */
};

/* What Python is asked to copy up before a request runs again.  FAST_NOTHING: Python does the
 * request itself. */
typedef enum fast_need { FAST_NOTHING, FAST_ATTRIBUTES, FAST_DATA } fast_need;

/* Which run of a request this is: the first run; the run after Python has copied up; the run on the
 * notify thread. */
typedef enum fast_stage { FAST_FRESH, FAST_COPIED_UP, FAST_LET_THROUGH } fast_stage;

typedef struct fast_loop fast_loop;
typedef struct fast_relay fast_relay;
typedef struct fast_notify fast_notify;

struct img_fastpath {
    img_tree *tree;
    img_upper *upper;
    img_stats *stats;
    img_fastpath_options options;
    fast_relay *relay; /* NULL: there is no pyfuse3 */
    fast_notify *notify;
    fast_loop *loop;
    bool setxattr_ext; /* FUSE_SETXATTR_EXT: requests have all of struct fuse_setxattr_in */
};

typedef struct fast_request {
    img_fastpath *path;
    const struct fuse_in_header *in;
    const char *arg; /* what follows the header */
    size_t arg_len;
    int fd; /* where the answer goes */
    fast_stage stage;
    char *out; /* FAST_BUFFER bytes for an answer's body */
    uint64_t start;
    uint64_t bytes;  /* for the statistics */
    uint64_t wanted; /* with FAST_COPY_UP_DATA and FAST_COPY_UP_ATTRIBUTES: the node to copy up */
    int error;       /* what was answered: 0 or a positive errno */
} fast_request;

/* Does one operation of FUSE. Returns one of the values above. */
typedef int fast_handler(fast_request *req);

#endif
