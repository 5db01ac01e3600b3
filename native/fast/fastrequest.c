/* fastrequest.c: checks one request, has its handler answer it, and counts it. */
#include "fast/fastrequest.h"

#include "fast/fastfile.h"
#include "fast/fastlook.h"
#include "fast/fastloop.h"
#include "fast/fastname.h"
#include "fast/fastrelay.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static void __attribute__((format(printf, 2, 3)))
log_line(img_fastpath *path, const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n < 0 || path->options.log_fd < 0)
        return;
    size_t len = (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
    line[len++] = '\n';
    /* If the pipe is full, this line of the log is lost. */
    (void)!write(path->options.log_fd, line, len);
}

/* ---- answers ------------------------------------------------------------------------------ */

static int send_answer(fast_request *req, int error, const void *body, size_t size) {
    struct fuse_out_header out = {
        .len = (uint32_t)(sizeof out + size), .error = error, .unique = req->in->unique};
    struct iovec iov[2] = {{&out, sizeof out}, {(void *)(uintptr_t)body, size}};
    req->error = -error;
    return writev(req->fd, iov, size ? 2 : 1) < 0 ? -errno : 0;
}

int fast_reply(fast_request *req, const void *body, size_t size) {
    return send_answer(req, 0, body, size);
}

static int reply_error(fast_request *req, int negative) {
    return send_answer(req, negative, NULL, 0);
}

/* ---- INIT, and requests that are all answered alike --------------------------------------- */

static int init(fast_request *req) {
    /* NO_OPEN, NO_OPENDIR: there are no open files here, only nodes.  WRITEBACK_CACHE: the kernel
     * caches writes.  EXPORT_SUPPORT: file handles stay good after the kernel has forgotten a node,
     * because nodeid and generation together never name another file (tree.h).  ASYNC_DIO is not
     * asked for: after a direct write the kernel drops the outdated pages of its cache only if the
     * write was synchronous. */
    static const uint64_t wanted =
        FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_DO_READDIRPLUS |
        FUSE_WRITEBACK_CACHE | FUSE_NO_OPEN_SUPPORT | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
        FUSE_CACHE_SYMLINKS | FUSE_NO_OPENDIR_SUPPORT | FUSE_HANDLE_KILLPRIV_V2 |
        FUSE_EXPORT_SUPPORT | FUSE_SETXATTR_EXT | FUSE_INIT_EXT;
    struct fuse_init_in in = {0};
    if (req->arg_len < offsetof(struct fuse_init_in, flags2))
        return -EPROTO;
    memcpy(&in, req->arg, req->arg_len < sizeof in ? req->arg_len : sizeof in);
    if (in.major != FUSE_KERNEL_VERSION || in.minor < 34) {
        log_line(req->path,
                 "the kernel's FUSE is %u.%u; the fast path needs 7.34 (Linux 5.14): "
                 "use -o fastpath=off",
                 in.major, in.minor);
        return -EPROTO;
    }
    uint64_t offered = in.flags | (in.flags & FUSE_INIT_EXT ? (uint64_t)in.flags2 << 32 : 0);
    uint64_t asked = wanted | (req->path->options.default_permissions ? FUSE_POSIX_ACL : 0);
    uint64_t flags = offered & asked;
    req->path->setxattr_ext = flags & FUSE_SETXATTR_EXT;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = FUSE_KERNEL_MINOR_VERSION,
        .max_readahead = in.max_readahead,
        .flags = (uint32_t)flags,
        .flags2 = (uint32_t)(flags >> 32),
        .max_background = 64,
        .congestion_threshold = 48,
        .max_write = FAST_MAX_WRITE,
        .time_gran = 1,
        .max_pages = (uint16_t)(FAST_MAX_WRITE / sysconf(_SC_PAGESIZE)),
    };
    return fast_reply(req, &out, sizeof out);
}

static int nothing(fast_request *req) {
    return fast_reply(req, NULL, 0);
}

static int silent(fast_request *req) {
    (void)req; /* INTERRUPT: no operation here waits for long, so none is interrupted */
    return FAST_SILENT;
}

static int no_such(fast_request *req) {
    (void)req; /* after one such answer the kernel no longer sends the operation */
    return -ENOSYS;
}

static int no_ioctl(fast_request *req) {
    (void)req;
    return -ENOTTY;
}

/* ---- dispatch ----------------------------------------------------------------------------- */

typedef struct operation {
    fast_handler *handler;
    uint16_t least; /* bytes after the header */
} operation;

