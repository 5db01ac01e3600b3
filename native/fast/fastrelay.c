/* fastrelay.c: sends requests to pyfuse3, and its answers to the kernel.
 *
 * libfuse gets a session of its own: first an INIT that is made up here (so that libfuse asks for
 * no larger messages than a socket carries), then requests as the kernel sent them.  Until its
 * answer comes, a request is kept in a table under its number (`unique`), with the descriptor that
 * the answer goes to.
 *
 * To have a node copied up, libfuse is sent an OPEN under the number of the request that needs it:
 * O_RDWR copies it up with its data, O_WRONLY at least its attributes.  When the OPEN is answered,
 * the request itself is run here.  The kernel's own OPENs never get here (fastrequest.c), so every
 * OPEN means this.
 *
 * No thread waits for space in the socket: messages that do not fit are queued.  The queue cannot
 * be longer than the number of requests that the kernel has sent.
 */
#include "fast/fastrelay.h"

#include "fast/fastrequest.h"
#include "fast/push.h"
#include "upper/upperdir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOTS = 256, LIBFUSE_MINOR = 31, SOCKET_MOST = 1 << 17, INIT_UNIQUE = 1 };

typedef struct pending {
    struct pending *next;      /* in its slot */
    struct pending *next_sent; /* in the queue, until it is sent */
    uint64_t unique, start;
    int fd;
    fast_need need;
    bool queued;
    bool again;    /* it was sent a second time, because the upper was full */
    uint64_t node; /* to copy up, unless need is FAST_NOTHING */
    size_t size;
    char message[]; /* as the kernel sent it */
} pending;

struct fast_relay {
    img_fastpath *path;
    int fd, wake_fd;
    pthread_t thread;
    pthread_mutex_t mutex; /* of the table and the queue */
    pending *slots[SLOTS];
    pending *queue, **queue_end;
    bool gone; /* there is no pyfuse3 any more */
    bool stopping;
    bool ended; /* the thread was waited for */
    char *out, *in;
};

/* ---- sending ------------------------------------------------------------------------------ */

typedef struct copy_up_message {
    struct fuse_in_header header;
    struct fuse_open_in open;
} copy_up_message;

