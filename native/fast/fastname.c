/* fastname.c: changes names, attributes and xattrs: translates requests for the room upper.
 *
 * Each change is made under the lock `change`, which Python may hold for long.  A request that does
 * not get the lock within FAST_PATIENCE_MS is sent to Python, which does it when the lock is free.
 */
#include "fast/fastname.h"

#include "fast/defer.h"
#include "fast/fastlook.h"
#include "fast/fastloop.h"
#include "fast/fastrequest.h"
#include "fast/push.h"
#include "upper/changeattr.h"
#include "upper/changemake.h"
#include "upper/changename.h"
#include "upper/changexattr.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* 0 with the lock `change` held, or the value that the handler must return. */
static int begin(fast_request *req) {
    if (!req->path->upper)
        return -EROFS;
    if (!img_upper_trylock(req->path->upper, FAST_PATIENCE_MS))
        return FAST_RELAY;
    if (!req->path->upper->reserved)
        return 0;
    img_upper_unlock(req->path->upper);
    return FAST_RELAY;
}

/* Unlocks.  Returns the value that the handler must return. */
static int end(fast_request *req, int result) {
    img_upper_unlock(req->path->upper);
    return result == IMG_DECLINED ? FAST_RELAY : result;
}

/* The kernel's 32-bit device number (new_encode_dev) as a dev_t. */
static uint64_t decode_dev(uint32_t dev) {
    return makedev((dev & 0xfff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xfff00));
}

/* ---- making ------------------------------------------------------------------------------- */

static img_maker maker(const fast_request *req, uint32_t umask) {
    const img_owner_map *owners = &req->path->tree->owners;
    return (img_maker){img_id_stored(&owners->uids, req->in->uid),
                       img_id_stored(&owners->gids, req->in->gid), umask};
}

typedef struct made {
    struct fuse_entry_out entry;
    struct fuse_open_out open; /* CREATE */
} made;

_Static_assert(offsetof(made, open) == sizeof(struct fuse_entry_out), "one reply, no padding");

static int make(fast_request *req, const char *name, size_t len, const img_new *what,
                uint32_t umask, size_t reply) {
    img_tree *tree = req->path->tree;
    img_maker who = maker(req, umask);
    made out = {.open = {.open_flags = FOPEN_KEEP_CACHE}};
    img_id id = 0;
    int result = begin(req);
    if (result)
        return result;
    result = img_make(req->path->upper, (img_id)req->in->nodeid, name, len, what, &who, &id);
    if (!result) {
        /* The nodeid may have belonged to a file into which a push is still under way. */
        fast_push_stop(req->path->notify, id);
        (void)pthread_rwlock_rdlock(&tree->lock);
        result = fast_entry(req, id, &out.entry);
        (void)pthread_rwlock_unlock(&tree->lock);
    }
    result = end(req, result);
    if (result)
        return result;
    if (fast_reply(req, &out, reply) < 0)
        img_forget(tree, req->path->upper, id, 1);
    return 0;
}

int fast_create(fast_request *req) {
    const struct fuse_create_in *in = (const void *)req->arg;
    size_t at = sizeof *in, len;
    const char *name = fast_name(req, &at, &len);
    img_new what = {.mode = S_IFREG | (in->mode & 07777)};
    return name ? make(req, name, len, &what, in->umask, sizeof(made)) : -EINVAL;
}

int fast_mknod(fast_request *req) {
    const struct fuse_mknod_in *in = (const void *)req->arg;
    size_t at = sizeof *in, len;
    const char *name = fast_name(req, &at, &len);
    img_new what = {.mode = in->mode, .rdev = decode_dev(in->rdev)};
    if (!name || S_ISDIR(in->mode) || S_ISLNK(in->mode))
        return -EINVAL;
    return make(req, name, len, &what, in->umask, sizeof(struct fuse_entry_out));
}

int fast_mkdir(fast_request *req) {
    const struct fuse_mkdir_in *in = (const void *)req->arg;
    size_t at = sizeof *in, len;
    const char *name = fast_name(req, &at, &len);
    img_new what = {.mode = S_IFDIR | (in->mode & 07777)};
    return name ? make(req, name, len, &what, in->umask, sizeof(struct fuse_entry_out)) : -EINVAL;
}

int fast_symlink(fast_request *req) {
    size_t at = 0, len, target_len;
    const char *name = fast_name(req, &at, &len);
    const char *target = name ? fast_name(req, &at, &target_len) : NULL;
    if (!target)
        return -EINVAL;
    img_new what = {.mode = S_IFLNK | 0777, .target = target, .target_len = target_len};
    return make(req, name, len, &what, 0, sizeof(struct fuse_entry_out));
}

