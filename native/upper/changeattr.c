/* changeattr.c: sets mode, owner, size and times. */
#define _GNU_SOURCE /* renameat2 */
#include "upper/changeattr.h"

#include "base/beneath.h"
#include "upper/changeinner.h"
#include "upper/harmless.h"
#include "upper/killpriv.h"

#include <time.h>
#include <unistd.h>

/* A node's object, as the system calls below take it. */
typedef struct object {
    int fd;        /* open file or directory; for other types O_PATH, and fd_path is used */
    img_id pinned; /* 0: fd is to be closed */
    bool open;     /* fd is not O_PATH */
    char fd_path[IMG_FD_PATH_BYTES];
} object;

static int open_object(img_upper *upper, img_id id, uint32_t mode, object *o) {
    o->open = S_ISREG(mode) || S_ISDIR(mode);
    o->pinned = o->open ? id : 0;
    if (!o->open)
        o->fd = img_upper_object(upper, id);
    else
        o->fd = S_ISREG(mode) ? img_upper_pin_to_write(upper, id) : img_upper_pin(upper, id);
    if (o->fd < 0)
        return o->fd;
    img_fd_path(o->fd, o->fd_path);
    return 0;
}

/* Whether an object for which this mode is shown may have set-id bits in a mark. */
static bool may_be_marked(const img_upper *upper, uint32_t mode) {
    return upper->options.owners && mode & IMG_SET_ID_BITS && !S_ISDIR(mode) && !S_ISLNK(mode);
}

static int set_owner(const img_upper *upper, const object *o, uint32_t before, const img_set *set) {
    uid_t uid = set->what & IMG_SET_UID ? set->uid : (uid_t)-1;
    gid_t gid = set->what & IMG_SET_GID ? set->gid : (gid_t)-1;
    uint32_t had = 0;
    int result = may_be_marked(upper, before)
                     ? img_harmless_take(o->fd_path, img_bits_lost_by_chown(before), &had)
                     : 0;
    if (result < 0)
        return result;
    result = (o->open ? fchown(o->fd, uid, gid) : chown(o->fd_path, uid, gid)) < 0 ? -errno : 0;
    if (result < 0 && had)
        img_harmless_put_back(o->fd_path, had);
    return result;
}

static int set_mode(const img_upper *upper, const object *o, uint32_t before, uint32_t mode,
                    bool chowned) {
    struct stat st; /* after chown(2) the mode may be right already; then chmod(2) is left out */
    if (may_be_marked(upper, before | mode))
        return img_harmless_chmod(upper, o->fd_path, before, mode);
    bool known = chowned && fstat(o->fd, &st) == 0;
    if (known && (st.st_mode & 07777) == mode)
        return 0;
    int result = o->open ? fchmod(o->fd, mode) : chmod(o->fd_path, mode);
    return result < 0 ? -errno : 0;
}