static ssize_t send_one(fast_relay *relay, const pending *one) {
    if (one->need == FAST_NOTHING)
        return send(relay->fd, one->message, one->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    const struct fuse_in_header *in = (const void *)one->message;
    copy_up_message message = {.header = *in, .open = {.flags = O_RDWR}};
    if (one->need == FAST_ATTRIBUTES)
        message.open.flags = O_WRONLY;
    message.header.len = sizeof message;
    message.header.opcode = FUSE_OPEN;
    message.header.nodeid = one->node;
    return send(relay->fd, &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Mutex held. Sends as much of the queue as fits; false when the socket's other end is closed. */
static bool flush(fast_relay *relay) {
    while (relay->queue) {
        pending *one = relay->queue;
        if (send_one(relay, one) < 0)
            return errno == EAGAIN || errno == ENOBUFS;
        one->queued = false;
        relay->queue = one->next_sent;
        if (!relay->queue)
            relay->queue_end = &relay->queue;
    }
    return true;
}

static pending **slot_of(fast_relay *relay, uint64_t unique) {
    return &relay->slots[unique * 0x9e3779b97f4a7c15u >> 56];
}

static void wake(fast_relay *relay) {
    uint64_t one = 1;
    (void)!write(relay->wake_fd, &one, sizeof one);
}

/* Sends the request now or later. -EIO when there is no pyfuse3 any more. */
static int put(fast_relay *relay, pending *one) {
    (void)pthread_mutex_lock(&relay->mutex);
    if (relay->gone) {
        (void)pthread_mutex_unlock(&relay->mutex);
        return -EIO;
    }
    pending **slot = slot_of(relay, one->unique);
    one->next = *slot;
    *slot = one;
    one->queued = true;
    one->next_sent = NULL;
    *relay->queue_end = one;
    relay->queue_end = &one->next_sent;
    bool there = flush(relay);
    bool full = relay->queue;
    (void)pthread_mutex_unlock(&relay->mutex);
    if (full || !there)
        wake(relay); /* the thread waits for space in the socket, or ends the relay */
    return 0;
}

int fast_relay_send(fast_relay *relay, int fd, const char *message, size_t size, uint64_t start,
                    fast_need need, uint64_t node) {
    if (need == FAST_NOTHING && size > SOCKET_MOST)
        return -EMSGSIZE;
    pending *one = malloc(sizeof *one + size);
    if (!one)
        return -ENOMEM;
    *one = (pending){.start = start, .fd = fd, .need = need, .node = node, .size = size};
    memcpy(one->message, message, size);
    one->unique = ((const struct fuse_in_header *)(const void *)one->message)->unique;
    int failed = put(relay, one);
    if (failed)
        free(one);
    return failed;
}

/* ---- answers ------------------------------------------------------------------------------ */

static pending *take(fast_relay *relay, uint64_t unique) {
    (void)pthread_mutex_lock(&relay->mutex);
    pending **at = slot_of(relay, unique), *one;
    while ((one = *at) && (one->unique != unique || one->queued))
        at = &one->next;
    if (one)
        *at = one->next;
    (void)pthread_mutex_unlock(&relay->mutex);
    return one;
}

/* The node for which an answer counts one lookup more; 0 when there is none. */
static uint64_t looked_up_node(uint32_t opcode, const char *answer, size_t size) {
    const struct fuse_entry_out *entry = (const void *)(answer + sizeof(struct fuse_out_header));
    bool tells = opcode == FUSE_LOOKUP || opcode == FUSE_MKNOD || opcode == FUSE_MKDIR ||
                 opcode == FUSE_SYMLINK || opcode == FUSE_LINK || opcode == FUSE_CREATE ||
                 opcode == FUSE_TMPFILE;
    return tells && size >= sizeof(struct fuse_out_header) + sizeof *entry ? entry->nodeid : 0;
}

/* Puts st_ino into an answer, because pyfuse3 has only one number for nodeid and st_ino. node: from
 * looked_up_node. */
static void set_ino(img_tree *tree, const struct fuse_in_header *in, uint64_t node, char *answer,
                    size_t size) {
    struct fuse_entry_out *entry = (void *)(answer + sizeof(struct fuse_out_header));
    struct fuse_attr_out *attr = (void *)(answer + sizeof(struct fuse_out_header));
    bool attributes = in->opcode == FUSE_SETATTR || in->opcode == FUSE_GETATTR;
    if (!node && (!attributes || size < sizeof(struct fuse_out_header) + sizeof *attr))
        return;
    (void)pthread_rwlock_rdlock(&tree->lock);
    const img_node *found = img_tree_node(tree, node ? node : in->nodeid);
    if (found && node)
        entry->attr.ino = img_node_ino(found, (img_id)node);
    else if (found)
        attr->attr.ino = img_node_ino(found, (img_id)in->nodeid);
    (void)pthread_rwlock_unlock(&tree->lock);
}

static void pass_on(fast_relay *relay, const pending *one, char *answer, size_t size) {
    const struct fuse_in_header *in = (const void *)one->message;
    const struct fuse_out_header *out = (const void *)answer;
    uint64_t node = out->error ? 0 : looked_up_node(in->opcode, answer, size);
    if (!out->error)
        set_ino(relay->path->tree, in, node, answer, size);
    if (node && node <= UINT32_MAX)
        fast_push_stop(relay->path->notify, (img_id)node);
    if (write(one->fd, answer, size) < 0 && node)
        img_forget(relay->path->tree, relay->path->upper, node, 1);
    img_stats_add(relay->path->stats, IMG_DOOR_PYTHON, in->opcode, img_stats_now() - one->start,
                  out->error != 0, 0);
}

static void answered(fast_relay *relay, char *answer, size_t size) {
    struct fuse_out_header out;
    if (size < sizeof out)
        return;
    memcpy(&out, answer, sizeof out);
    pending *one = take(relay, out.unique);
    if (!one)
        return; /* the answer to the INIT */
    if (fast_is_full(out.error) && !one->again && relay->path->upper) {
        one->again = true;
        if (img_upper_await_release(relay->path->upper, true) && put(relay, one) == 0)
            return;
    }
    if (one->need != FAST_NOTHING)
        fast_resume(relay->path, one->fd, one->message, one->size, relay->out, one->start,
                    FAST_COPIED_UP, out.error);
    else
        pass_on(relay, one, answer, size);
    free(one);
}

static void fail_all(fast_relay *relay) {
    (void)pthread_mutex_lock(&relay->mutex);
    relay->gone = true;
    relay->queue = NULL;
    relay->queue_end = &relay->queue;
    for (size_t i = 0; i < SLOTS; i++)
        while (relay->slots[i]) {
            pending *one = relay->slots[i];
            relay->slots[i] = one->next;
            struct fuse_out_header out = {.len = sizeof out, .error = -EIO, .unique = one->unique};
            (void)!write(one->fd, &out, sizeof out);
            free(one);
        }
    (void)pthread_mutex_unlock(&relay->mutex);
}

/* ---- the thread --------------------------------------------------------------------------- */

static bool stopping(fast_relay *relay, short *events) {
    (void)pthread_mutex_lock(&relay->mutex);
    bool there = flush(relay);
    *events = (short)(POLLIN | (relay->queue ? POLLOUT : 0));
    bool stop = relay->stopping || !there;
    (void)pthread_mutex_unlock(&relay->mutex);
    return stop;
}

static void *relay_main(void *arg) {
    fast_relay *relay = arg;
    struct pollfd fds[2] = {{.fd = relay->fd}, {.fd = relay->wake_fd, .events = POLLIN}};
    while (!stopping(relay, &fds[0].events)) {
        uint64_t drained;
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[1].revents)
            (void)!read(relay->wake_fd, &drained, sizeof drained);
        ssize_t n = recv(relay->fd, relay->in, SOCKET_MOST, MSG_DONTWAIT);
        if (n > 0)
            answered(relay, relay->in, (size_t)n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            break; /* the session at the other end is over */
    }
    fail_all(relay);
    return NULL;
}

/* ---- life --------------------------------------------------------------------------------- */

/* Sends an INIT as the kernels sent it that libfuse 3.14 was made for. */
static int send_init(fast_relay *relay) {
    struct {
        struct fuse_in_header header;
        struct fuse_init_in init;
    } message = {
        .header = {.len = sizeof message, .opcode = FUSE_INIT, .unique = INIT_UNIQUE},
        .init = {.major = FUSE_KERNEL_VERSION,
                 .minor = LIBFUSE_MINOR,
                 .max_readahead = 4096,
                 .flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS |
                          FUSE_WRITEBACK_CACHE | FUSE_PARALLEL_DIROPS | FUSE_POSIX_ACL |
                          FUSE_DONT_MASK | FUSE_EXPORT_SUPPORT},
    };
    return send(relay->fd, &message, sizeof message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void relay_free(fast_relay *relay) {
    if (relay->wake_fd >= 0)
        close(relay->wake_fd);
    free(relay->in);
    free(relay->out);
    pthread_mutex_destroy(&relay->mutex);
    free(relay);
}

fast_relay *fast_relay_start(img_fastpath *path, int fd, img_error *err) {
    fast_relay *relay = calloc(1, sizeof *relay);
    if (!relay) {
        (void)img_fail(err, ENOMEM, "out of memory");
        return NULL;
    }
    relay->path = path;
    relay->fd = fd;
    relay->queue_end = &relay->queue;
    relay->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    relay->in = malloc(SOCKET_MOST);
    relay->out = malloc(FAST_BUFFER);
    pthread_mutex_init(&relay->mutex, NULL);
    int failed = relay->wake_fd < 0 ? errno : !relay->in || !relay->out ? ENOMEM : 0;
    if (!failed)
        failed = -send_init(relay);
    if (!failed)
        failed = pthread_create(&relay->thread, NULL, relay_main, relay);
    if (!failed)
        return relay;
    (void)img_fail(err, failed, "the socket to pyfuse3: %s", strerror(failed));
    relay_free(relay);
    return NULL;
}

void fast_relay_end(fast_relay *relay) {
    if (!relay || relay->ended)
        return;
    relay->ended = true;
    (void)pthread_mutex_lock(&relay->mutex);
    relay->stopping = true;
    (void)pthread_mutex_unlock(&relay->mutex);
    wake(relay);
    (void)pthread_join(relay->thread, NULL);
}

void fast_relay_free(fast_relay *relay) {
    if (relay)
        relay_free(relay);
}
