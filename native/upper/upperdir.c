/* upperdir.c: opens the objects of the upper directory, and takes the locks. */
#define _GNU_SOURCE /* O_PATH, O_NOATIME, pthread_mutex_clocklock */
#include "upper/upperdir.h"

#include "base/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATH_BUFFER 4096u

#ifdef __SANITIZE_THREAD__ /* the thread sanitizer does not know pthread_mutex_clocklock */
#define PATIENCE_CLOCK CLOCK_REALTIME
#define CLOCKLOCK pthread_mutex_timedlock
#else
#define PATIENCE_CLOCK CLOCK_MONOTONIC
#define CLOCKLOCK(mutex, until) pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, until)
#endif

/* ---- life and locks ----------------------------------------------------------------------- */

static void node_freed(void *watcher, img_id id) {
    img_upper *upper = watcher;
    upper->freed++;
    img_fds_drop(upper->fds, id);
}

static void watch(img_tree *tree, img_upper *upper) {
    (void)pthread_rwlock_wrlock(&tree->lock);
    tree->freed = upper ? node_freed : NULL;
    tree->watcher = upper;
    (void)pthread_rwlock_unlock(&tree->lock);
}

img_upper *img_upper_new(img_tree *tree, const img_upper_options *options) {
    img_upper *upper = calloc(1, sizeof *upper);
    if (!upper)
        return NULL;
    upper->fds = img_fds_new(options->max_fds);
    if (!upper->fds) {
        free(upper);
        return NULL;
    }
    upper->tree = tree;
    upper->options = *options;
    upper->uid = geteuid();
    upper->gid = getegid();
    pthread_mutexattr_t checked;
    pthread_mutexattr_init(&checked);
    pthread_mutexattr_settype(&checked, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&upper->change, &checked);
    pthread_mutexattr_destroy(&checked);
    for (size_t i = 0; i < sizeof upper->times / sizeof upper->times[0]; i++)
        pthread_mutex_init(&upper->times[i], NULL);
    pthread_rwlockattr_t fair; /* else many readers could keep a rename waiting for ever */
    pthread_rwlockattr_init(&fair);
    pthread_rwlockattr_setkind_np(&fair, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&upper->places, &fair);
    pthread_rwlockattr_destroy(&fair);
    watch(tree, upper);
    return upper;
}

void img_upper_free(img_upper *upper) {
    if (!upper)
        return;
    watch(upper->tree, NULL);
    img_fds_free(upper->fds);
    pthread_rwlock_destroy(&upper->places);
    pthread_mutex_destroy(&upper->change);
    free(upper);
}

void img_upper_lock(img_upper *upper) {
    if (pthread_mutex_lock(&upper->change) != 0)
        abort(); /* this thread has the lock already: going on would mix two changes */
}

bool img_upper_trylock(img_upper *upper, unsigned milliseconds) {
    if (pthread_mutex_trylock(&upper->change) == 0)
        return true;
    struct timespec until;
    (void)clock_gettime(PATIENCE_CLOCK, &until);
    until.tv_sec += (time_t)(milliseconds / 1000);
    until.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return milliseconds && CLOCKLOCK(&upper->change, &until) == 0;
}

void img_upper_unlock(img_upper *upper) {
    (void)pthread_mutex_unlock(&upper->change);
}

void img_upper_moving(img_upper *upper) {
    (void)pthread_rwlock_wrlock(&upper->places);
}

void img_upper_moved(img_upper *upper) {
    (void)pthread_rwlock_unlock(&upper->places);
    img_fds_close_dropped(upper->fds);
}

void img_upper_orphan(img_id id, char *out) {
    (void)snprintf(out, IMG_ORPHAN_BYTES, "orphan-%u", id);
}

/* ---- paths -------------------------------------------------------------------------------- */

/* R. The length of a directory's path; -ESTALE if it or one above it was removed, -ENAMETOOLONG if
 * it is too deep. */