static struct timespec time_of(unsigned what, unsigned set, unsigned now, int64_t s, uint32_t ns) {
    if (what & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (what & set)
        return (struct timespec){.tv_sec = s, .tv_nsec = (long)ns};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_times(const object *o, const img_set *set) {
    struct timespec times[2] = {
        time_of(set->what, IMG_SET_ATIME, IMG_SET_ATIME_NOW, set->atime_s, set->atime_ns),
        time_of(set->what, IMG_SET_MTIME, IMG_SET_MTIME_NOW, set->mtime_s, set->mtime_ns),
    };
    int result = o->open ? futimens(o->fd, times) : utimensat(AT_FDCWD, o->fd_path, times, 0);
    return result < 0 ? -errno : 0;
}

static int set_size(img_upper *upper, img_id id, int fd, uint64_t was, const img_set *set) {
    if (set->size > INT64_MAX)
        return -EFBIG;
    /* A truncation to the present size is left out, because it would set the object's mtime.  The
     * kernel caches writes and so keeps the mtime itself, and does not change it here. */
    int result = img_killpriv_capability(upper, id, fd);
    if (result == 0 && set->what & IMG_KILL_SUIDGID)
        result = img_killpriv_set_id(upper, id, fd, &set->caller);
    if (result == 0 && set->size != was && ftruncate(fd, (off_t)set->size) < 0)
        result = -errno;
    return result;
}

static const unsigned OWNER = IMG_SET_UID | IMG_SET_GID;
static const unsigned TIMES = IMG_SET_ATIME | IMG_SET_MTIME | IMG_SET_ATIME_NOW | IMG_SET_MTIME_NOW;

/* Makes all changes except those of times. */
static int apply(img_upper *upper, img_id id, const object *o, const img_node *before,
                 const img_set *set) {
    int result = 0;
    if (set->what & IMG_SET_SIZE)
        result = set_size(upper, id, o->fd, before->size, set);
    if (result == 0 && set->what & OWNER) {
        if (S_ISREG(before->mode))
            result = img_killpriv_capability(upper, id, o->fd);
        if (result == 0) /* this takes set-id bits, as chown(2) does */
            result = set_owner(upper, o, before->mode, set);
        if (result == 0 && S_ISREG(before->mode)) {
            /* chown(2) takes the bits that the daemon loses; another caller may lose more */
            if (set->caller.uid != 0)
                result = img_killpriv_set_id(upper, id, o->fd, &set->caller);
        }
    }
    if (result == 0 && set->what & IMG_SET_MODE && !S_ISLNK(before->mode))
        result = set_mode(upper, o, before->mode, set->mode & 07777, set->what & OWNER);
    return result;
}

/* W. The kernel, which caches writes, keeps the ctime of a regular file itself and sends it. After
 * it has dropped the inode and asks again, it must get the same ctime. */
static void keep_ctime(img_node *node, const img_set *set) {
    if (set->what & IMG_SET_CTIME && S_ISREG(node->mode)) {
        node->ctime_s = set->ctime_s;
        node->ctime_ns = set->ctime_ns;
    }
}

/* W. Sets the node's attributes from st. Size and mtime are set only if this change set them,
 * because another thread may be writing to the file. marked: set-id bits that are in a mark. */
static void take_over(const img_upper *upper, img_node *node, const struct stat *st,
                      uint32_t marked, const img_set *set) {
    const unsigned touched = IMG_SET_SIZE | IMG_SET_MTIME | IMG_SET_MTIME_NOW;
    img_node before = *node;
    if (upper->options.owners) {
        node->mode = (node->mode & S_IFMT) | (st->st_mode & 07777) | marked;
        node->uid = st->st_uid;
        node->gid = st->st_gid;
    }
    if (set->what & IMG_SET_SIZE)
        node->size = set->size;
    if (S_ISREG(node->mode) && img_node_data_in_upper(node))
        node->blocks = (uint64_t)st->st_blocks;
    img_change_times(node, st);
    if (S_ISREG(node->mode) && !(set->what & touched)) {
        node->mtime_s = before.mtime_s;
        node->mtime_ns = before.mtime_ns;
    }
    node->atime_s = st->st_atim.tv_sec;
    node->atime_ns = (uint32_t)st->st_atim.tv_nsec;
    keep_ctime(node, set);
}

/* W. Changes a node that has no name and no object any more, and is only known to the kernel. */
static void set_in_tree(img_node *node, const img_set *set) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (set->what & IMG_SET_MODE)
        node->mode = (node->mode & S_IFMT) | (set->mode & 07777);
    if (set->what & IMG_SET_UID)
        node->uid = set->uid;
    if (set->what & IMG_SET_GID)
        node->gid = set->gid;
    if (set->what & (IMG_SET_ATIME | IMG_SET_ATIME_NOW)) {
        bool given = !(set->what & IMG_SET_ATIME_NOW);
        node->atime_s = given ? set->atime_s : now.tv_sec;
        node->atime_ns = given ? set->atime_ns : (uint32_t)now.tv_nsec;
    }
    if (set->what & (IMG_SET_MTIME | IMG_SET_MTIME_NOW)) {
        bool given = !(set->what & IMG_SET_MTIME_NOW);
        node->mtime_s = given ? set->mtime_s : now.tv_sec;
        node->mtime_ns = given ? set->mtime_ns : (uint32_t)now.tv_nsec;
    }
}

/* R. Whether the node has these values already (ctime aside). */
static bool nothing_new(const img_node *node, const img_set *set) {
    return !(set->what & ~(unsigned)(IMG_SET_MTIME | IMG_SET_CTIME)) &&
           (!(set->what & IMG_SET_MTIME) ||
            (set->mtime_s == node->mtime_s && set->mtime_ns == node->mtime_ns));
}

enum { IN_UPPER = 2, IN_TREE = 3 };

/* R. Where the change must be made: one of these, 0 (nowhere), IMG_DECLINED or a negative errno */
static int where(const img_upper *upper, img_id id, const img_set *set) {
    const img_node *node = img_tree_node(upper->tree, id);
    if (upper->options.read_only || upper->options.work_fd < 0)
        return -EROFS;
    if (!node)
        return -ESTALE;
    if (set->what & IMG_SET_SIZE && !S_ISREG(node->mode))
        return -EINVAL;
    bool in_upper = node->flags & IMG_NODE_UPPER;
    if (nothing_new(node, set))
        return 0;
    bool nameless = id != IMG_ROOT && !node->names;
    if (nameless && !(set->what & IMG_SET_SIZE) && (!in_upper || img_is_dir(node)))
        return IN_TREE;
    if (!in_upper || (set->what & IMG_SET_SIZE && node->flags & IMG_NODE_META))
        return IMG_DECLINED;
    if (set->what & (IMG_SET_MODE | OWNER) && !upper->options.owners)
        return IMG_DECLINED;
    if (set->what & IMG_SET_MODE && img_change_has_xattr(node, IMG_ACL_ACCESS))
        return IMG_DECLINED;
    return IN_UPPER;
}

/* Sets the times, and the node's attributes from those of the object. before: the mode that was
 * shown; done: the changes that were made so far, and the times to set. */
static int finish(img_upper *upper, img_id id, const object *o, uint32_t before, img_set done) {
    struct stat st;
    int result = 0;
    uint32_t shown = before | (done.what & IMG_SET_MODE ? done.mode : 0u);
    uint32_t marked = may_be_marked(upper, shown) ? img_harmless_bits(o->fd_path) : 0;
    pthread_mutex_t *times = img_times_lock(upper, id);
    (void)pthread_mutex_lock(times);
    if (done.what & TIMES) {
        result = set_times(o, &done);
        if (result < 0)
            done.what &= ~TIMES;
    }
    if (fstat(o->fd, &st) == 0) {
        lock_write(upper);
        img_node *node = img_tree_node(upper->tree, id);
        if (node)
            take_over(upper, node, &st, marked, &done);
        unlock(upper);
    }
    (void)pthread_mutex_unlock(times);
    return result;
}

/* R. IMG_SAME_OWNER as a chown to the present owner: it takes set-id bits and sets ctime, as
 * chown(2) with -1 and -1 does.  Left out if the caller may not chown the file. */
static img_set same_owner(const img_tree *tree, img_id id, const img_set *set) {
    const img_node *node = img_tree_node(tree, id);
    img_set same = *set;
    same.what &= ~(unsigned)IMG_SAME_OWNER;
    if (set->what & IMG_SAME_OWNER && node && node->flags & IMG_NODE_UPPER &&
        (set->caller.uid == 0 || set->caller.uid == img_id_shown(&tree->owners.uids, node->uid))) {
        same.what |= OWNER;
        same.uid = node->uid;
        same.gid = node->gid;
    }
    return same;
}

int img_setattr(img_upper *upper, img_id id, const img_set *what) {
    img_node before = {0};
    lock_write(upper);
    const img_set wanted = same_owner(upper->tree, id, what), *set = &wanted;
    int result = where(upper, id, set);
    if (result == IN_TREE)
        set_in_tree(img_node_at(upper->tree, id), set);
    if (result == IN_TREE || result == 0)
        keep_ctime(img_node_at(upper->tree, id), set);
    else if (result == IN_UPPER)
        before = *img_node_at(upper->tree, id);
    unlock(upper);
    if (result != IN_UPPER)
        return result == IN_TREE ? 0 : result;
    object o;
    result = open_object(upper, id, before.mode, &o);
    if (result < 0)
        return result;
    img_set done = *set;
    if (done.what & IMG_SET_SIZE && done.size == before.size)
        done.what &= ~(unsigned)IMG_SET_SIZE;
    result = apply(upper, id, &o, &before, set);
    if (result < 0) /* changes before the failed one were made; times are not set */
        done.what &= ~(TIMES | IMG_SET_SIZE);
    int last = finish(upper, id, &o, before.mode, done);
    if (last < 0 && done.what & IMG_SET_SIZE)
        last = 0; /* the file was truncated, which cannot be undone, so this is no failure */
    img_upper_let_go(upper, o.fd, o.pinned);
    return result < 0 ? result : last;
}
