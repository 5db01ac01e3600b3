/* notify.c: the one thread that may wait for the kernel's page locks: pushing, and LSEEK.
 *
 * Why a thread of its own: FUSE_NOTIFY_STORE and FUSE_NOTIFY_INVAL_INODE wait for pages that a READ
 * or WRITE has locked, and those wait for an answer of ours.  A thread that answers them must never
 * wait for this one.
 *
 * Pushing.  When a file of a layer was read, the small files that follow it in its directory are
 * put into the kernel's page cache (NOTIFY_STORE), and so are those of the next directory that is
 * listed: a reader that walks on finds them there, and sends nothing.  Each READ gives credit for
 * BATCH_FILES files and BATCH_BYTES bytes, so what is pushed in vain is bounded.
 *
 * A store overwrites the page, be it dirty or not, so it must not happen once a program may have
 * changed it.  Pages become known to the kernel only by a READ, which we see, or by a store, of
 * which there is one a file; a write(2) to an inode is preceded by GETXATTR security.capability
 * (file_remove_privs; S_NOSEC is not set before that), and a shared mapping can only be written
 * where a page was read or stored.  All of these, and SETATTR of a size, FALLOCATE and
 * COPY_FILE_RANGE, "touch" the node before they are answered:
 *
 *     1. a node that was touched is not pushed (node.pages, and `current`, in an order in which
 *        one of the two sides sees the other);
 *     2. what is being pushed while it is touched stops at the next page: the buffer that the
 *        kernel copies from is taken away (mprotect).  The kernel takes hold of a page of the
 *        buffer only when it has locked the page that it copies to (fs/fuse/dev.c, fuse_copy_folio
 *        after filemap_grab_folio), so no store reaches a page after a READ of it was answered.
 *        To that end the data stand on a page boundary of the buffer;
 *     3. a store also raises the inode's size to its own end, before it copies: so SETATTR of a
 *        size waits until the node is not being pushed.
 */
#define _GNU_SOURCE
#include "fast/fast.h"
#include "tree/content.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE = 4096,
    PUSH_FILE = 128 * 1024, /* larger files profit from readahead anyway */
    BATCH_FILES = 256,
    BATCH_BYTES = 8 << 20,
    HINTS = 16,  /* a power of two */
    NOT_YET = 6, /* the kernel has not come to these entries of a listing: looks, 100 us apart */
    NOT_YET_NS = 100000,
    READER_NS = 200000000 /* a listing this long after a READ is no reader's */
};

/* node.pages: 0, or why the node is not pushed (any more) */
enum { TOUCHED = 1, PUSHED };

typedef struct hint {
    img_id id; /* a file that was read, or a directory that was listed beyond cookie */
    uint32_t cookie;
    bool listed;
} hint;

typedef struct deferred {
    struct deferred *next;
    int fd;
    bool flush;
    uint64_t start;
    size_t size;
    char message[];
} deferred;

struct fast_notify {
    img_fastpath *path;
    int fd;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool made;
    atomic_bool stopping; /* set and waited for with the mutex, also read without */
    deferred *first, **last;
    hint hints[HINTS]; /* a ring: the oldest are overwritten */
    unsigned hint_head, hint_tail;
    _Atomic uint32_t current; /* the node that is being pushed */
    bool fenced;              /* mutex: the buffer was taken away */
    _Atomic uint64_t read_at; /* the last READ, for listings */
    atomic_int files, bytes;  /* credit */
    char *buffer;             /* a page whose end holds the header, then PUSH_FILE of data */
    char *out;
};

/* ---- what others call --------------------------------------------------------------------- */

/* R. */
static uint32_t *pages_of(const img_tree *tree, img_id id) {
    return &img_node_at(tree, id)->pages;
}

void fast_notify_stop_pushing(fast_notify *notify, img_id id) {
    img_tree *tree = notify->path->tree;
    (void)pthread_rwlock_rdlock(&tree->lock);
    bool there = img_tree_node(tree, id);
    if (there)
        __atomic_store_n(pages_of(tree, id), TOUCHED, __ATOMIC_SEQ_CST);
    (void)pthread_rwlock_unlock(&tree->lock);
    if (!there || atomic_load(&notify->current) != id)
        return;
    (void)pthread_mutex_lock(&notify->mutex);
    if (atomic_load(&notify->current) == id && !notify->fenced) {
        (void)mprotect(notify->buffer, PAGE + PUSH_FILE, PROT_NONE);
        notify->fenced = true;
    }
    (void)pthread_mutex_unlock(&notify->mutex);
}

