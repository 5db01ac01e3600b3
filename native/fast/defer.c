/* defer.c: requests that the notify thread runs, because they wait for the kernel's page locks. */
#include "fast/defer.h"

#include "fast/fastrequest.h"
#include "fast/notify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fast_deferred {
    fast_deferred *next;
    int fd;
    bool write_back;
    uint64_t start;
    size_t size;
    char message[];
};

int fast_defer(fast_notify *notify, const fast_request *req, bool write_back) {
    size_t size = sizeof *req->in + req->arg_len;
    fast_deferred *one = malloc(sizeof *one + size);
    if (!one)
        return -ENOMEM;
    *one =
        (fast_deferred){.fd = req->fd, .write_back = write_back, .start = req->start, .size = size};
    memcpy(one->message, req->in, size);
    (void)pthread_mutex_lock(&notify->mutex);
    bool taken = !notify->stopping;
    if (taken) {
        *notify->queue.last = one;
        notify->queue.last = &one->next;
        (void)pthread_cond_signal(&notify->wake);
    }
    (void)pthread_mutex_unlock(&notify->mutex);
    if (!taken)
        free(one);
    return taken ? 0 : -EIO;
}

fast_deferred *fast_defer_take(fast_queue *queue) {
    fast_deferred *one = queue->first;
    if (one) {
        queue->first = one->next;
        if (!queue->first)
            queue->last = &queue->first;
    }
    return one;
}

/* Has the kernel write back its dirty pages of the inode and drop all of them. */
static void write_back_pages(fast_notify *notify, uint64_t nodeid) {
    struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out inode;
    } message = {
        .header = {.len = sizeof message, .error = FUSE_NOTIFY_INVAL_INODE},
        .inode = {.ino = nodeid, .off = 0, .len = 0}, /* len 0: to the end */
    };
    (void)!write(notify->fd, &message, sizeof message);
}

void fast_defer_run(fast_notify *notify, fast_deferred *one) {
    const struct fuse_in_header *in = (const void *)one->message;
    if (one->write_back)
        write_back_pages(notify, in->nodeid);
    fast_resume(notify->path, one->fd, one->message, one->size, notify->out, one->start,
                FAST_LET_THROUGH, notify->stopping ? -EIO : 0);
    free(one);
}
