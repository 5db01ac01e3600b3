/* changename.c: removes, adds and moves names. */
#define _GNU_SOURCE /* renameat2, O_PATH */
#include "upper/changename.h"

#include "base/beneath.h"
#include "upper/changeinner.h"

#include <string.h>
#include <unistd.h>

/* ---- removing ----------------------------------------------------------------------------- */

/* A node that loses a name, and what becomes of its object. */
typedef struct loser {
    img_id id;
    bool in_upper, is_dir;
    bool others; /* it has further names */
    bool orphan; /* its object moves to the work directory */
    img_identity is;
} loser;

/* R. */
static loser loser_of(const img_tree *tree, img_id id) {
    const img_node *node = img_node_at(tree, id);
    loser l = {.id = id, .in_upper = node->flags & IMG_NODE_UPPER, .is_dir = img_is_dir(node)};
    l.others = node->names && img_dentry_at(tree, node->names)->link_next;
    l.orphan = l.in_upper && !l.is_dir && !l.others &&
               __atomic_load_n(&node->lookups, __ATOMIC_RELAXED) > 0;
    l.is = img_upper_identity(node);
    return l;
}

/* -EIO if the object at the name is not the node's, because a user has put another one there.  An
 * object that is gone is no error here: a whiteout can still be put in its place. */
static int check_is(img_upper *upper, int dir, const char *name, img_id id) {
    img_identity seen;
    if (img_identity_of(dir, name, &seen) < 0)
        return 0;
    lock_read(upper);
    bool same = img_upper_is(upper, img_node_at(upper->tree, id), &seen);
    unlock(upper);
    return same ? 0 : -EIO;
}

/* Puts a whiteout under the name, in exchange for a file if there is one. */
static int put_whiteout(img_upper *upper, int dir, const char *name) {
    char stage[IMG_STAGE_BYTES];
    img_stage_name(upper, stage);
    if (mknodat(upper->options.work_fd, stage, S_IFCHR, 0) < 0)
        return -errno;
    int result = rename_to(upper->options.work_fd, stage, dir, name, 0);
    if (result < 0)
        (void)unlinkat(upper->options.work_fd, stage, 0);
    return result;
}

/* Gives the object a (second) name in the work directory. */
static int link_orphan(const img_upper *upper, int dir, const char *name, img_id id) {
    char orphan[IMG_ORPHAN_BYTES];
    img_upper_orphan(id, orphan);
    int work = upper->options.work_fd;
    if (linkat(dir, name, work, orphan, 0) == 0)
        return 0;
    if (errno != EEXIST ||
        unlinkat(work, orphan, 0) < 0) /* left from an earlier use of that nodeid */
        return -errno;
    return linkat(dir, name, work, orphan, 0) < 0 ? -errno : 0;
}

/* Moves the object to the work directory, and leaves a whiteout if the layers have the name. */
static int move_to_orphan(img_upper *upper, int dir, const img_named *at, const loser *l) {
    char orphan[IMG_ORPHAN_BYTES];
    img_id id = l->id;
    img_upper_orphan(id, orphan);
    int work = upper->options.work_fd;
    int result = img_take_out(upper, dir, at->name, l->is, orphan, at->lower ? RENAME_WHITEOUT : 0);
    if (result != -EINVAL || !at->lower)
        return result;
    result = link_orphan(upper, dir, at->name, id); /* the file system has no RENAME_WHITEOUT */
    if (result < 0)
        return result;
    result = put_whiteout(upper, dir, at->name);
    if (result < 0)
        (void)unlinkat(work, orphan, 0);
    return result;
}

/* Removes the name from the upper. */
static int take_away(img_upper *upper, int dir, const img_named *at, const loser *l) {
    if (l->orphan) {
        int result = move_to_orphan(upper, dir, at, l);
        if (result == 0)
            img_upper_note_orphan(upper);
        return result;
    }
    if (l->in_upper && at->lower)
        return put_whiteout(upper, dir, at->name);
    if (l->in_upper)
        return unlinkat(dir, at->name, 0) < 0 ? -errno : 0;
    if (mknodat(dir, at->name, S_IFCHR, 0) == 0)
        return 0;
    /* a copy-up that failed halfway may have left an object there */
    return errno == EEXIST ? put_whiteout(upper, dir, at->name) : -errno;
}

