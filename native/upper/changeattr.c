/* changeattr.c: the part of change.h that changes what a node holds: attributes and data. */
#define _GNU_SOURCE /* fallocate, copy_file_range */
#include "upper/changeinner.h"

#include "base/beneath.h"
#include "tree/content.h"
#include "upper/harmless.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define OVERRIDE_STAT "user.containers.override_stat" /* "uid:gid:0mode": see rootfs/objects.py */
#define COPY_PIECE (1u << 20)
#define COPY_MOST (16u << 20) /* of a layer's file at once: the caller asks again */

/* ---- privileges --------------------------------------------------------------------------- */

/* Where the mode is kept beside the object, there too. */
static int strip_override(int fd, uint32_t bits) {
    char text[64];
    unsigned uid, gid, mode;
    ssize_t n = fgetxattr(fd, OVERRIDE_STAT, text, sizeof text - 1);
    if (n < 0)
        return errno == ENODATA ? 0 : -errno;
    text[n] = 0;
    if (sscanf(text, "%10u:%10u:%6o", &uid, &gid, &mode) != 3)
        return 0;
    int len = snprintf(text, sizeof text, "%u:%u:0%o", uid, gid, mode & ~bits);
    return fsetxattr(fd, OVERRIDE_STAT, text, (size_t)len, 0) < 0 ? -errno : 0;
}

static int strip_set_id(img_upper *upper, img_id id, int fd, const img_caller *caller) {
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    uint32_t mode = node && S_ISREG(node->mode) ? node->mode : 0;
    uint32_t gid = node ? img_id_shown(&upper->tree->owners.gids, node->gid) : 0;
    unlock(upper);
    uint32_t bits = img_caller_loses(caller, mode, gid);
    if (!bits)
        return 0;
    struct stat st;
    char place[IMG_FD_PATH_BYTES];
    uint32_t had;
    img_fd_path(fd, place);
    int result =
        upper->options.owners ? img_harmless_take(place, bits, &had) : strip_override(fd, bits);
    if (result == 0 &&
        (fstat(fd, &st) < 0 || (st.st_mode & bits && fchmod(fd, st.st_mode & 07777 & ~bits) < 0)))
        result = -errno;
    if (result < 0)
        return result;
    lock_write(upper);
    if ((node = img_tree_node(upper->tree, id)))
        img_node_at(upper->tree, id)->mode &= ~bits;
    unlock(upper);
    return 0;
}

/* Before what takes it: the system takes only real ones by itself, and none where we leave out a
 * truncation that changes nothing. */
static int drop_capability(img_upper *upper, img_id id, int fd) {
    char place[IMG_FD_PATH_BYTES];
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    bool there = node && img_change_has_xattr(node, IMG_CAPABILITY);
    unlock(upper);
    if (!there)
        return 0;
    img_fd_path(fd, place);
    int result = img_harmless_set_capability(upper, place, NULL, 0);
    if (result < 0)
        return result;
    lock_write(upper);
    img_node *now = img_tree_node(upper->tree, id);
    if (now)
        (void)img_tree_set_xattr(upper->tree, now, IMG_CAPABILITY, strlen(IMG_CAPABILITY), NULL, 0);
    unlock(upper);
    return 0;
}

/* And where it should not: what the tree has comes back. */
static void put_capability_back(img_upper *upper, img_id id, int fd) {
    char value[IMG_CAPABILITY_BYTES], place[IMG_FD_PATH_BYTES];
    uint32_t len = 0;
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    const char *kept =
        node ? img_node_xattr(node, IMG_CAPABILITY, strlen(IMG_CAPABILITY), &len) : NULL;
    bool fits = kept && len <= sizeof value;
    if (fits)
        memcpy(value, kept, len);
    unlock(upper);
    img_fd_path(fd, place);
    if (fits)
        (void)img_harmless_set_capability(upper, place, value, len);
}

/* A file's mtime is the kernel's, which caches writes: it says so by SETATTR, and only when it has
 * changed to the kernel's own clock.  So what writing makes of it in the upper is put back, and who
 * sets or puts back holds this. */
static pthread_mutex_t *times_of(img_upper *upper, img_id id) {
    return &upper->times[id % (sizeof upper->times / sizeof upper->times[0])];
}

/* ---- setattr ------------------------------------------------------------------------------ */

/* A node's object as system calls want it. */
typedef struct object {
    int fd;        /* of files and directories; of others O_PATH, and place is used */
    img_id pinned; /* 0: fd is ours */
    bool open;
    char place[IMG_FD_PATH_BYTES];
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
    img_fd_path(o->fd, o->place);
    return 0;
}