static const operation operations[] = {
    [FUSE_LOOKUP] = {fast_lookup, 2},
    [FUSE_FORGET] = {fast_forget, sizeof(struct fuse_forget_in)},
    [FUSE_BATCH_FORGET] = {fast_batch_forget, sizeof(struct fuse_batch_forget_in)},
    [FUSE_GETATTR] = {fast_getattr, 0},
    [WIRE_STATX] = {fast_statx, sizeof(wire_statx_in)},
    [FUSE_SETATTR] = {fast_setattr, sizeof(struct fuse_setattr_in)},
    [FUSE_READLINK] = {fast_readlink, 0},
    [FUSE_SYMLINK] = {fast_symlink, 4},
    [FUSE_MKNOD] = {fast_mknod, sizeof(struct fuse_mknod_in) + 2},
    [FUSE_MKDIR] = {fast_mkdir, sizeof(struct fuse_mkdir_in) + 2},
    [FUSE_UNLINK] = {fast_unlink, 2},
    [FUSE_RMDIR] = {fast_rmdir, 2},
    [FUSE_RENAME] = {fast_rename, sizeof(struct fuse_rename_in) + 4},
    [FUSE_RENAME2] = {fast_rename2, sizeof(struct fuse_rename2_in) + 4},
    [FUSE_LINK] = {fast_link, sizeof(struct fuse_link_in) + 2},
    [FUSE_OPEN] = {no_such, 0},
    [FUSE_OPENDIR] = {no_such, 0},
    [FUSE_READ] = {fast_read, sizeof(struct fuse_read_in)},
    [FUSE_WRITE] = {fast_write, sizeof(struct fuse_write_in)},
    [FUSE_STATFS] = {fast_statfs, 0},
    [FUSE_RELEASE] = {nothing, 0}, /* of a file that was created before the first OPEN */
    [FUSE_RELEASEDIR] = {nothing, 0},
    [FUSE_FSYNC] = {fast_fsync, sizeof(struct fuse_fsync_in)},
    [FUSE_FSYNCDIR] = {fast_fsync, sizeof(struct fuse_fsync_in)},
    [FUSE_SETXATTR] = {fast_setxattr, FUSE_COMPAT_SETXATTR_IN_SIZE + 2},
    [FUSE_REMOVEXATTR] = {fast_removexattr, 2},
    [FUSE_GETXATTR] = {fast_getxattr, sizeof(struct fuse_getxattr_in) + 2},
    [FUSE_LISTXATTR] = {fast_listxattr, sizeof(struct fuse_getxattr_in)},
    [FUSE_FLUSH] = {no_such, 0},
    [FUSE_INIT] = {init, 0},
    [FUSE_READDIR] = {fast_readdir, sizeof(struct fuse_read_in)},
    [FUSE_READDIRPLUS] = {fast_readdirplus, sizeof(struct fuse_read_in)},
    [FUSE_ACCESS] = {fast_access, sizeof(struct fuse_access_in)},
    [FUSE_CREATE] = {fast_create, sizeof(struct fuse_create_in) + 2},
    [FUSE_TMPFILE] = {fast_tmpfile, sizeof(struct fuse_create_in)},
    [FUSE_INTERRUPT] = {silent, 0},
    [FUSE_DESTROY] = {nothing, 0},
    [FUSE_IOCTL] = {no_ioctl, 0},
    [FUSE_FALLOCATE] = {fast_fallocate, sizeof(struct fuse_fallocate_in)},
    [FUSE_LSEEK] = {fast_lseek, sizeof(struct fuse_lseek_in)},
    [FUSE_COPY_FILE_RANGE] = {fast_copy_range, sizeof(struct fuse_copy_file_range_in)},
    [WIRE_COPY_FILE_RANGE_64] = {fast_copy_range_64, sizeof(struct fuse_copy_file_range_in)},
    [FUSE_SYNCFS] = {fast_syncfs, 0},
};

static const operation *operation_of(uint32_t opcode) {
    bool known = opcode < sizeof operations / sizeof *operations && operations[opcode].handler;
    return known ? &operations[opcode] : NULL;
}

static void count(const fast_request *req) {
    img_stats_add(req->path->stats, IMG_DOOR_NATIVE, req->in->opcode, img_stats_now() - req->start,
                  req->error != 0, req->bytes);
}

/* Gives a SETXATTR the form that it had before FUSE_SETXATTR_EXT: libfuse 3.14 expects that one. */
static size_t shorten_setxattr(char *message, size_t size) {
    const size_t new_end = sizeof(struct fuse_in_header) + sizeof(struct fuse_setxattr_in);
    const size_t old_end = sizeof(struct fuse_in_header) + FUSE_COMPAT_SETXATTR_IN_SIZE;
    memmove(message + old_end, message + new_end, size - new_end);
    struct fuse_in_header *in = (void *)message;
    in->len = (uint32_t)(size - (new_end - old_end));
    return in->len;
}