static ssize_t path_length(const img_tree *tree, img_id dir) {
    ssize_t len = 0;
    for (unsigned depth = 0; dir != IMG_ROOT; depth++) {
        if (depth == IMG_UPPER_DEPTH_MAX)
            return -ENAMETOOLONG;
        uint32_t d = img_node_at(tree, dir)->names;
        if (!d)
            return -ESTALE;
        const img_dentry *dentry = img_dentry_at(tree, d);
        len += dentry->name_len + 1;
        dir = dentry->parent;
    }
    return len ? len - 1 : 0;
}

bool img_upper_is_deepest(const img_tree *tree, img_id dir) {
    unsigned depth = 0;
    while (dir != IMG_ROOT && depth < IMG_UPPER_DEPTH_MAX && img_node_at(tree, dir)->names) {
        dir = img_dentry_at(tree, img_node_at(tree, dir)->names)->parent;
        depth++;
    }
    return depth == IMG_UPPER_DEPTH_MAX;
}

/* R. Writes the directory's path so that it ends before end. */
static void path_write(const img_tree *tree, img_id dir, char *end) {
    for (bool last = true; dir != IMG_ROOT; last = false) {
        const img_dentry *dentry = img_dentry_at(tree, img_node_at(tree, dir)->names);
        if (!last)
            *--end = '/';
        end -= dentry->name_len;
        memcpy(end, dentry->name, dentry->name_len);
        dir = dentry->parent;
    }
}

/* Opens with O_NOATIME if that is permitted: only to the owner and to root. */
static int open_quietly(int at, const char *path, int flags) {
    int fd = img_open_beneath(at, path, flags | O_NOATIME, 0);
    if (fd == -EPERM)
        fd = img_open_beneath(at, path, flags, 0);
    if (fd == -EROFS && flags & O_RDWR) /* remounted read-only: open it to read */
        fd = img_open_beneath(at, path, (flags & ~O_RDWR) | O_RDONLY, 0);
    return fd == -EAGAIN ? -EBUSY : fd; /* another process has a lease, and O_NONBLOCK is set */
}

/* ---- descriptors -------------------------------------------------------------------------- */

/* All that is needed to open a node's object; read from the tree at one time. */
typedef struct whereabouts {
    img_id parent; /* 0: path is that of the object, or there is none and it is an orphan */
    int flags;
    img_identity is;
    char name[256];
    char *path; /* buffer, or malloc'ed */
    size_t len;
    uint64_t freed;
    char buffer[PATH_BUFFER];
} whereabouts;

/* R. Sets path to the directory's path. */
static int find_path(const img_tree *tree, img_id dir, whereabouts *w) {
    ssize_t len = path_length(tree, dir);
    if (len < 0)
        return (int)len;
    w->len = (size_t)len;
    w->path = w->len < sizeof w->buffer ? w->buffer : malloc(w->len + 1);
    if (!w->path)
        return -ENOMEM;
    path_write(tree, dir, w->path + w->len);
    w->path[w->len] = 0;
    return 0;
}

/* R. Fills w. -ESTALE, -EINVAL, -ENOMEM */
static int find_object(const img_upper *upper, img_id id, whereabouts *w) {
    const img_tree *tree = upper->tree;
    const img_node *node = img_tree_node(tree, id);
    if (!node || !(node->flags & IMG_NODE_UPPER))
        return -ESTALE;
    bool is_dir = img_is_dir(node);
    if (!is_dir && !S_ISREG(node->mode))
        return -EINVAL;
    w->is = (img_identity){node->mode, node->born, node->object};
    /* O_NONBLOCK: if a fifo has replaced the file, open must not wait */
    w->flags = is_dir ? O_RDONLY | O_DIRECTORY : O_RDWR | O_NONBLOCK | O_NOCTTY;
    if (upper->options.read_only)
        w->flags &= ~O_RDWR;
    w->freed = upper->freed;
    if (id == IMG_ROOT)
        return find_path(tree, id, w);
    if (!node->names)
        return is_dir ? -ESTALE : 0; /* an orphan: no parent and no path */
    const img_dentry *dentry = img_dentry_at(tree, node->names);
    w->parent = dentry->parent;
    memcpy(w->name, dentry->name, dentry->name_len);
    w->name[dentry->name_len] = 0;
    return find_path(tree, dentry->parent, w);
}

