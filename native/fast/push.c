/* push.c: small files of the layers are put into the kernel's page cache ahead of a reader.
 *
 * After a READ of a layer's file, the small files that follow it in its directory are sent to the
 * kernel (FUSE_NOTIFY_STORE), and so are the files of a directory that is listed soon afterwards. A
 * program that reads on finds them in the page cache and sends no request.  Each READ gives credit
 * for BATCH_FILES files and BATCH_BYTES bytes, so that few bytes are pushed in vain.
 *
 * Hazard: a store overwrites the kernel's page even if the page is dirty.  So nothing may be stored
 * once a program may have changed the page.  The kernel gets pages of a file only from a READ,
 * which we see, or from a store, and a file is stored once at most.  A program can change a page
 *     - by write(2): before the first write to an inode the kernel asks for the xattr
 *       security.capability (file_remove_privs; S_NOSEC is set only after that);
 *     - through a shared mapping: only where a page was read or stored before.
 * So fast_push_stop is called before the answers to READ and to that GETXATTR, and also to WRITE,
 * SETATTR of a size, FALLOCATE and COPY_FILE_RANGE.  It works as follows:
 *
 *     1. A node for which it was called is not pushed afterwards.  fast_push_stop sets node.pages,
 *        then reads `current`; claim sets `current`, then reads node.pages.  So at least one of the
 *        two sides sees what the other has set.
 *     2. A push that is under way ends at the next page, because fast_push_stop takes away the
 *        buffer that the kernel copies from (mprotect).  The kernel gets hold of a page of the
 *        buffer only after it has locked the page that it copies to (fs/fuse/dev.c:
 *        fuse_copy_folio comes after filemap_grab_folio).  So no store reaches a page after a READ
 *        of that page was answered.  For this to hold, each page of data must be one page of the
 *        buffer.
 *     3. Before it copies, a store raises the inode's size to the end of the stored bytes.  So a
 *        SETATTR of a size waits until no push into the node is under way (defer.h).
 */
#include "fast/push.h"

#include "fast/notify.h"
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
    /* The kernel may still be working through the entries of a listing: number of tries, pause */
    NOT_YET = 6,
    NOT_YET_NS = 100000,
    READER_NS = 200000000 /* a listing counts as a reader's for so long after a READ */
};

/* node.pages: 0, or why the node must not be pushed (fast_push_stop, or it was pushed already) */
enum { STOPPED = 1, PUSHED };

/* ---- called by the threads that answer requests ------------------------------------------- */

/* R. The node's field with one of these values. */
static uint32_t *pages_of(const img_tree *tree, img_id id) {
    return &img_node_at(tree, id)->pages;
}

void fast_push_stop(fast_notify *notify, img_id id) {
    img_tree *tree = notify->path->tree;
    (void)pthread_rwlock_rdlock(&tree->lock);
    bool there = img_tree_node(tree, id);
    if (there)
        __atomic_store_n(pages_of(tree, id), STOPPED, __ATOMIC_SEQ_CST);
    (void)pthread_rwlock_unlock(&tree->lock);
    if (!there || atomic_load(&notify->push.current) != id)
        return;
    (void)pthread_mutex_lock(&notify->mutex);
    if (atomic_load(&notify->push.current) == id && !notify->push.fenced) {
        (void)mprotect(notify->push.buffer, PUSH_FILE, PROT_NONE);
        notify->push.fenced = true;
    }
    (void)pthread_mutex_unlock(&notify->mutex);
}

bool fast_push_is_current(const fast_notify *notify, img_id id) {
    /* current is 0 while no file is pushed */
    return id && atomic_load(&notify->push.current) == id;
}

static void give_hint(fast_notify *notify, fast_hint one) {
    (void)pthread_mutex_lock(&notify->mutex);
    fast_push *push = &notify->push;
    push->hints[push->head++ % FAST_HINTS] = one;
    if (push->head - push->tail > FAST_HINTS)
        push->tail = push->head - FAST_HINTS;
    (void)pthread_cond_signal(&notify->wake);
    (void)pthread_mutex_unlock(&notify->mutex);
}

void fast_push_was_read(fast_notify *notify, img_id id) {
    if (!notify->path->options.push)
        return;
    atomic_store(&notify->push.read_at, img_stats_now());
    atomic_store(&notify->push.files, BATCH_FILES);
    atomic_store(&notify->push.bytes, BATCH_BYTES);
    give_hint(notify, (fast_hint){.id = id});
}