bool fast_notify_is_pushing(const fast_notify *notify, img_id id) {
    return id && atomic_load(&notify->current) == id; /* current is 0 while nothing is pushed */
}

int fast_notify_defer(fast_notify *notify, const fast_request *req, bool flush) {
    size_t size = sizeof *req->in + req->arg_len;
    deferred *one = malloc(sizeof *one + size);
    if (!one)
        return -ENOMEM;
    *one = (deferred){.fd = req->fd, .flush = flush, .start = req->start, .size = size};
    memcpy(one->message, req->in, size);
    (void)pthread_mutex_lock(&notify->mutex);
    bool taken = !notify->stopping;
    if (taken) {
        *notify->last = one;
        notify->last = &one->next;
        (void)pthread_cond_signal(&notify->wake);
    }
    (void)pthread_mutex_unlock(&notify->mutex);
    if (!taken)
        free(one);
    return taken ? 0 : -EIO;
}

static void give_hint(fast_notify *notify, hint one) {
    (void)pthread_mutex_lock(&notify->mutex);
    notify->hints[notify->hint_head++ % HINTS] = one;
    if (notify->hint_head - notify->hint_tail > HINTS)
        notify->hint_tail = notify->hint_head - HINTS;
    (void)pthread_cond_signal(&notify->wake);
    (void)pthread_mutex_unlock(&notify->mutex);
}

void fast_notify_read(fast_notify *notify, img_id id) {
    if (!notify->path->options.push)
        return;
    atomic_store(&notify->read_at, img_stats_now());
    atomic_store(&notify->files, BATCH_FILES);
    atomic_store(&notify->bytes, BATCH_BYTES);
    give_hint(notify, (hint){.id = id});
}

void fast_notify_listed(fast_notify *notify, img_id dir, uint32_t from_cookie) {
    bool reader = notify->path->options.push && atomic_load(&notify->files) > 0 &&
                  img_stats_now() - atomic_load(&notify->read_at) < READER_NS;
    if (reader)
        give_hint(notify, (hint){.id = dir, .cookie = from_cookie, .listed = true});
}

/* ---- pushing ------------------------------------------------------------------------------ */

typedef struct store_header {
    struct fuse_out_header header;
    struct fuse_notify_store_out store;
} store_header;

/* R. Whether the node may be pushed. */
static bool may_push(const img_node *node) {
    return node && S_ISREG(node->mode) && !(node->flags & (IMG_NODE_UPPER | IMG_NODE_SPARSE)) &&
           node->layer != IMG_LAYER_UPPER && node->size > 0 && node->size <= PUSH_FILE &&
           __atomic_load_n(&node->lookups, __ATOMIC_RELAXED) > 0;
}