static int open_in_parent(const img_upper *upper, whereabouts *w) {
    int parent = img_fds_pin(upper->fds, w->parent);
    if (parent >= 0) {
        int fd = open_quietly(parent, w->name, w->flags);
        img_fds_unpin(upper->fds, w->parent);
        return fd;
    }
    size_t name_len = strlen(w->name);
    if (!w->len) /* in the root */
        return open_quietly(upper->options.upper_fd, w->name, w->flags);
    char *whole = malloc(w->len + name_len + 2);
    if (!whole)
        return -ENOMEM;
    memcpy(whole, w->path, w->len);
    whole[w->len] = '/';
    memcpy(whole + w->len + 1, w->name, name_len + 1);
    int fd = open_quietly(upper->options.upper_fd, whole, w->flags);
    free(whole);
    return fd;
}

bool img_upper_same(const img_upper *upper, img_identity is, const img_identity *seen) {
    bool itself = S_ISREG(is.mode) || S_ISDIR(is.mode); /* a device may be stored as a file */
    if (itself && (is.mode & S_IFMT) != (seen->mode & S_IFMT))
        return false;
    return !upper->options.inodes_last || !is.object ||
           (is.object == seen->object && (!is.born || is.born == seen->born));
}

img_identity img_upper_identity(const img_node *node) {
    return (img_identity){node->mode, node->born, node->object};
}

bool img_upper_is(const img_upper *upper, const img_node *node, const img_identity *seen) {
    return img_upper_same(upper, img_upper_identity(node), seen);
}

/* Returns fd if it is of that object; else closes it and returns -EIO. */
static int checked(const img_upper *upper, img_identity is, int fd) {
    img_identity seen;
    if (fd < 0 || (img_identity_of(fd, "", &seen) == 0 && img_upper_same(upper, is, &seen)))
        return fd;
    (void)close(fd);
    return -EIO;
}

static int open_anywhere(const img_upper *upper, img_id id, whereabouts *w) {
    if (w->parent)
        return open_in_parent(upper, w);
    if (w->path)
        return open_quietly(upper->options.upper_fd, w->path, w->flags);
    char orphan[IMG_ORPHAN_BYTES];
    img_upper_orphan(id, orphan);
    return upper->options.work_fd < 0 ? -ESTALE
                                      : open_quietly(upper->options.work_fd, orphan, w->flags);
}

static int open_object(const img_upper *upper, img_id id, whereabouts *w) {
    return checked(upper, w->is, open_anywhere(upper, id, w));
}

/* `places` held for reading, so that the path stays right until the object is open. */
static int pin_anew(img_upper *upper, img_id id) {
    img_tree *tree = upper->tree;
    whereabouts w = {.path = NULL};
    (void)pthread_rwlock_rdlock(&tree->lock);
    int result = find_object(upper, id, &w);
    (void)pthread_rwlock_unlock(&tree->lock);
    if (result < 0)
        return result;
    int fd = open_object(upper, id, &w);
    if ((fd == -EMFILE || fd == -ENFILE) && img_fds_shrink(upper->fds))
        fd = open_object(upper, id, &w);
    if (w.path != w.buffer)
        free(w.path);
    if (fd < 0)
        return fd;
    (void)pthread_rwlock_rdlock(&tree->lock);
    bool same = upper->freed == w.freed;
    if (same)
        fd = img_fds_put(upper->fds, id, fd, true);
    (void)pthread_rwlock_unlock(&tree->lock);
    if (same) {
        img_fds_close_dropped(upper->fds);
        return fd;
    }
    (void)close(fd); /* a node of the upper was freed since, perhaps this one: look again */
    return -EAGAIN;
}