/* W. Removes the name from the tree. st: of the directory; object: of the object, if that still has
 * other names, else NULL. True when an orphan was made, but the kernel has forgotten the node
 * since. */
static bool drop(img_tree *tree, const img_named *at, const loser *l, const struct stat *st,
                 const struct stat *object) {
    img_tree_drop_name(tree, at->dentry, true);
    img_change_times(img_node_at(tree, at->parent), st);
    img_node *node = img_tree_node(tree, l->id);
    if (node && l->in_upper) { /* the kernel knows it, or it has other names */
        const struct timespec *ctime = object ? &object->st_ctim : &st->st_ctim;
        node->ctime_s = ctime->tv_sec;
        node->ctime_ns = (uint32_t)ctime->tv_nsec;
    }
    return l->orphan && !node;
}

static void unlink_orphan(const img_upper *upper, img_id id) {
    char orphan[IMG_ORPHAN_BYTES];
    img_upper_orphan(id, orphan);
    (void)unlinkat(upper->options.work_fd, orphan, 0);
}

int img_unlink(img_upper *upper, img_id parent, const char *name, size_t len) {
    img_named at;
    loser l = {0};
    struct stat st = {0}, object = {0};
    lock_read(upper);
    int result = img_find_named(upper, parent, name, len, &at);
    if (result == 0 && !at.node)
        result = -ENOENT;
    if (result == 0) {
        l = loser_of(upper->tree, at.node);
        result = l.is_dir ? -EISDIR : at.reached ? 0 : IMG_DECLINED;
    }
    unlock(upper);
    if (result != 0)
        return result;
    int dir = img_upper_pin(upper, parent);
    if (dir < 0)
        return dir;
    int other = -1; /* to read the object's ctime afterwards */
    if (l.in_upper && l.others)
        other = openat(dir, at.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    img_upper_moving(upper);
    result = l.in_upper ? check_is(upper, dir, at.name, l.id) : 0;
    if (result == 0)
        result = take_away(upper, dir, &at, &l);
    if (result == 0) {
        (void)fstat(dir, &st);
        bool asked = other >= 0 && fstat(other, &object) == 0;
        lock_write(upper);
        bool unwanted = drop(upper->tree, &at, &l, &st, asked ? &object : NULL);
        unlock(upper);
        if (unwanted)
            unlink_orphan(upper, l.id);
    }
    img_upper_moved(upper);
    if (other >= 0)
        (void)close(other);
    img_upper_unpin(upper, parent);
    return result;
}

/* R. 0, IMG_DECLINED, or a negative errno. */
static int may_rmdir(const img_tree *tree, const img_named *at) {
    if (!at->node)
        return -ENOENT;
    const img_node *node = img_node_at(tree, at->node);
    if (!img_is_dir(node))
        return -ENOTDIR;
    const img_dir *dir = node->u.dir;
    if (dir && dir->live)
        return -ENOTEMPTY;
    bool whiteouts = dir && dir->used - dir->holes > 0;
    bool simple = at->reached && node->flags & IMG_NODE_UPPER && !at->lower && !whiteouts;
    return simple ? 0 : IMG_DECLINED;
}

int img_rmdir(img_upper *upper, img_id parent, const char *name, size_t len) {
    img_named at;
    struct stat st = {0};
    lock_read(upper);
    int result = img_find_named(upper, parent, name, len, &at);
    if (result == 0)
        result = may_rmdir(upper->tree, &at);
    unlock(upper);
    if (result != 0)
        return result;
    int dir = img_upper_pin(upper, parent);
    if (dir < 0)
        return dir;
    loser l = {.id = at.node, .in_upper = true, .is_dir = true};
    img_upper_moving(upper);
    result = check_is(upper, dir, at.name, at.node);
    if (result == 0 && unlinkat(dir, at.name, AT_REMOVEDIR) < 0) {
        /* whiteouts that hide nothing are in the upper, but not in the tree */
        result = errno == ENOTEMPTY ? IMG_DECLINED : -errno;
    } else if (result == 0) {
        (void)fstat(dir, &st);
        lock_write(upper);
        (void)drop(upper->tree, &at, &l, &st, NULL);
        unlock(upper);
    }
    img_upper_moved(upper);
    img_upper_unpin(upper, parent);
    return result;
}

/* ---- link --------------------------------------------------------------------------------- */

/* Links the object under its new name, in exchange for a whiteout if there is one.  It is named by
 * its descriptor, because users may have put another object at its name. */
static int link_at(img_upper *upper, int fd, int dir, const img_named *at) {
    if (!at->lower)
        return img_link_object(fd, dir, at->name);
    char stage[IMG_STAGE_BYTES];
    img_stage_name(upper, stage);
    int work = upper->options.work_fd;
    int result = img_link_object(fd, work, stage);
    if (result < 0)
        return result;
    result = rename_to(work, stage, dir, at->name, 0);
    if (result < 0)
        (void)unlinkat(work, stage, 0);
    return result;
}

/* Adds the name in the upper and in the tree. orphan: the file is moved out of the work directory.
 * fd: of the object. The directory is pinned. */
static int link_object(img_upper *upper, int fd, int dir, const img_named *at, img_id id,
                       bool orphan) {
    struct stat st = {0}, object = {0};
    char name[IMG_ORPHAN_BYTES];
    int work = upper->options.work_fd;
    img_identity is = {0};
    img_upper_orphan(id, name);
    if (orphan)
        img_upper_moving(upper);
    int result = orphan ? rename_to(work, name, dir, at->name, at->lower ? 0 : RENAME_NOREPLACE)
                        : link_at(upper, fd, dir, at);
    if (result == 0) {
        (void)fstat(dir, &st);
        (void)fstat(fd, &object);
        lock_write(upper);
        img_tree *tree = upper->tree;
        result = img_tree_add_name(tree, at->parent, at->name, strlen(at->name), id, 0);
        is = img_upper_identity(img_node_at(tree, id));
        img_node_at(tree, id)->ctime_s = object.st_ctim.tv_sec;
        img_node_at(tree, id)->ctime_ns = (uint32_t)object.st_ctim.tv_nsec;
        img_change_times(img_node_at(tree, at->parent), &st);
        unlock(upper);
        if (result < 0 && orphan)
            (void)img_take_out(upper, dir, at->name, is, name, 0);
        else if (result < 0)
            (void)unlinkat(dir, at->name, 0);
    }
    if (orphan)
        img_upper_moved(upper);
    return result;
}

int img_link(img_upper *upper, img_id id, img_id parent, const char *name, size_t len) {
    img_named at;
    bool orphan = false;
    lock_read(upper);
    int result = img_find_named(upper, parent, name, len, &at);
    const img_node *node = img_tree_node(upper->tree, id);
    if (result == 0 && !node)
        result = -ESTALE;
    if (result == 0) {
        orphan = !node->names;
        bool in_upper = at.reached && node->flags & IMG_NODE_UPPER;
        result = img_is_dir(node)                     ? -EPERM
                 : at.node                            ? -EEXIST
                 : at.gone                            ? -ENOENT
                 : !img_tree_has_room(upper->tree, 0) ? -ENOSPC
                 : in_upper                           ? 0
                                                      : IMG_DECLINED;
    }
    unlock(upper);
    if (result != 0)
        return result;
    int dir = img_upper_pin(upper, parent);
    if (dir < 0)
        return dir;
    img_id pinned;
    int fd = img_upper_hold(upper, id, &pinned);
    result = fd < 0 ? fd : link_object(upper, fd, dir, &at, id, orphan);
    if (fd >= 0)
        img_upper_let_go(upper, fd, pinned);
    img_upper_unpin(upper, parent);
    return result;
}

/* ---- rename ------------------------------------------------------------------------------- */

/* R. 0, IMG_DECLINED, or a negative errno. */
static int may_rename(const img_tree *tree, const img_named *from, const img_named *to,
                      unsigned flags) {
    if (!from->node)
        return -ENOENT;
    if (to->node && flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (to->gone)
        return -ENOENT;
    const img_node *node = img_node_at(tree, from->node);
    bool is_dir = img_is_dir(node);
    if (is_dir && img_upper_is_deepest(tree, to->parent))
        return -ENAMETOOLONG;
    if (to->node) {
        const img_node *there = img_node_at(tree, to->node);
        if (is_dir != img_is_dir(there))
            return is_dir ? -ENOTDIR : -EISDIR;
        if (is_dir && there->u.dir && there->u.dir->live)
            return -ENOTEMPTY;
    }
    bool in_upper = from->reached && to->reached && node->flags & IMG_NODE_UPPER;
    bool simple = !is_dir || (node->layer == IMG_LAYER_UPPER && !to->node && !to->lower);
    return in_upper && simple ? 0 : IMG_DECLINED;
}

/* W. Renames in the tree. st: of both directories and of the object that was moved. *unwanted: as
 * drop returns it. */
static int move_in_tree(img_tree *tree, const img_named *from, const img_named *to, const loser *l,
                        const struct stat st[3], bool *unwanted) {
    if (to->node)
        *unwanted = drop(tree, to, l, &st[1], NULL);
    int result = img_tree_move(tree, from->dentry, to->parent, to->name, strlen(to->name), true);
    if (result < 0)
        return result;
    img_change_times(img_node_at(tree, from->parent), &st[0]);
    img_change_times(img_node_at(tree, to->parent), &st[1]);
    img_node *node = img_node_at(tree, from->node);
    node->ctime_s = st[2].st_ctim.tv_sec;
    node->ctime_ns = (uint32_t)st[2].st_ctim.tv_nsec;
    return 0;
}

/* Moves back an object that was another's.  If users prevent this, it stays at its new name, which
 * the tree does not have. */
static void move_back(int dir, const img_named *from, int to_dir, const img_named *to) {
    int result = rename_to(to_dir, to->name, dir, from->name, RENAME_NOREPLACE);
    if (result == -EEXIST && from->lower) /* the whiteout that the rename has left */
        (void)rename_to(to_dir, to->name, dir, from->name, RENAME_EXCHANGE);
}

/* Renames in the upper and in the tree. l: the node that is replaced, if its id is not 0. */
static int move_object(img_upper *upper, int dir, const img_named *from, int to_dir,
                       const img_named *to, const loser *l) {
    struct stat st[3] = {{0}};
    bool unwanted = false;
    img_upper_moving(upper);
    int result = check_is(upper, dir, from->name, from->node);
    if (result == 0 && l->in_upper)
        result = check_is(upper, to_dir, to->name, l->id);
    if (result == 0 && l->orphan)
        result = link_orphan(upper, to_dir, to->name, l->id);
    if (result == 0) {
        result = rename_to(dir, from->name, to_dir, to->name, from->lower ? RENAME_WHITEOUT : 0);
        if (result < 0 && l->orphan)
            unlink_orphan(upper, l->id);
    }
    if (result == 0) {
        int moved = check_is(upper, to_dir, to->name, from->node);
        if (moved < 0)
            move_back(dir, from, to_dir, to);
        (void)fstat(dir, &st[0]);
        (void)fstat(to_dir, &st[1]);
        (void)stat_of(to_dir, to->name, &st[2]);
        lock_write(upper);
        if (moved == 0)
            result = move_in_tree(upper->tree, from, to, l, st, &unwanted);
        else if (to->node) /* it was replaced, and so is gone */
            unwanted = drop(upper->tree, to, l, &st[1], NULL);
        unlock(upper);
        if (unwanted)
            unlink_orphan(upper, l->id);
        result = moved < 0 ? moved : result;
    }
    img_upper_moved(upper);
    return result;
}

int img_rename(img_upper *upper, img_id parent, const char *name, size_t len, img_id to,
               const char *new_name, size_t new_len, unsigned flags) {
    img_named source, target;
    loser l = {0};
    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return IMG_DECLINED;
    lock_read(upper);
    int result = img_find_named(upper, parent, name, len, &source);
    if (result == 0)
        result = img_find_named(upper, to, new_name, new_len, &target);
    bool same = result == 0 && source.node && source.node == target.node;
    if (result == 0)
        result = may_rename(upper->tree, &source, &target, flags);
    if (result == 0 && target.node)
        l = loser_of(upper->tree, target.node);
    unlock(upper);
    if (same && result != -EEXIST)
        return 0; /* two names of one file: POSIX says that nothing is done */
    if (result != 0)
        return result;
    int dir = img_upper_pin(upper, parent);
    if (dir < 0)
        return dir;
    int to_dir = img_upper_pin(upper, to);
    result = to_dir;
    if (to_dir >= 0) {
        result = move_object(upper, dir, &source, to_dir, &target, &l);
        img_upper_unpin(upper, to);
    }
    img_upper_unpin(upper, parent);
    return result;
}