int fast_link(fast_request *req) {
    const struct fuse_link_in *in = (const void *)req->arg;
    img_tree *tree = req->path->tree;
    struct fuse_entry_out entry;
    size_t at = sizeof *in, len;
    const char *name = fast_name(req, &at, &len);
    if (!name)
        return -EINVAL;
    if (in->oldnodeid > UINT32_MAX)
        return -ESTALE;
    int result = begin(req);
    if (result)
        return result;
    img_id id = (img_id)in->oldnodeid;
    result = img_link(req->path->upper, id, (img_id)req->in->nodeid, name, len);
    if (!result) {
        (void)pthread_rwlock_rdlock(&tree->lock);
        result = fast_entry(req, id, &entry);
        (void)pthread_rwlock_unlock(&tree->lock);
    }
    result = end(req, result);
    if (result)
        return result;
    if (fast_reply(req, &entry, sizeof entry) < 0)
        img_forget(tree, req->path->upper, id, 1);
    return 0;
}

int fast_tmpfile(fast_request *req) {
    const struct fuse_create_in *in = (const void *)req->arg;
    img_tree *tree = req->path->tree;
    img_maker who = maker(req, in->umask);
    made out = {.open = {.open_flags = FOPEN_KEEP_CACHE}};
    img_id id = 0;
    if (!req->path->upper)
        return -EROFS;
    /* Python has no handler for TMPFILE, so this waits for the lock however long that takes. */
    fast_will_wait(req->path);
    img_upper_lock(req->path->upper);
    int result = img_make_nameless(req->path->upper, (img_id)req->in->nodeid, in->mode, &who, &id);
    if (!result) {
        fast_push_stop(req->path->notify, id);
        (void)pthread_rwlock_rdlock(&tree->lock);
        result = fast_entry(req, id, &out.entry);
        (void)pthread_rwlock_unlock(&tree->lock);
    }
    img_upper_unlock(req->path->upper);
    if (result)
        return result;
    if (fast_reply(req, &out, sizeof out) < 0)
        img_forget(tree, req->path->upper, id, 1);
    return 0;
}

/* ---- removing and moving ------------------------------------------------------------------ */

/* Ends an operation whose answer has no body. */
static int end_empty(fast_request *req, int result) {
    result = end(req, result);
    return result ? result : fast_reply(req, NULL, 0);
}

static int take_name_away(fast_request *req,
                          int (*take_away)(img_upper *, img_id, const char *, size_t)) {
    size_t at = 0, len;
    const char *name = fast_name(req, &at, &len);
    if (!name)
        return -EINVAL;
    int result = begin(req);
    if (result)
        return result;
    return end_empty(req, take_away(req->path->upper, (img_id)req->in->nodeid, name, len));
}

int fast_unlink(fast_request *req) {
    return take_name_away(req, img_unlink);
}

int fast_rmdir(fast_request *req) {
    return take_name_away(req, img_rmdir);
}

static int move(fast_request *req, size_t at, uint64_t to, uint32_t flags) {
    size_t len, new_len;
    const char *name = fast_name(req, &at, &len);
    const char *new_name = name ? fast_name(req, &at, &new_len) : NULL;
    if (!new_name)
        return -EINVAL;
    if (to > UINT32_MAX)
        return -ESTALE;
    int result = begin(req);
    if (result)
        return result;
    return end_empty(req, img_rename(req->path->upper, (img_id)req->in->nodeid, name, len,
                                     (img_id)to, new_name, new_len, flags));
}

int fast_rename(fast_request *req) {
    const struct fuse_rename_in *in = (const void *)req->arg;
    return move(req, sizeof *in, in->newdir, 0);
}

int fast_rename2(fast_request *req) {
    const struct fuse_rename2_in *in = (const void *)req->arg;
    return move(req, sizeof *in, in->newdir, in->flags);
}

/* ---- attributes --------------------------------------------------------------------------- */

static unsigned what_to_set(uint32_t valid) {
    static const struct {
        uint32_t wire;
        unsigned set;
    } words[] = {
        {FATTR_MODE, IMG_SET_MODE},
        {FATTR_UID, IMG_SET_UID},
        {FATTR_GID, IMG_SET_GID},
        {FATTR_SIZE, IMG_SET_SIZE},
        {FATTR_ATIME, IMG_SET_ATIME},
        {FATTR_MTIME, IMG_SET_MTIME},
        {FATTR_ATIME_NOW, IMG_SET_ATIME_NOW},
        {FATTR_MTIME_NOW, IMG_SET_MTIME_NOW},
        {FATTR_CTIME, IMG_SET_CTIME},
        {FATTR_KILL_SUIDGID, IMG_KILL_SUIDGID},
    };
    unsigned what = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        what |= valid & words[i].wire ? words[i].set : 0;
    return what;
}

