/* fastfile.c: reads and changes contents: READ, WRITE, FSYNC, LSEEK, FALLOCATE, COPY_FILE_RANGE. */
#define _GNU_SOURCE /* preadv2, syncfs */
#include "fast/fastfile.h"

#include "fast/defer.h"
#include "fast/fastloop.h"
#include "fast/fastrequest.h"
#include "fast/push.h"
#include "tree/content.h"
#include "upper/changedata.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* One COPY_FILE_RANGE copies at most this many bytes. The caller asks again for the rest; other
 * requests come in between. */
#define COPY_MOST (16u << 20)

/* ---- READ --------------------------------------------------------------------------------- */

static ssize_t read_upper(fast_request *req, uint64_t offset, size_t size) {
    img_upper *upper = req->path->upper;
    img_id id = (img_id)req->in->nodeid;
    int fd = img_upper_pin(upper, id);
    if (fd < 0)
        return fd;
    struct iovec iov = {req->out, size};
    ssize_t n = preadv2(fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
    if (n < 0 || (size_t)n < size) {
        fast_will_wait(req->path);
        do
            n = pread(fd, req->out, size, (off_t)offset);
        while (n < 0 && errno == EINTR);
        n = n < 0 ? -errno : n;
    }
    img_upper_unpin(upper, id);
    return n;
}

static ssize_t read_layer(fast_request *req, const img_content *content, uint64_t offset,
                          size_t size) {
    fast_push_stop(req->path->notify, (img_id)req->in->nodeid);
    ssize_t n = img_content_read_now(content, offset, req->out, size);
    if (n == -EAGAIN) {
        fast_will_wait(req->path);
        n = img_content_read(content, offset, req->out, size);
    }
    return n;
}

int fast_read(fast_request *req) {
    const struct fuse_read_in *in = (const void *)req->arg;
    img_tree *tree = req->path->tree;
    img_content content = {0};
    bool in_upper = false;
    size_t size = in->size < FAST_MAX_WRITE ? in->size : FAST_MAX_WRITE;
    (void)pthread_rwlock_rdlock(&tree->lock);
    const img_node *node = img_tree_node(tree, req->in->nodeid);
    int result = !node                 ? -ESTALE
                 : S_ISDIR(node->mode) ? -EISDIR
                 : S_ISREG(node->mode) ? 0
                                       : -EINVAL;
    if (!result) {
        in_upper = img_node_data_in_upper(node);
        if (!in_upper && node->layer == IMG_LAYER_UPPER)
            result = -EIO;
        else if (!in_upper)
            content = img_content_of(tree, node);
    }
    (void)pthread_rwlock_unlock(&tree->lock);
    if (result)
        return result;
    ssize_t n =
        in_upper ? read_upper(req, in->offset, size) : read_layer(req, &content, in->offset, size);
    if (n < 0)
        return (int)n;
    req->bytes = (uint64_t)n;
    (void)fast_reply(req, req->out, (size_t)n);
    if (!in_upper)
        fast_push_was_read(req->path->notify, (img_id)req->in->nodeid);
    return 0;
}

/* ---- WRITE and the other operations ------------------------------------------------------- */

static int no_upper(fast_request *req) {
    return req->path->upper ? 0 : -EROFS;
}

static int copy_up_data(fast_request *req, uint64_t id) {
    req->wanted = id;
    return FAST_COPY_UP_DATA;
}

int fast_write(fast_request *req) {
    const struct fuse_write_in *in = (const void *)req->arg;
    if (in->size > req->arg_len - sizeof *in)
        return fast_malformed(req, "its data are cut");
    int result = no_upper(req);
    if (result)
        return result;
    fast_push_stop(req->path->notify, (img_id)req->in->nodeid);
    if (in->size > 65536)
        fast_will_wait(req->path); /* the upper's file system may throttle writers */
    img_caller caller = fast_caller(req);
    ssize_t n = img_write(req->path->upper, (img_id)req->in->nodeid, in->offset,
                          req->arg + sizeof *in, in->size, in->write_flags & FUSE_WRITE_CACHE,
                          in->write_flags & FUSE_WRITE_KILL_SUIDGID ? &caller : NULL);
    if (n == IMG_WRITE_DECLINED)
        return copy_up_data(req, req->in->nodeid);
    if (n < 0)
        return (int)n;
    struct fuse_write_out out = {.size = (uint32_t)n};
    req->bytes = (uint64_t)n;
    return fast_reply(req, &out, sizeof out);
}

int fast_fsync(fast_request *req) {
    const struct fuse_fsync_in *in = (const void *)req->arg;
    if (!req->path->upper)
        return fast_reply(req, NULL, 0);
    fast_will_wait(req->path);
    int result =
        img_sync(req->path->upper, (img_id)req->in->nodeid, in->fsync_flags & FUSE_FSYNC_FDATASYNC);
    return result ? result : fast_reply(req, NULL, 0);
}

int fast_syncfs(fast_request *req) {
    bool skip = req->path->upper && req->path->upper->options.no_sync;
    if (req->path->options.upper_fd >= 0 && !skip) {
        fast_will_wait(req->path);
        if (syncfs(req->path->options.upper_fd) < 0)
            return -errno;
    }
    return fast_reply(req, NULL, 0);
}

int fast_lseek(fast_request *req) {
    const struct fuse_lseek_in *in = (const void *)req->arg;
    img_tree *tree = req->path->tree;
    img_content content = {0};
    struct fuse_lseek_out out = {0};
    int64_t found = -1;
    if (req->stage != FAST_LET_THROUGH) {
        /* The kernel sends LSEEK without writing back its dirty pages first; have it do so. */
        int failed = fast_defer(req->path->notify, req, true);
        return failed ? failed : FAST_SILENT;
    }
    if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
        return -EINVAL;
    (void)pthread_rwlock_rdlock(&tree->lock);
    const img_node *node = img_tree_node(tree, req->in->nodeid);
    bool in_upper = node && img_node_data_in_upper(node);
    int result = !node ? -ESTALE : !S_ISREG(node->mode) ? -EINVAL : 0;
    if (!result && !in_upper && node->layer == IMG_LAYER_UPPER)
        result = -EIO;
    if (!result && !in_upper)
        content = img_content_of(tree, node);
    (void)pthread_rwlock_unlock(&tree->lock);
    if (result)
        return result;
    if (in_upper) {
        int fd = img_upper_pin(req->path->upper, (img_id)req->in->nodeid);
        if (fd < 0)
            return fd;
        found = lseek(fd, (off_t)in->offset, (int)in->whence);
        found = found < 0 ? -errno : found;
        img_upper_unpin(req->path->upper, (img_id)req->in->nodeid);
    } else {
        found = img_content_seek(&content, in->offset, (int)in->whence);
    }
    out.offset = (uint64_t)found;
    return found < 0 ? (int)found : fast_reply(req, &out, sizeof out);
}

int fast_fallocate(fast_request *req) {
    const struct fuse_fallocate_in *in = (const void *)req->arg;
    int result = no_upper(req);
    if (result)
        return result;
    fast_push_stop(req->path->notify, (img_id)req->in->nodeid);
    fast_will_wait(req->path);
    img_caller caller = fast_caller(req);
    result = img_allocate(req->path->upper, (img_id)req->in->nodeid, (int)in->mode, in->offset,
                          in->length, img_caller_keeps_set_id(&caller) ? NULL : &caller);
    if (result == IMG_DECLINED)
        return copy_up_data(req, req->in->nodeid);
    return result ? result : fast_reply(req, NULL, 0);
}

static int copy_range(fast_request *req, ssize_t *copied) {
    const struct fuse_copy_file_range_in *in = (const void *)req->arg;
    int result = no_upper(req);
    if (result)
        return result;
    if (in->nodeid_out > UINT32_MAX)
        return -ESTALE;
    fast_push_stop(req->path->notify, (img_id)in->nodeid_out);
    fast_will_wait(req->path);
    img_caller caller = fast_caller(req);
    *copied = img_copy_range(req->path->upper, (img_id)req->in->nodeid, in->off_in,
                             (img_id)in->nodeid_out, in->off_out,
                             in->len < COPY_MOST ? in->len : COPY_MOST,
                             img_caller_keeps_set_id(&caller) ? NULL : &caller);
    if (*copied == IMG_WRITE_DECLINED)
        return copy_up_data(req, in->nodeid_out);
    if (*copied < 0)
        return (int)*copied;
    req->bytes = (uint64_t)*copied;
    return 0;
}

int fast_copy_range(fast_request *req) {
    ssize_t copied = 0;
    int result = copy_range(req, &copied);
    struct fuse_write_out out = {.size = (uint32_t)copied};
    return result ? result : fast_reply(req, &out, sizeof out);
}

int fast_copy_range_64(fast_request *req) {
    ssize_t copied = 0;
    int result = copy_range(req, &copied);
    wire_copy_file_range_out out = {.bytes_copied = (uint64_t)copied};
    return result ? result : fast_reply(req, &out, sizeof out);
}