/* Sends a request that a handler declined to Python. how: FAST_RELAY or one of FAST_COPY_UP_. */
static void decline(fast_request *req, int how) {
    img_fastpath *path = req->path;
    fast_need need = how == FAST_COPY_UP_DATA         ? FAST_DATA
                     : how == FAST_COPY_UP_ATTRIBUTES ? FAST_ATTRIBUTES
                                                      : FAST_NOTHING;
    char *message = (char *)(uintptr_t)req->in; /* the thread's own buffer */
    size_t size = sizeof *req->in + req->arg_len;
    if (need == FAST_DATA)
        img_stats_count(&path->stats->copy_up_waits, 1);
    if (need == FAST_NOTHING && req->in->opcode == FUSE_SETXATTR && path->setxattr_ext)
        size = shorten_setxattr(message, size);
    int failed = path->relay ? fast_relay_send(path->relay, req->fd, message, size, req->start,
                                               need, req->wanted)
                             : -ENOSYS;
    if (failed) {
        (void)reply_error(req, failed);
        count(req);
    }
}

bool fast_is_full(int result) {
    return result == -ENOSPC || result == -EDQUOT;
}

static bool is_for_xattrs(uint32_t opcode) {
    return opcode == FUSE_GETXATTR || opcode == FUSE_LISTXATTR || opcode == FUSE_SETXATTR ||
           opcode == FUSE_REMOVEXATTR;
}

static void dispatch(fast_request *req) {
    const operation *op = operation_of(req->in->opcode);
    int result;
    if (!op) {
        /* A newer kernel tries each new operation once, so this is no error. */
        img_stats_count(&req->path->stats->malformed, 1);
        log_line(req->path, "request %u is not known: ENOSYS", req->in->opcode);
        result = -ENOSYS;
    } else if (req->arg_len < op->least) {
        img_stats_count(&req->path->stats->malformed, 1);
        log_line(req->path, "request %u is %zu bytes short: EINVAL", req->in->opcode,
                 op->least - req->arg_len);
        result = -EINVAL;
    } else if (req->in->nodeid > UINT32_MAX) {
        result = -ESTALE; /* no node has such a number */
    } else if (req->path->options.no_xattrs && is_for_xattrs(req->in->opcode)) {
        result = -ENOSYS;
    } else {
        result = op->handler(req);
        if (fast_is_full(result) && req->path->upper) {
            fast_will_wait(req->path);
            if (img_upper_await_release(req->path->upper, false))
                result = op->handler(req);
        }
    }
    if (result == FAST_RELAY || result == FAST_COPY_UP_DATA || result == FAST_COPY_UP_ATTRIBUTES) {
        /* Python has copied up, and still the node is not in the upper: it was removed since, or
         * it cannot be copied up. */
        if (req->stage == FAST_COPIED_UP && result != FAST_RELAY)
            (void)reply_error(req, -EIO);
        else {
            decline(req, result);
            return;
        }
    }
    if (result == FAST_SILENT)
        return;
    if (result < 0)
        (void)reply_error(req, result);
    count(req);
}

void fast_handle(img_fastpath *path, int fd, char *message, size_t size, char *out) {
    fast_request req = {.path = path, .fd = fd, .out = out, .start = img_stats_now()};
    req.in = (const struct fuse_in_header *)(const void *)message;
    if (size < sizeof *req.in || req.in->len != size) {
        img_stats_count(&path->stats->malformed, 1);
        log_line(path, "a request of %zu bytes that says it has %u: dropped", size,
                 size < sizeof *req.in ? 0 : req.in->len);
        return;
    }
    req.arg = message + sizeof *req.in;
    req.arg_len = size - sizeof *req.in;
    dispatch(&req);
}

void fast_resume(img_fastpath *path, int fd, char *message, size_t size, char *out, uint64_t start,
                 fast_stage stage, int error) {
    fast_request req = {.path = path, .fd = fd, .out = out, .start = start, .stage = stage};
    req.in = (const struct fuse_in_header *)(const void *)message;
    req.arg = message + sizeof *req.in;
    req.arg_len = size - sizeof *req.in;
    if (error) {
        (void)reply_error(&req, error);
        count(&req);
    } else {
        dispatch(&req);
    }
}

int fast_malformed(const fast_request *req, const char *why) {
    img_stats_count(&req->path->stats->malformed, 1);
    log_line(req->path, "request %u: %s: EINVAL", req->in->opcode, why);
    return -EINVAL;
}

const char *fast_name(const fast_request *req, size_t *at, size_t *len) {
    const char *name = req->arg + *at;
    const char *end = memchr(name, '\0', req->arg_len - *at);
    if (!end) {
        (void)fast_malformed(req, "a name has no end");
        return NULL;
    }
    *len = (size_t)(end - name);
    *at += *len + 1;
    return name;
}

img_caller fast_caller(const fast_request *req) {
    return (img_caller){.uid = req->in->uid, .gid = req->in->gid, .pid = req->in->pid};
}