/* Finds out what a SETATTR means that sets nothing, or only ctime.
 *
 * There are two such requests:
 *     - chown(2) with -1 and -1 sets only ctime.  If the node is no regular file it sets nothing,
 *       because the kernel keeps no times of such nodes.
 *     - Before a write, a fallocate or a copy that takes privileges from a regular file, the kernel
 *       sends a SETATTR that sets nothing (file_remove_privs; with FUSE_HANDLE_KILLPRIV_V2 the file
 *       system must take them).  The set-id bits must be taken now, because the kernel learns the
 *       new mode only from this answer.
 */
static void understand(fast_request *req, img_set *set) {
    if (set->what & ~(unsigned)IMG_SET_CTIME)
        return;
    img_tree *tree = req->path->tree;
    uint32_t mode = 0, gid = 0;
    (void)pthread_rwlock_rdlock(&tree->lock);
    const img_node *node = img_tree_node(tree, req->in->nodeid);
    if (node) {
        mode = node->mode;
        gid = img_id_shown(&tree->owners.gids, node->gid);
    }
    (void)pthread_rwlock_unlock(&tree->lock);
    if (set->what || !S_ISREG(mode)) {
        set->what |= IMG_SAME_OWNER;
        return;
    }
    uint32_t lost =
        img_caller_keeps_set_id(&set->caller) ? 0 : img_caller_loses(&set->caller, mode, gid);
    if (lost) {
        set->what = IMG_SET_MODE;
        set->mode = mode & 07777 & ~lost;
    }
}

int fast_setattr(fast_request *req) {
    const struct fuse_setattr_in *in = (const void *)req->arg;
    int result;
    img_set set = {
        .what = what_to_set(in->valid),
        .mode = in->mode & 07777,
        .uid = img_id_stored(&req->path->tree->owners.uids, in->uid),
        .gid = img_id_stored(&req->path->tree->owners.gids, in->gid),
        .size = in->size,
        .atime_s = (int64_t)in->atime,
        .mtime_s = (int64_t)in->mtime,
        .ctime_s = (int64_t)in->ctime,
        .atime_ns = in->atimensec,
        .mtime_ns = in->mtimensec,
        .ctime_ns = in->ctimensec,
        .caller = fast_caller(req),
    };
    understand(req, &set);
    if (set.what & IMG_SET_SIZE) {
        img_id id = (img_id)req->in->nodeid;
        fast_push_stop(req->path->notify, id);
        if (fast_push_is_current(req->path->notify, id)) {
            result = fast_defer(req->path->notify, req, false);
            return result ? result : FAST_SILENT;
        }
    }
    result = begin(req);
    if (result)
        return result;
    result = end(req, img_setattr(req->path->upper, (img_id)req->in->nodeid, &set));
    return result ? result : fast_getattr(req);
}

/* ---- xattrs ------------------------------------------------------------------------------- */

static int set_xattr(fast_request *req, const char *name, size_t len, const char *value,
                     size_t size, int flags, bool kill) {
    bool copy_up = false;
    int result = begin(req);
    if (result)
        return result;
    result = img_set_xattr(req->path->upper, (img_id)req->in->nodeid, name, len, value, size, flags,
                           kill, &copy_up);
    result = end(req, result);
    if (result == FAST_RELAY && copy_up) {
        req->wanted = req->in->nodeid;
        return FAST_COPY_UP_ATTRIBUTES;
    }
    return result ? result : fast_reply(req, NULL, 0);
}

int fast_setxattr(fast_request *req) {
    struct fuse_setxattr_in in = {0};
    size_t at = req->path->setxattr_ext ? sizeof in : FUSE_COMPAT_SETXATTR_IN_SIZE, len;
    if (req->arg_len < at + 2)
        return fast_malformed(req, "it is cut");
    memcpy(&in, req->arg, at);
    const char *name = fast_name(req, &at, &len);
    if (!name)
        return -EINVAL;
    /* libfuse does not check this, so a broken request must not be passed on. */
    if (in.size > req->arg_len - at)
        return fast_malformed(req, "a value is cut");
    return set_xattr(req, name, len, req->arg + at, in.size, (int)in.flags,
                     in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID);
}

int fast_removexattr(fast_request *req) {
    size_t at = 0, len;
    const char *name = fast_name(req, &at, &len);
    return name ? set_xattr(req, name, len, NULL, 0, 0, false) : -EINVAL;
}
