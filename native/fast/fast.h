/* fast.h: what the files of the fast path share; nobody else includes it.
 *
 *   fastloop.c    threads: who reads the device, who sleeps, how it ends
 *   fastrequest.c one request: checked, dispatched, answered, counted
 *   fastlook.c    what only looks: names, attributes, listings, links, xattrs, statfs
 *   fastfile.c    contents: READ, WRITE, FSYNC, FALLOCATE, COPY_FILE_RANGE
 *   fastname.c    what changes names and attributes, by change.h
 *   fastrelay.c   what goes to pyfuse3 and comes back
 *   notify.c      what may wait for the kernel's page locks: pushing, LSEEK
 */
#ifndef IMG_FAST_H
#define IMG_FAST_H

#include "fast/fastpath.h"
#include "fast/fusewire.h"
#include "upper/change.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    FAST_MAX_WRITE = 1 << 20,
    FAST_BUFFER = FAST_MAX_WRITE + 4096, /* a request or an answer, headers included */
    FAST_FOREVER = 86400 * 365,          /* seconds that the kernel may keep names, attributes */
    FAST_PATIENCE_MS = 2                 /* for the lock that Python may hold; then relay */
};

/* What a handler returns: 0 and it has answered, a negative errno to answer, or one of these. */
enum { FAST_RELAY = 1, FAST_COPY_UP_DATA, FAST_COPY_UP_ATTRIBUTES, FAST_SILENT };

/* What Python is asked to bring up for a request: nothing (it gets the request itself), attributes,
 * or data as well. */
typedef enum fast_need { FAST_NOTHING, FAST_ATTRIBUTES, FAST_DATA } fast_need;

/* How far a request has come: fresh; brought up by Python; let through by the notify thread. */
typedef enum fast_stage { FAST_FRESH, FAST_COPIED_UP, FAST_LET_THROUGH } fast_stage;

typedef struct fast_relay fast_relay;
typedef struct fast_notify fast_notify;

struct img_fastpath {
    img_tree *tree;
    img_upper *upper;
    img_stats *stats;
    img_fastpath_options options;
    fast_relay *relay; /* NULL: nobody there */
    fast_notify *notify;
    struct fast_loop *loop;
    bool setxattr_ext; /* FUSE_SETXATTR_EXT: struct fuse_setxattr_in is whole */
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
    uint64_t wanted; /* with FAST_COPY_UP_DATA and FAST_COPY_UP_ATTRIBUTES: the node to bring up */
    int error;       /* what was answered: 0 or a positive errno */
} fast_request;

/* ---- fastrequest.c ---- */
/* Handles one message; it may be kept (copied) for later. */
void fast_handle(img_fastpath *path, int fd, char *message, size_t size, char *out);
/* Runs a request once more. error: why it was in vain (Python could not prepare), 0 or negative. */
void fast_resume(img_fastpath *path, int fd, char *message, size_t size, char *out, uint64_t start,
                 fast_stage stage, int error);
/* Sends an answer. 0, or a negative errno of the device. */
int fast_reply(fast_request *req, const void *body, size_t size);
int fast_reply_error(fast_request *req, int negative);
/* Whether an answer says that the upper has no room. */
bool fast_is_full(int result);
/* Counts and logs a request that breaks the protocol: -EINVAL. */
int fast_malformed(const fast_request *req, const char *why);
void fast_log(img_fastpath *path, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- handlers ---- */
typedef int fast_handler(fast_request *req);
fast_handler fast_lookup, fast_getattr, fast_statx, fast_readlink, fast_access, fast_readdir,
    fast_readdirplus, fast_statfs, fast_getxattr, fast_listxattr, fast_forget, fast_batch_forget;
fast_handler fast_read, fast_write, fast_fsync, fast_syncfs, fast_lseek, fast_fallocate,
    fast_copy_range, fast_copy_range_64;
fast_handler fast_create, fast_mknod, fast_mkdir, fast_symlink, fast_link, fast_unlink, fast_rmdir,
    fast_rename, fast_rename2, fast_setattr, fast_tmpfile, fast_setxattr, fast_removexattr;

img_caller fast_caller(const fast_request *req);
/* R. */
void fast_fill_attr(const img_tree *tree, img_id id, struct fuse_attr *attr);
/* R, or the node is remembered already. Remembers it and fills the entry. */
int fast_entry(fast_request *req, img_id id, struct fuse_entry_out *entry);
/* A NUL-terminated name at *at; NULL when there is none. Moves *at behind it. */
const char *fast_name(const fast_request *req, size_t *at, size_t *len);

/* ---- fastloop.c ---- */
/* Call before what may wait: somebody else reads the device meanwhile. */
void fast_will_wait(img_fastpath *path);

/* A short pause for a thread that spins. */
void fast_relax(void);

/* ---- fastrelay.c ---- */
fast_relay *fast_relay_start(img_fastpath *path, int fd, img_error *err);
/* Fails what waits for an answer, and what comes later; waits for its thread. */
void fast_relay_end(fast_relay *relay);
void fast_relay_free(fast_relay *relay);
/* Sends the message to pyfuse3 and keeps it; its answer goes to fd. A negative errno when it
 * cannot (EIO: nobody is there any more). */
int fast_relay_send(fast_relay *relay, int fd, const char *message, size_t size, uint64_t start,
                    fast_need need, uint64_t node);

/* ---- notify.c ---- */
fast_notify *fast_notify_start(img_fastpath *path, img_error *err);
/* Waits for its thread, while requests are still answered; what comes after is not taken. */
void fast_notify_stop(fast_notify *notify);
void fast_notify_free(fast_notify *notify);
/* Before an answer that lets a program see or change the node's pages: nothing is pushed into them
 * from here on. */
void fast_notify_stop_pushing(fast_notify *notify, img_id id);
/* Whether something is being pushed into the node: then its size must not change. */
bool fast_notify_is_pushing(const fast_notify *notify, img_id id);
/* Has the request run again by the notify thread, after what it is doing (and, with flush, after
 * the kernel has written back what it holds of the node). A negative errno when it cannot. */
int fast_notify_defer(fast_notify *notify, const fast_request *req, bool flush);
/* A file of a layer was read, a directory was listed: what comes next may be pushed. */
void fast_notify_read(fast_notify *notify, img_id id);
void fast_notify_listed(fast_notify *notify, img_id dir, uint32_t from_cookie);

#endif