int img_upper_pin(img_upper *upper, img_id id) {
    int fd = img_fds_pin(upper->fds, id);
    if (fd >= 0)
        return fd;
    (void)pthread_rwlock_rdlock(&upper->places);
    do
        fd = pin_anew(upper, id);
    while (fd == -EAGAIN);
    (void)pthread_rwlock_unlock(&upper->places);
    return fd;
}

int img_upper_pin_to_write(img_upper *upper, img_id id) {
    for (int tries = 0; tries < 2; tries++) {
        int fd = img_upper_pin(upper, id);
        if (fd < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
            return fd;
        img_upper_drop(upper, id); /* the file system may be writable again: open anew */
        img_upper_unpin(upper, id);
    }
    return -EROFS;
}

void img_upper_unpin(img_upper *upper, img_id id) {
    img_fds_unpin(upper->fds, id);
}

void img_upper_keep(img_upper *upper, img_id id, int fd) {
    (void)img_fds_put(upper->fds, id, fd, false);
    img_fds_close_dropped(upper->fds);
}

void img_upper_drop(img_upper *upper, img_id id) {
    img_fds_drop(upper->fds, id);
    img_fds_close_dropped(upper->fds);
}

int img_upper_locate(img_upper *upper, img_id id, int *dir_fd, char *name, img_id *pinned) {
    img_tree *tree = upper->tree;
    img_id parent = 0;
    int result = 0;
    *pinned = 0;
    (void)pthread_rwlock_rdlock(&tree->lock);
    const img_node *node = img_tree_node(tree, id);
    if (!node || !(node->flags & IMG_NODE_UPPER)) {
        result = -ESTALE;
    } else if (id == IMG_ROOT) {
        *dir_fd = upper->options.upper_fd;
        memcpy(name, ".", 2);
    } else if (node->names) {
        const img_dentry *dentry = img_dentry_at(tree, node->names);
        parent = dentry->parent;
        memcpy(name, dentry->name, dentry->name_len);
        name[dentry->name_len] = 0;
    } else if (img_is_dir(node) || upper->options.work_fd < 0) {
        result = -ESTALE;
    } else {
        *dir_fd = upper->options.work_fd;
        img_upper_orphan(id, name);
    }
    (void)pthread_rwlock_unlock(&tree->lock);
    if (result < 0 || !parent)
        return result;
    *dir_fd = img_upper_pin(upper, parent);
    if (*dir_fd < 0)
        return *dir_fd;
    *pinned = parent;
    return 0;
}

int img_upper_object(img_upper *upper, img_id id) {
    char name[IMG_NAME_MAX + 1];
    int dir;
    img_id pinned;
    img_identity is = {0};
    int result = img_upper_locate(upper, id, &dir, name, &pinned);
    if (result < 0)
        return result;
    int fd = img_open_beneath(dir, name, O_PATH | O_NOFOLLOW, 0);
    if (pinned)
        img_upper_unpin(upper, pinned);
    (void)pthread_rwlock_rdlock(&upper->tree->lock);
    const img_node *node = img_tree_node(upper->tree, id);
    if (node)
        is = (img_identity){node->mode, node->born, node->object};
    (void)pthread_rwlock_unlock(&upper->tree->lock);
    return checked(upper, is, fd);
}

int img_upper_hold(img_upper *upper, img_id id, img_id *pinned) {
    int fd = img_fds_pin(upper->fds, id);
    *pinned = fd < 0 ? 0 : id;
    return fd < 0 ? img_upper_object(upper, id) : fd;
}

void img_upper_let_go(img_upper *upper, int fd, img_id pinned) {
    if (pinned)
        img_upper_unpin(upper, pinned);
    else
        (void)close(fd);
}

/* ---- forgetting --------------------------------------------------------------------------- */

#define LARGE_FILE (1u << 20)
enum { AWAIT_NS = 20000000, AWAIT_MOST = 100, AWAIT_REST = 4 };

/* R. Lowers the lookup count; true when nothing keeps the node any more. */
static bool forget_some(const img_tree *tree, uint64_t id, uint64_t count) {
    img_node *node = img_tree_node(tree, id);
    if (!node)
        return false;
    uint64_t now = __atomic_load_n(&node->lookups, __ATOMIC_RELAXED), left;
    do
        left = now > count ? now - count : 0;
    while (!__atomic_compare_exchange_n(&node->lookups, &now, left, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
    return !left && !node->names && id != IMG_ROOT;
}

/* Frees the node if still nothing keeps it; true when it had a file in the upper. */
static bool free_node(img_tree *tree, img_id id, uint64_t *size) {
    (void)pthread_rwlock_wrlock(&tree->lock);
    const img_node *node = img_tree_node(tree, id);
    *size = node ? node->size : 0;
    bool file = node && node->flags & IMG_NODE_UPPER && !img_is_dir(node);
    bool freed = node && img_tree_release(tree, id);
    (void)pthread_rwlock_unlock(&tree->lock);
    return file && freed;
}

void img_forget(img_tree *tree, img_upper *upper, uint64_t id, uint64_t count) {
    (void)pthread_rwlock_rdlock(&tree->lock);
    bool last = forget_some(tree, id, count);
    (void)pthread_rwlock_unlock(&tree->lock);
    if (!last)
        return;
    uint64_t size;
    if (!upper || upper->options.work_fd < 0) {
        (void)free_node(tree, (img_id)id, &size);
        return;
    }
    /* Freeing the blocks of a large file takes long.  The kernel frees them only when the last
     * descriptor is closed, so this one is closed below, when no lock is held any more. */
    int file = -1;
    /* `places` is held both for the node and for the orphan: the nodeid may be used again at once,
     * and the new node's orphan would have the same name. */
    __atomic_fetch_add(&upper->releasing, 1, __ATOMIC_SEQ_CST);
    (void)pthread_rwlock_wrlock(&upper->places);
    if (free_node(tree, (img_id)id, &size)) {
        char orphan[IMG_ORPHAN_BYTES];
        img_upper_orphan((img_id)id, orphan);
        if (size > LARGE_FILE)
            file = openat(upper->options.work_fd, orphan, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        (void)unlinkat(upper->options.work_fd, orphan, 0); /* there may be none */
    }
    (void)pthread_rwlock_unlock(&upper->places);
    if (file >= 0)
        (void)close(file);
    img_fds_close_dropped(upper->fds);
    __atomic_fetch_sub(&upper->releasing, 1, __ATOMIC_SEQ_CST);
}

static uint64_t monotonic_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void img_upper_note_orphan(img_upper *upper) {
    __atomic_store_n(&upper->orphaned, monotonic_ns(), __ATOMIC_SEQ_CST);
}

bool img_upper_await_release(img_upper *upper, bool rests) {
    const uint64_t most = (uint64_t)AWAIT_NS * AWAIT_MOST;
    struct timespec pause = {0, AWAIT_NS};
    uint64_t start = monotonic_ns(), last = __atomic_load_n(&upper->orphaned, __ATOMIC_SEQ_CST);
    if (!last || start - last > most ||
        (rests && start < __atomic_load_n(&upper->rested, __ATOMIC_SEQ_CST)) ||
        __atomic_exchange_n(&upper->awaited, true, __ATOMIC_SEQ_CST))
        return false;
    for (int i = 0; i < AWAIT_MOST; i++) {
        (void)nanosleep(&pause, NULL);
        if (!__atomic_load_n(&upper->releasing, __ATOMIC_SEQ_CST))
            break;
    }
    uint64_t now = monotonic_ns();
    if (rests)
        __atomic_store_n(&upper->rested, now + AWAIT_REST * (now - start), __ATOMIC_SEQ_CST);
    __atomic_store_n(&upper->awaited, false, __ATOMIC_SEQ_CST);
    return true;
}