/* Whether the set-id bits of what shows this mode may stand in a mark. */
static bool may_be_marked(const img_upper *upper, uint32_t mode) {
    return upper->options.owners && mode & IMG_SET_ID_BITS && !S_ISDIR(mode) && !S_ISLNK(mode);
}

static int set_owner(const img_upper *upper, const object *o, uint32_t before, const img_set *set) {
    uid_t uid = set->what & IMG_SET_UID ? set->uid : (uid_t)-1;
    gid_t gid = set->what & IMG_SET_GID ? set->gid : (gid_t)-1;
    uint32_t had = 0;
    int result = may_be_marked(upper, before)
                     ? img_harmless_take(o->place, img_bits_lost_by_chown(before), &had)
                     : 0;
    if (result < 0)
        return result;
    result = (o->open ? fchown(o->fd, uid, gid) : chown(o->place, uid, gid)) < 0 ? -errno : 0;
    if (result < 0 && had)
        img_harmless_put_back(o->place, had);
    return result;
}

static int set_mode(const img_upper *upper, const object *o, uint32_t before, uint32_t mode,
                    bool chowned) {
    struct stat st; /* chown(2) may have made it what it shall be, and a step less cannot fail */
    if (may_be_marked(upper, before | mode))
        return img_harmless_chmod(upper, o->place, before, mode);
    bool known = chowned && fstat(o->fd, &st) == 0;
    if (known && (st.st_mode & 07777) == mode)
        return 0;
    int result = o->open ? fchmod(o->fd, mode) : chmod(o->place, mode);
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
    int result = o->open ? futimens(o->fd, times) : utimensat(AT_FDCWD, o->place, times, 0);
    return result < 0 ? -errno : 0;
}

static int set_size(img_upper *upper, img_id id, int fd, uint64_t was, const img_set *set) {
    if (set->size > INT64_MAX)
        return -EFBIG;
    /* To the size it has: the kernel, whose times count while it caches writes, leaves the file's
     * time alone, so the upper's must stay too. */
    int result = drop_capability(upper, id, fd);
    if (result == 0 && set->what & IMG_KILL_SUIDGID)
        result = strip_set_id(upper, id, fd, &set->caller);
    if (result == 0 && set->size != was && ftruncate(fd, (off_t)set->size) < 0)
        result = -errno;
    return result;
}

static const unsigned OWNER = IMG_SET_UID | IMG_SET_GID;
static const unsigned TIMES = IMG_SET_ATIME | IMG_SET_MTIME | IMG_SET_ATIME_NOW | IMG_SET_MTIME_NOW;

/* All but times. */
static int apply(img_upper *upper, img_id id, const object *o, const img_node *before,
                 const img_set *set) {
    int result = 0;
    if (set->what & IMG_SET_SIZE)
        result = set_size(upper, id, o->fd, before->size, set);
    if (result == 0 && set->what & OWNER) {
        if (S_ISREG(before->mode))
            result = drop_capability(upper, id, o->fd);
        if (result == 0) /* takes set-id bits, as chown(2) does */
            result = set_owner(upper, o, before->mode, set);
        if (result == 0 && S_ISREG(before->mode)) {
            /* and more from who may not keep it, which it cannot know: we are not the caller */
            if (set->caller.uid != 0)
                result = strip_set_id(upper, id, o->fd, &set->caller);
        }
    }
    if (result == 0 && set->what & IMG_SET_MODE && !S_ISLNK(before->mode))
        result = set_mode(upper, o, before->mode, set->mode & 07777, set->what & OWNER);
    return result;
}

/* W. The kernel, which caches writes, keeps a regular file's ctime itself and says what it has:
 * that must be what it finds when it has dropped the inode and asks again. */
static void keep_ctime(img_node *node, const img_set *set) {
    if (set->what & IMG_SET_CTIME && S_ISREG(node->mode)) {
        node->ctime_s = set->ctime_s;
        node->ctime_ns = set->ctime_ns;
    }
}

/* W. Sizes and mtimes belong to those who change them: another thread may be writing just now. */
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
    if (S_ISREG(node->mode) && img_node_data_is_up(node))
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

/* W. A node that only the kernel still knows: nothing is left to keep it for. */
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

static bool nothing_new(const img_node *node, const img_set *set) {
    return !(set->what & ~(unsigned)(IMG_SET_MTIME | IMG_SET_CTIME)) &&
           (!(set->what & IMG_SET_MTIME) ||
            (set->mtime_s == node->mtime_s && set->mtime_ns == node->mtime_ns));
}

enum { IN_UPPER = 2, IN_TREE = 3 };

/* R. Where the change goes: one of these, 0 (nowhere), IMG_DECLINED, or an errno. */
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