/* The kernel did not know the inode: it may be pushed later, unless somebody touched it. */
static void unclaim(fast_notify *notify, img_id id, bool again) {
    img_tree *tree = notify->path->tree;
    (void)pthread_mutex_lock(&notify->mutex);
    if (again) {
        uint32_t pushed = PUSHED; /* else it was touched, and stays so */
        (void)pthread_rwlock_rdlock(&tree->lock);
        if (img_tree_node(tree, id))
            (void)__atomic_compare_exchange_n(pages_of(tree, id), &pushed, 0, false,
                                              __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        (void)pthread_rwlock_unlock(&tree->lock);
    }
    atomic_store(&notify->current, 0);
    if (notify->fenced)
        (void)mprotect(notify->buffer, PAGE + PUSH_FILE, PROT_READ | PROT_WRITE);
    notify->fenced = false;
    (void)pthread_mutex_unlock(&notify->mutex);
}

/* Makes the node the current one; false when it must not be pushed. */
static bool claim(fast_notify *notify, img_id id, img_content *content) {
    img_tree *tree = notify->path->tree;
    atomic_store(&notify->current, id); /* before the look at pages: see fast_notify_stop_pushing */
    (void)pthread_rwlock_rdlock(&tree->lock);
    const img_node *node = img_tree_node(tree, id);
    uint32_t none = 0;
    bool good =
        may_push(node) && __atomic_compare_exchange_n(pages_of(tree, id), &none, PUSHED, false,
                                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (good)
        *content = img_content_of(tree, node);
    (void)pthread_rwlock_unlock(&tree->lock);
    if (!good)
        unclaim(notify, id, false); /* who touched it may have taken the buffer away */
    return good;
}

/* The bytes come into the buffer by pread, which answers EFAULT when it was taken away, where a
 * store of ours would be killed: hence the header is made elsewhere and copied by the kernel. */
static int fill(fast_notify *notify, img_id id, const img_content *content) {
    store_header head = {
        .header = {.len = (uint32_t)(sizeof head + content->size), .error = FUSE_NOTIFY_STORE},
        .store = {.nodeid = id, .size = (uint32_t)content->size},
    };
    ssize_t n = img_content_read(content, 0, notify->buffer + PAGE, content->size);
    if (n != (ssize_t)content->size)
        return n < 0 ? (int)n : -EIO;
    struct iovec iov[2] = {{&head, sizeof head}, {notify->buffer + PAGE, content->size}};
    return writev(notify->fd, iov, 2) < 0 ? -errno : 0;
}

/* 0, -ENOENT when the kernel does not know the inode, another errno. */
static int push(fast_notify *notify, img_id id) {
    img_stats *stats = notify->path->stats;
    img_content content;
    if (!claim(notify, id, &content))
        return 0;
    int result = fill(notify, id, &content);
    unclaim(notify, id, result == -ENOENT);
    if (result == 0) {
        img_stats_count(&stats->pushed_files, 1);
        img_stats_count(&stats->pushed_bytes, content.size);
        atomic_fetch_sub(&notify->files, 1);
        atomic_fetch_sub(&notify->bytes, (int)content.size);
    } else if (result == -ENOENT) {
        img_stats_count(&stats->push_misses, 1);
    }
    return result;
}

/* The next file of a directory that may be pushed, beyond *cookie; 0: none. */
static img_id next_file(const img_tree *tree, img_id dir_id, uint32_t *cookie) {
    img_id found = 0;
    (void)pthread_rwlock_rdlock((pthread_rwlock_t *)(uintptr_t)&tree->lock);
    const img_node *node = img_tree_node(tree, dir_id);
    const img_dir *dir = node && S_ISDIR(node->mode) ? node->u.dir : NULL;
    for (uint32_t i = dir ? img_dir_seek(dir, *cookie) : 0; dir && i < dir->used && !found; i++) {
        if (!dir->slots[i].dentry)
            continue;
        const img_dentry *d = img_dentry_at(tree, dir->slots[i].dentry);
        *cookie = d->cookie;
        if (d->node && may_push(img_node_at(tree, d->node)) &&
            !__atomic_load_n(&img_node_at(tree, d->node)->pages, __ATOMIC_SEQ_CST))
            found = d->node;
    }
    (void)pthread_rwlock_unlock((pthread_rwlock_t *)(uintptr_t)&tree->lock);
    return found;
}

/* Where a file stands; false when it has no name. */
static bool find_place(const img_tree *tree, hint *one) {
    (void)pthread_rwlock_rdlock((pthread_rwlock_t *)(uintptr_t)&tree->lock);
    const img_node *node = img_tree_node(tree, one->id);
    uint32_t name = node && !S_ISDIR(node->mode) ? node->names : 0;
    if (name) {
        const img_dentry *d = img_dentry_at(tree, name);
        *one = (hint){.id = d->parent, .cookie = d->cookie};
    }
    (void)pthread_rwlock_unlock((pthread_rwlock_t *)(uintptr_t)&tree->lock);
    return name;
}

/* Something else is to be done first. */
static bool interrupted(fast_notify *notify) {
    (void)pthread_mutex_lock(&notify->mutex);
    bool yes = notify->stopping || notify->first || notify->hint_head != notify->hint_tail;
    (void)pthread_mutex_unlock(&notify->mutex);
    return yes;
}

static void follow(fast_notify *notify, hint one) {
    const img_tree *tree = notify->path->tree;
    if (!one.listed && !find_place(tree, &one))
        return;
    int not_yet = one.listed ? NOT_YET : 0;
    while (atomic_load(&notify->files) > 0 && atomic_load(&notify->bytes) > 0) {
        uint32_t cookie = one.cookie;
        img_id id = next_file(tree, one.id, &cookie);
        if (!id)
            return;
        int result = push(notify, id);
        if (result == -ENOENT && not_yet-- > 0) {
            struct timespec pause = {0, NOT_YET_NS};
            (void)nanosleep(&pause, NULL);
        } else if (result == -ENOENT || result == -ENODEV || result == -ENOTCONN) {
            return;
        } else {
            one.cookie = cookie;
        }
        if (interrupted(notify))
            return;
    }
}

/* ---- what was deferred -------------------------------------------------------------------- */

/* The kernel writes back what it holds of the inode, and forgets its pages. */
static void write_back(fast_notify *notify, uint64_t nodeid) {
    struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out inode;
    } message = {
        .header = {.len = sizeof message, .error = FUSE_NOTIFY_INVAL_INODE},
        .inode = {.ino = nodeid, .off = 0, .len = 0}, /* len 0: to the end */
    };
    (void)!write(notify->fd, &message, sizeof message);
}

static void run_deferred(fast_notify *notify, deferred *one) {
    const struct fuse_in_header *in = (const void *)one->message;
    if (one->flush)
        write_back(notify, in->nodeid);
    fast_resume(notify->path, one->fd, one->message, one->size, notify->out, one->start,
                FAST_LET_THROUGH, notify->stopping ? -EIO : 0);
    free(one);
}

/* ---- its thread --------------------------------------------------------------------------- */

/* Mutex held. */
static deferred *take_deferred(fast_notify *notify) {
    deferred *one = notify->first;
    if (one) {
        notify->first = one->next;
        if (!notify->first)
            notify->last = &notify->first;
    }
    return one;
}

static void *notify_main(void *arg) {
    fast_notify *notify = arg;
    (void)pthread_mutex_lock(&notify->mutex);
    for (;;) {
        deferred *one = take_deferred(notify);
        if (!one && notify->stopping)
            break;
        bool hinted = !one && notify->hint_head != notify->hint_tail;
        if (!one && !hinted) {
            (void)pthread_cond_wait(&notify->wake, &notify->mutex);
            continue;
        }
        hint next = hinted ? notify->hints[notify->hint_tail++ % HINTS] : (hint){0};
        (void)pthread_mutex_unlock(&notify->mutex);
        if (one)
            run_deferred(notify, one);
        else
            follow(notify, next);
        (void)pthread_mutex_lock(&notify->mutex);
    }
    (void)pthread_mutex_unlock(&notify->mutex);
    return NULL;
}

fast_notify *fast_notify_start(img_fastpath *path, img_error *err) {
    fast_notify *notify = calloc(1, sizeof *notify);
    int failed = notify ? 0 : ENOMEM;
    if (notify) {
        notify->path = path;
        notify->fd = path->options.device_fd;
        /* The data would not stand on a page of their own (2.). */
        if (sysconf(_SC_PAGESIZE) != PAGE)
            path->options.push = false;
        notify->last = &notify->first;
        pthread_mutex_init(&notify->mutex, NULL);
        pthread_cond_init(&notify->wake, NULL);
        notify->out = malloc(FAST_BUFFER);
        void *made = mmap(NULL, PAGE + PUSH_FILE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        notify->buffer = made == MAP_FAILED ? NULL : made;
        failed = !notify->out || !notify->buffer ? ENOMEM : 0;
    }
    if (!failed) {
        failed = pthread_create(&notify->thread, NULL, notify_main, notify);
        notify->made = !failed;
    }
    if (!failed)
        return notify;
    (void)img_fail(err, failed, "the thread that notifies the kernel: %s", strerror(failed));
    if (notify)
        fast_notify_free(notify);
    return NULL;
}

void fast_notify_stop(fast_notify *notify) {
    (void)pthread_mutex_lock(&notify->mutex);
    notify->stopping = true;
    (void)pthread_cond_signal(&notify->wake);
    (void)pthread_mutex_unlock(&notify->mutex);
    if (notify->made)
        (void)pthread_join(notify->thread, NULL);
    notify->made = false;
}

void fast_notify_free(fast_notify *notify) {
    if (notify->buffer)
        (void)munmap(notify->buffer, PAGE + PUSH_FILE);
    free(notify->out);
    pthread_cond_destroy(&notify->wake);
    pthread_mutex_destroy(&notify->mutex);
    free(notify);
}