void fast_push_was_listed(fast_notify *notify, img_id dir, uint32_t from_cookie) {
    bool reader = notify->path->options.push && atomic_load(&notify->push.files) > 0 &&
                  img_stats_now() - atomic_load(&notify->push.read_at) < READER_NS;
    if (reader)
        give_hint(notify, (fast_hint){.id = dir, .cookie = from_cookie, .listed = true});
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

/* Ends a push. again: the kernel did not have the inode, so the node may be pushed later, unless
 * fast_push_stop was called since. */
static void unclaim(fast_notify *notify, img_id id, bool again) {
    img_tree *tree = notify->path->tree;
    (void)pthread_mutex_lock(&notify->mutex);
    if (again) {
        uint32_t pushed = PUSHED; /* if it is STOPPED now, that stays */
        (void)pthread_rwlock_rdlock(&tree->lock);
        if (img_tree_node(tree, id))
            (void)__atomic_compare_exchange_n(pages_of(tree, id), &pushed, 0, false,
                                              __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        (void)pthread_rwlock_unlock(&tree->lock);
    }
    atomic_store(&notify->push.current, 0);
    if (notify->push.fenced)
        (void)mprotect(notify->push.buffer, PUSH_FILE, PROT_READ | PROT_WRITE);
    notify->push.fenced = false;
    (void)pthread_mutex_unlock(&notify->mutex);
}

/* Makes the node the current one; false when it must not be pushed. */
static bool claim(fast_notify *notify, img_id id, img_content *content) {
    img_tree *tree = notify->path->tree;
    atomic_store(&notify->push.current, id); /* before node.pages is read: see 1. above */
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
        unclaim(notify, id, false); /* fast_push_stop may have taken the buffer away */
    return good;
}

/* Reads the contents and sends them to the kernel. 0, or a negative errno.
 *
 * Only system calls may access the buffer: if it was taken away they fail with EFAULT, while an
 * access of this thread would end the process.  So the header is not in the buffer. */
static int store(fast_notify *notify, img_id id, const img_content *content) {
    store_header head = {
        .header = {.len = (uint32_t)(sizeof head + content->size), .error = FUSE_NOTIFY_STORE},
        .store = {.nodeid = id, .size = (uint32_t)content->size},
    };
    ssize_t n = img_content_prepare(content);
    if (n == 0 && content->packed)
        n = img_content_read_now(content, 0, notify->push.buffer, content->size);
    else if (n == 0)
        n = img_content_read(content, 0, notify->push.buffer, content->size);
    if (n != (ssize_t)content->size)
        return n < 0 ? (int)n : -EIO;
    struct iovec iov[2] = {{&head, sizeof head}, {notify->push.buffer, content->size}};
    return writev(notify->fd, iov, 2) < 0 ? -errno : 0;
}

/* 0 (also when the node must not be pushed), -ENOENT when the kernel does not have the inode, or
 * another errno. */
static int push_file(fast_notify *notify, img_id id) {
    img_stats *stats = notify->path->stats;
    img_content content;
    if (!claim(notify, id, &content))
        return 0;
    int result = store(notify, id, &content);
    unclaim(notify, id, result == -ENOENT);
    if (result == 0) {
        img_stats_count(&stats->pushed_files, 1);
        img_stats_count(&stats->pushed_bytes, content.size);
        atomic_fetch_sub(&notify->push.files, 1);
        atomic_fetch_sub(&notify->push.bytes, (int)content.size);
    } else if (result == -ENOENT) {
        img_stats_count(&stats->push_misses, 1);
    }
    return result;
}

/* The next file of a directory, beyond *cookie, that may be pushed; 0: none. */
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

/* Replaces a file by its directory and its cookie there; false when it has no name. */
static bool find_directory(const img_tree *tree, fast_hint *one) {
    (void)pthread_rwlock_rdlock((pthread_rwlock_t *)(uintptr_t)&tree->lock);
    const img_node *node = img_tree_node(tree, one->id);
    uint32_t name = node && !S_ISDIR(node->mode) ? node->names : 0;
    if (name) {
        const img_dentry *d = img_dentry_at(tree, name);
        *one = (fast_hint){.id = d->parent, .cookie = d->cookie};
    }
    (void)pthread_rwlock_unlock((pthread_rwlock_t *)(uintptr_t)&tree->lock);
    return name;
}

void fast_push_follow(fast_notify *notify, fast_hint one) {
    const img_tree *tree = notify->path->tree;
    if (!one.listed && !find_directory(tree, &one))
        return;
    int not_yet = one.listed ? NOT_YET : 0;
    while (atomic_load(&notify->push.files) > 0 && atomic_load(&notify->push.bytes) > 0) {
        uint32_t cookie = one.cookie;
        img_id id = next_file(tree, one.id, &cookie);
        if (!id)
            return;
        int result = push_file(notify, id);
        if (result == -ENOENT && not_yet-- > 0) {
            struct timespec pause = {0, NOT_YET_NS};
            (void)nanosleep(&pause, NULL);
        } else if (result == -ENOENT || result == -ENODEV || result == -ENOTCONN) {
            return;
        } else {
            one.cookie = cookie;
        }
        if (fast_notify_has_work(notify))
            return;
    }
}

bool fast_push_take_hint(fast_push *push, fast_hint *out) {
    if (push->head == push->tail)
        return false;
    *out = push->hints[push->tail++ % FAST_HINTS];
    return true;
}

/* ---- the buffer --------------------------------------------------------------------------- */

int fast_push_set_up(fast_notify *notify) {
    /* On larger pages the data would not begin at a page boundary of the buffer (2.).  With
     * no_xattrs the kernel stops asking for security.capability, so it does not announce a first
     * write(2). */
    if (sysconf(_SC_PAGESIZE) != PAGE || notify->path->options.no_xattrs)
        notify->path->options.push = false;
    void *made = mmap(NULL, PUSH_FILE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    notify->push.buffer = made == MAP_FAILED ? NULL : made;
    return notify->push.buffer ? 0 : ENOMEM;
}

void fast_push_tear_down(fast_notify *notify) {
    if (notify->push.buffer)
        (void)munmap(notify->push.buffer, PUSH_FILE);
}