/* Sets times, and tells the tree what the object now says. what: that of set which was done. */
static int finish(img_upper *upper, img_id id, const object *o, uint32_t before, img_set done) {
    struct stat st;
    int result = 0;
    uint32_t shown = before | (done.what & IMG_SET_MODE ? done.mode : 0u);
    uint32_t marked = may_be_marked(upper, shown) ? img_harmless_bits(o->place) : 0;
    pthread_mutex_t *times = times_of(upper, id);
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

/* R. chown(2) with -1 and -1 reaches us as nothing at all: what it does beside (set-id bits, ctime)
 * a chown to the same owner does too.  A write of somebody else's that takes set-id bits is such a
 * nothing as well, followed by the WRITE that takes them; fastname.c tells them apart. */
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
    if (result < 0) /* what came before the error has happened */
        done.what &= ~(TIMES | IMG_SET_SIZE);
    int last = finish(upper, id, &o, before.mode, done);
    if (last < 0 && done.what & IMG_SET_SIZE)
        last = 0; /* what is cut off cannot come back, and was cut off just now: so it is done */
    img_upper_let_go(upper, o.fd, o.pinned);
    return result < 0 ? result : last;
}

/* ---- data --------------------------------------------------------------------------------- */

/* The descriptor of a file of the upper; IMG_WRITE_DECLINED when its data are the layers' still.
 * capability: writing takes security.capability, which goes before. */
static ssize_t pin_to_write(img_upper *upper, img_id id, bool capability) {
    if (upper->options.read_only || upper->options.work_fd < 0)
        return -EROFS;
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, id);
    bool below = node && S_ISREG(node->mode) && !img_node_data_is_up(node);
    bool dropped = capability && node && img_change_has_xattr(node, IMG_CAPABILITY);
    unlock(upper);
    if (below)
        return IMG_WRITE_DECLINED;
    int fd = img_upper_pin_to_write(upper, id);
    int result = fd >= 0 && dropped ? drop_capability(upper, id, fd) : 0;
    if (result < 0)
        img_upper_unpin(upper, id);
    return result < 0 ? result : fd;
}

/* After a change of data that ends at `end`: threads write one file at the same time, and the size
 * that fstat gave this one may be older than what another has told the tree. */
static void data_changed(img_upper *upper, img_id id, int fd, uint64_t end, bool cached) {
    struct stat st;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    bool capability = false;
    pthread_mutex_t *held = times_of(upper, id);
    (void)pthread_mutex_lock(held);
    bool known = fstat(fd, &st) == 0;
    lock_write(upper);
    img_node *node = img_tree_node(upper->tree, id);
    if (node) {
        if (end > node->size)
            node->size = end;
        times[1] = (struct timespec){.tv_sec = node->mtime_s, .tv_nsec = (long)node->mtime_ns};
        if (known)
            node->blocks = (uint64_t)st.st_blocks;
        capability = img_change_has_xattr(node, IMG_CAPABILITY);
    }
    unlock(upper);
    if (node &&
        (!known || st.st_mtim.tv_sec != times[1].tv_sec || st.st_mtim.tv_nsec != times[1].tv_nsec))
        (void)futimens(fd, times);
    (void)pthread_mutex_unlock(held);
    if (capability && cached)
        put_capability_back(upper, id, fd);
}

/* 0, or a negative errno; *done is what was written. */
static int write_all(int fd, uint64_t offset, const char *data, size_t size, size_t *done) {
    for (*done = 0; *done < size;) {
        ssize_t n = pwrite(fd, data + *done, size - *done, (off_t)(offset + *done));
        if (n < 0 && errno != EINTR)
            return -errno;
        *done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

ssize_t img_write(img_upper *upper, img_id id, uint64_t offset, const void *data, size_t size,
                  bool cached, const img_caller *kill) {
    uint64_t end;
    size_t done = 0;
    if (size > SSIZE_MAX || __builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
        return -EFBIG;
    ssize_t fd = pin_to_write(upper, id, !cached);
    if (fd < 0)
        return fd;
    int result = kill ? strip_set_id(upper, id, (int)fd, kill) : 0;
    if (result == 0)
        result = write_all((int)fd, offset, data, size, &done);
    if (done)
        data_changed(upper, id, (int)fd, offset + done, cached);
    img_upper_unpin(upper, id);
    return result < 0 ? result : (ssize_t)done;
}

/* Of what fails, nothing stays: ext4 for one grows the file as far as there was room. */
static int allocate(int fd, int mode, uint64_t offset, uint64_t length) {
    struct stat before, after;
    int result;
    if (fstat(fd, &before) < 0)
        return -errno;
    do
        result = fallocate(fd, mode, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
    while (result == -EINTR);
    if (result < 0 && fstat(fd, &after) == 0 && after.st_size > before.st_size &&
        ftruncate(fd, before.st_size) < 0)
        return -errno;
    return result;
}

int img_allocate(img_upper *upper, img_id id, int mode, uint64_t offset, uint64_t length,
                 const img_caller *kill) {
    uint64_t end;
    if (__builtin_add_overflow(offset, length, &end) || end > INT64_MAX)
        return -EFBIG;
    ssize_t fd = pin_to_write(upper, id, true);
    if (fd < 0)
        return fd == IMG_WRITE_DECLINED ? IMG_DECLINED : (int)fd;
    int result = kill ? strip_set_id(upper, id, (int)fd, kill) : 0;
    if (result == 0)
        result = allocate((int)fd, mode, offset, length);
    if (result == 0)
        data_changed(upper, id, (int)fd, mode & FALLOC_FL_KEEP_SIZE ? 0 : end, false);
    img_upper_unpin(upper, id);
    return result;
}

static bool cannot_share(ssize_t error) {
    return error == -EXDEV || error == -EOPNOTSUPP || error == -ENOSYS || error == -EINVAL ||
           error == -EBADF;
}

static ssize_t share(int from, uint64_t at, int to, uint64_t to_at, uint64_t length) {
    loff_t in = (loff_t)at, out = (loff_t)to_at;
    ssize_t n = copy_file_range(from, &in, to, &out, length, 0);
    return n < 0 ? -errno : n;
}

/* From a layer's file, where its archive and the upper cannot share, or it has holes. */
static ssize_t copy_layer(const img_content *content, uint64_t at, int to, uint64_t to_at,
                          uint64_t length) {
    ssize_t done = 0, n = 0;
    char *piece = malloc(COPY_PIECE);
    if (!piece)
        return -ENOMEM;
    uint64_t most = length < COPY_MOST ? length : COPY_MOST;
    while ((uint64_t)done < most) {
        size_t want =
            most - (uint64_t)done < COPY_PIECE ? (size_t)(most - (uint64_t)done) : COPY_PIECE;
        n = img_content_read(content, at + (uint64_t)done, piece, want);
        if (n <= 0)
            break;
        size_t written;
        n = write_all(to, to_at + (uint64_t)done, piece, (size_t)n, &written);
        done += (ssize_t)written;
        if (n < 0)
            break;
    }
    free(piece);
    return done ? done : n;
}

static ssize_t copy_from_layer(const img_content *content, uint64_t at, int to, uint64_t to_at,
                               uint64_t length) {
    if (at >= content->size)
        return 0;
    if (length > content->size - at)
        length = content->size - at;
    ssize_t n = img_content_share(content, at, to, to_at, length);
    if (n > 0 || (n < 0 && !cannot_share(n)))
        return n;
    return copy_layer(content, at, to, to_at, length);
}

/* Bytes of any file into the open one. */
static ssize_t copy_into(img_upper *upper, img_id from, uint64_t at, int to, uint64_t to_at,
                         uint64_t length) {
    img_content content;
    lock_read(upper);
    const img_node *node = img_tree_node(upper->tree, from);
    bool file = node && S_ISREG(node->mode);
    bool in_upper = file && img_node_data_is_up(node);
    if (file && !in_upper)
        content = img_content_of(upper->tree, node);
    unlock(upper);
    if (!file)
        return node ? -EINVAL : -ESTALE;
    if (!in_upper)
        return copy_from_layer(&content, at, to, to_at, length);
    int fd = img_upper_pin(upper, from);
    if (fd < 0)
        return fd;
    ssize_t n = share(fd, at, to, to_at, length);
    img_upper_unpin(upper, from);
    return n;
}

ssize_t img_copy_range(img_upper *upper, img_id from, uint64_t from_offset, img_id to,
                       uint64_t to_offset, uint64_t length, const img_caller *kill) {
    if (length > INT_MAX)
        length = INT_MAX & ~4095;
    if (from_offset > INT64_MAX - length || to_offset > INT64_MAX - length)
        return -EFBIG;
    ssize_t fd = pin_to_write(upper, to, true);
    if (fd < 0)
        return fd;
    ssize_t n = kill ? strip_set_id(upper, to, (int)fd, kill) : 0;
    if (n == 0)
        n = copy_into(upper, from, from_offset, (int)fd, to_offset, length);
    if (n > 0)
        data_changed(upper, to, (int)fd, to_offset + (uint64_t)n, false);
    img_upper_unpin(upper, to);
    return n;
}

int img_sync(img_upper *upper, img_id id, bool data_only) {
    if (upper->options.no_sync)
        return 0;
    int fd = img_upper_pin(upper, id);
    if (fd == -ESTALE || fd == -EINVAL)
        return 0;
    if (fd < 0)
        return fd;
    int result = (data_only ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
    img_upper_unpin(upper, id);
    return result;
}
