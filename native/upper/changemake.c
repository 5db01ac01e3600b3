/* changemake.c: makes objects, with and without a name. */
#define _GNU_SOURCE /* renameat2, O_NOATIME */
#include "upper/changemake.h"

#include "base/beneath.h"
#include "tree/xattrs.h"
#include "upper/changeinner.h"
#include "upper/harmless.h"

#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TARGET_BYTES 4096 /* PATH_MAX, with its NUL */

/* ---- making ------------------------------------------------------------------------------- */

/* An object that is being made: what it must become, and where it is now.
 *
 * Other users may be able to write to the final directory.  They can put any object at the name
 * there, at any time: so nothing is looked at, changed or removed by this name.  Owner, mode and
 * identity come from the work directory, or from a descriptor. */
typedef struct making {
    const img_new *what;
    uint32_t mode, uid, gid;
    char target[TARGET_BYTES];
    int dir;          /* its directory now: the final one, or the work directory */
    const char *name; /* its name there */
    int fd;           /* of a regular file, or O_PATH of another object that was staged; else -1 */
    struct stat st;
    img_identity identity;
} making;

/* Whether an object of this mode must have its set-id bits in a mark. */
static bool is_marked(const img_upper *upper, uint32_t mode) {
    return upper->options.harmless_files && mode & IMG_SET_ID_BITS && !S_ISDIR(mode) &&
           !S_ISLNK(mode);
}

/* R. Whether no other user can change names in the directory.  If it has an ACL, its group's bits
 * are the ACL's mask, so they include what the ACL lets anybody do. */
static bool is_closed(const img_upper *upper, const img_node *dir) {
    return (dir->uid == upper->uid || dir->uid == 0) && !(dir->mode & (S_IWGRP | S_IWOTH));
}

/* R. The bytes of the ACLs that a new object inherits. */
static uint64_t inherited(const img_node *above, uint32_t mode) {
    uint32_t len = 0;
    (void)img_node_xattr(above, IMG_ACL_DEFAULT, strlen(IMG_ACL_DEFAULT), &len);
    return S_ISDIR(mode) ? 2 * (uint64_t)len : len;
}

/* R. Decides what the object must become, and whether it can be made here: 0, IMG_DECLINED or a
 * negative errno.  *direct: it can be made under its final name. */
static int plan(const img_upper *upper, const img_named *at, const img_new *what,
                const img_maker *who, making *m, bool *direct) {
    const img_node *above = img_tree_node(upper->tree, at->parent);
    bool link = S_ISLNK(what->mode), hands_down = above->mode & S_ISGID;
    if (at->node)
        return -EEXIST;
    if (at->gone)
        return -ENOENT;
    if (S_ISDIR(what->mode) && img_upper_is_deepest(upper->tree, at->parent))
        return -ENAMETOOLONG;
    if (!img_tree_has_room(upper->tree, link ? what->target_len : inherited(above, what->mode)))
        return -ENOSPC;
    bool device = S_ISCHR(what->mode) || S_ISBLK(what->mode);
    if (device && (what->rdev == 0 || !upper->options.owners || upper->options.harmless_devices))
        return IMG_DECLINED;
    if (is_marked(upper, what->mode))
        return IMG_DECLINED;
    if (link && what->target_len >= TARGET_BYTES)
        return -ENAMETOOLONG;
    if (!at->reached || (S_ISDIR(what->mode) && at->lower))
        return IMG_DECLINED;
    if (!link && img_change_has_xattr(above, IMG_ACL_DEFAULT))
        return IMG_DECLINED;
    m->what = what;
    m->mode = link ? what->mode : what->mode & ~(who->umask & 0777u);
    m->uid = who->uid;
    m->gid = hands_down ? above->gid : who->gid;
    if (hands_down && S_ISDIR(what->mode))
        m->mode |= S_ISGID;
    if (link) {
        memcpy(m->target, what->target, what->target_len);
        m->target[what->target_len] = 0;
    }
    bool same_group = hands_down && upper->options.owners ? true : m->gid == upper->gid;
    /* Only a regular file has a descriptor from the call that makes it.  Other objects are made in
     * the work directory, unless nobody else can change the name. */
    bool ready = S_ISREG(m->mode) || (!hands_down && is_closed(upper, above));
    *direct = !at->lower && m->uid == upper->uid && same_group && ready;
    if (upper->options.owners)
        return 0;
    /* The daemon must be able to open the object; rootfs/objects.py stores other owners and modes.
     */
    uint32_t mine = link ? 0 : S_ISDIR(m->mode) ? 0700 : 0600;
    bool kept = m->uid == upper->uid && m->gid == upper->gid && !hands_down;
    return kept && (m->mode & mine) == mine ? 0 : IMG_DECLINED;
}

static void close_object(const making *m) {
    if (m->fd >= 0)
        (void)close(m->fd);
}

/* Removes the object, if it is still at its name. */
static void unmake(img_upper *upper, const making *m) {
    char stage[IMG_STAGE_BYTES];
    int work = upper->options.work_fd, how = S_ISDIR(m->mode) ? AT_REMOVEDIR : 0;
    close_object(m);
    if (m->dir == work) {
        (void)unlinkat(work, m->name, how);
        return;
    }
    img_out_name(upper, stage);
    if (img_take_out(upper, m->dir, m->name, m->identity, stage, 0) == 0)
        (void)unlinkat(work, stage, how);
}

static int make_object(img_upper *upper, making *m) {
    int result = 0;
    m->fd = -1;
    if (S_ISREG(m->mode)) {
        const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOATIME;
        m->fd = openat(m->dir, m->name, flags | O_EXCL, m->mode & 07777);
        result = m->fd;
    } else if (S_ISDIR(m->mode)) {
        result = mkdirat(m->dir, m->name, m->mode & 07777);
    } else if (S_ISLNK(m->mode)) {
        result = symlinkat(m->target, m->dir, m->name);
    } else {
        result = mknodat(m->dir, m->name, m->mode, m->what->rdev);
    }
    if (result < 0)
        return -errno;
    if (m->fd < 0 && m->dir == upper->options.work_fd) {
        m->fd = openat(m->dir, m->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        result = m->fd < 0 ? -errno : 0;
    }
    int at = m->fd >= 0 ? m->fd : m->dir;
    const char *name = m->fd >= 0 ? "" : m->name;
    if (result >= 0)
        result = stat_of(at, name, &m->st);
    if (result == 0)
        result = img_identity_of(at, name, &m->identity);
    if (result < 0) { /* before its identity is known, it is not removed from an open directory */
        close_object(m);
        if (m->dir == upper->options.work_fd)
            (void)unlinkat(m->dir, m->name, S_ISDIR(m->mode) ? AT_REMOVEDIR : 0);
    }
    return result;
}

/* Sets owner and mode if they are not right yet; chown first, because it takes set-id bits. */
static int give_owner_and_mode(making *m) {
    bool given = m->st.st_uid != m->uid || m->st.st_gid != m->gid, file = S_ISREG(m->mode);
    if (given) {
        if ((file ? fchown(m->fd, m->uid, m->gid)
                  : fchownat(m->dir, m->name, m->uid, m->gid, AT_SYMLINK_NOFOLLOW)) < 0)
            return -errno;
    }
    if (S_ISLNK(m->mode) || (m->st.st_mode == m->mode && !(given && m->mode & 06000)))
        return 0;
    uint32_t mode = m->mode & 07777;
    return (file ? fchmod(m->fd, mode) : fchmodat(m->dir, m->name, mode, AT_SYMLINK_NOFOLLOW)) < 0
               ? -errno
               : 0;
}

/* Makes the object so that it appears under its name by one system call, complete. */
static int make_at(img_upper *upper, const img_named *at, int dir, making *m, bool direct) {
    char stage[IMG_STAGE_BYTES];
    m->dir = direct ? dir : upper->options.work_fd;
    m->name = at->name;
    if (!direct) {
        img_stage_name(upper, stage);
        m->name = stage;
    }
    int result = make_object(upper, m);
    if (result < 0)
        return result;
    bool unlike = (m->st.st_uid != m->uid || m->st.st_gid != m->gid ||
                   (m->st.st_mode != m->mode && !S_ISLNK(m->mode)));
    if (unlike)
        result = give_owner_and_mode(m);
    if (result == 0 && !direct)
        result = rename_to(m->dir, stage, dir, at->name, at->lower ? 0 : RENAME_NOREPLACE);
    if (result < 0) {
        unmake(upper, m);
        return result;
    }
    m->dir = dir;
    m->name = at->name;
    if (unlike || !direct)
        result = m->fd >= 0 ? stat_of(m->fd, "", &m->st) : stat_of(dir, at->name, &m->st);
    return result;
}

static img_attributes attributes_of(const struct stat *st) {
    return (img_attributes){
        .size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0,
        .rdev = S_ISREG(st->st_mode) ? (uint64_t)st->st_blocks : st->st_rdev,
        .mtime_s = st->st_mtim.tv_sec,
        .atime_s = st->st_atim.tv_sec,
        .ctime_s = st->st_ctim.tv_sec,
        .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
        .atime_ns = (uint32_t)st->st_atim.tv_nsec,
        .ctime_ns = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .uid = st->st_uid,
        .gid = st->st_gid,
    };
}

/* W. Makes the node of a new object, and its name. above: the directory now. -ENOMEM, -EMLINK */
static int adopt(img_upper *upper, const img_named *at, const making *m, const struct stat *above,
                 img_id *out) {
    img_tree *tree = upper->tree;
    img_attributes a = attributes_of(&m->st);
    img_id id = img_tree_new_node(tree, &a, IMG_LAYER_UPPER);
    if (!id)
        return -ENOMEM;
    int result = 0;
    if (S_ISLNK(a.mode))
        result = img_tree_set_target(tree, img_node_at(tree, id), m->target, m->what->target_len);
    if (result == 0)
        result = img_tree_add_name(tree, at->parent, at->name, strlen(at->name), id, 0);
    if (result < 0) {
        (void)img_tree_release(tree, id);
        return result;
    }
    img_node_at(tree, id)->flags |= IMG_NODE_UPPER;
    img_node_at(tree, id)->ino = IMG_INO_UPPER + m->st.st_ino;
    img_node_at(tree, id)->object = m->identity.object;
    img_node_at(tree, id)->born = m->identity.born;
    img_change_times(img_node_at(tree, at->parent), above);
    *out = id;
    return 0;
}

/* ---- without a name ----------------------------------------------------------------------- */

/* Makes a file that inherits a default ACL: in a temporary directory that has the ACL, from which
 * it moves to `stage` in the work directory. A descriptor, or a negative errno. */
static int open_inheriting(img_upper *upper, const char *stage, uint32_t mode, const char *acl,
                           size_t acl_len) {
    char nest[IMG_STAGE_BYTES];
    int work = upper->options.work_fd, fd = -1, result = 0;
    img_stage_name(upper, nest);
    if (mkdirat(work, nest, 0700) < 0)
        return -errno;
    int dir = openat(work, nest, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0 || fsetxattr(dir, IMG_ACL_DEFAULT, acl, acl_len, 0) < 0)
        result = -errno;
    if (result == 0) {
        fd = openat(dir, "new", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode & 07777);
        result = fd < 0 ? -errno : rename_to(dir, "new", work, stage, 0);
    }
    if (result < 0 && fd >= 0) {
        (void)unlinkat(dir, "new", 0);
        (void)close(fd);
    }
    if (dir >= 0)
        (void)close(dir);
    (void)unlinkat(work, nest, AT_REMOVEDIR);
    return result < 0 ? result : fd;
}

/* Gives the node the ACL that the file was made with. 0, or a negative errno. */
static int take_acl(img_upper *upper, img_id id, int fd) {
    char value[IMG_XATTR_VALUE_MAX];
    ssize_t n = fgetxattr(fd, IMG_ACL_ACCESS, value, sizeof value);
    if (n < 0)
        return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -errno;
    lock_write(upper);
    int result = img_tree_set_xattr(upper->tree, img_node_at(upper->tree, id), IMG_ACL_ACCESS,
                                    strlen(IMG_ACL_ACCESS), value, (size_t)n);
    unlock(upper);
    return result;
}

/* Makes the node of a file in the work directory, and makes the file the node's orphan. bits:
 * set-id bits that are in a mark. */
static int adopt_nameless(img_upper *upper, const char *stage, int fd, uint32_t bits, img_id *out) {
    struct stat st;
    img_identity identity = {0};
    char orphan[IMG_ORPHAN_BYTES];
    if (fstat(fd, &st) < 0)
        return -errno;
    int result = img_identity_of(fd, "", &identity);
    if (result < 0)
        return result;
    st.st_mode |= bits;
    img_attributes a = attributes_of(&st);
    lock_write(upper);
    img_id id = img_tree_new_node(upper->tree, &a, IMG_LAYER_UPPER);
    if (id) {
        img_node_at(upper->tree, id)->flags |= IMG_NODE_UPPER;
        img_node_at(upper->tree, id)->ino = IMG_INO_UPPER + st.st_ino;
        img_node_at(upper->tree, id)->object = identity.object;
        img_node_at(upper->tree, id)->born = identity.born;
    }
    unlock(upper);
    if (!id)
        return -ENOMEM;
    img_upper_orphan(id, orphan);
    result = rename_to(upper->options.work_fd, stage, upper->options.work_fd, orphan, 0);
    if (result == 0)
        result = take_acl(upper, id, fd);
    if (result == 0) {
        *out = id;
        return 0;
    }
    (void)unlinkat(upper->options.work_fd, orphan, 0);
    lock_write(upper);
    (void)img_tree_release(upper->tree, id);
    unlock(upper);
    return result;
}

/* Adds set-id bits, as a mark. */
static int give_bits(const img_upper *upper, int fd, uint32_t mode, uint32_t bits) {
    char fd_path[IMG_FD_PATH_BYTES];
    img_fd_path(fd, fd_path);
    return img_harmless_chmod(upper, fd_path, mode, mode | bits);
}

/* R. A copy of the directory's default ACL; NULL when there is none. The caller frees it. */
static char *default_acl(const img_upper *upper, img_id parent, uint32_t *len) {
    const char *value = img_node_xattr(img_tree_node(upper->tree, parent), IMG_ACL_DEFAULT,
                                       strlen(IMG_ACL_DEFAULT), len);
    char *copy = value ? malloc(*len) : NULL;
    return copy ? memcpy(copy, value, *len) : NULL;
}

int img_make_nameless(img_upper *upper, img_id parent, uint32_t mode, const img_maker *who,
                      img_id *out) {
    char stage[IMG_STAGE_BYTES];
    uint32_t acl_len = 0;
    making m = {.dir = upper->options.work_fd, .name = stage, .uid = who->uid, .gid = who->gid};
    if (upper->options.read_only || upper->options.work_fd < 0)
        return -EROFS;
    lock_read(upper);
    const img_node *above = img_tree_node(upper->tree, parent);
    int result = !above ? -ESTALE : !img_is_dir(above) ? -ENOTDIR : 0;
    if (result == 0 && parent != IMG_ROOT && !above->names)
        result = -ENOENT;
    if (result == 0 && !img_tree_has_room(upper->tree, inherited(above, S_IFREG)))
        result = -ENOSPC;
    char *acl = result == 0 ? default_acl(upper, parent, &acl_len) : NULL;
    if (result == 0 && above->mode & S_ISGID)
        m.gid = above->gid;
    unlock(upper);
    m.mode = S_IFREG | (mode & 07777 & ~(acl ? 0 : who->umask));
    uint32_t bits = is_marked(upper, m.mode) ? m.mode & IMG_SET_ID_BITS : 0;
    m.mode &= ~bits;
    if (result == 0 && !upper->options.owners &&
        (m.uid != upper->uid || m.gid != upper->gid || (m.mode & 0600) != 0600 || bits))
        result = -EOPNOTSUPP;
    if (result == 0) {
        img_stage_name(upper, stage);
        m.fd = acl ? open_inheriting(upper, stage, m.mode, acl, acl_len)
                   : openat(m.dir, stage, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, m.mode & 07777);
        result = m.fd >= 0 ? 0 : acl ? m.fd : -errno;
    }
    free(acl);
    if (result < 0)
        return result;
    if (fstat(m.fd, &m.st) < 0)
        result = -errno;
    if (acl_len) /* the ACL has decided the rwx bits */
        m.mode = (m.st.st_mode & ~07000u) | (m.mode & 07000);
    if (result == 0)
        result = give_owner_and_mode(&m);
    if (result == 0 && bits)
        result = give_bits(upper, m.fd, m.mode, bits);
    if (result == 0)
        result = adopt_nameless(upper, stage, m.fd, bits, out);
    if (result < 0)
        unmake(upper, &m);
    else
        img_upper_keep(upper, *out, m.fd);
    return result;
}

/* ---- with a name -------------------------------------------------------------------------- */

int img_make(img_upper *upper, img_id parent, const char *name, size_t len, const img_new *what,
             const img_maker *who, img_id *out) {
    img_named at;
    making m;
    struct stat above;
    bool direct = false;
    lock_read(upper);
    int result = img_find_named(upper, parent, name, len, &at);
    if (result == 0)
        result = plan(upper, &at, what, who, &m, &direct);
    unlock(upper);
    if (result != 0)
        return result;
    int dir = img_upper_pin(upper, parent);
    if (dir < 0)
        return dir;
    result = make_at(upper, &at, dir, &m, direct);
    if (result == 0) {
        if (fstat(dir, &above) < 0) {
            result = -errno;
        } else {
            lock_write(upper);
            result = adopt(upper, &at, &m, &above, out);
            unlock(upper);
        }
        if (result < 0)
            unmake(upper, &m);
        else if (S_ISREG(m.mode))
            img_upper_keep(upper, *out, m.fd);
        else
            close_object(&m);
    }
    img_upper_unpin(upper, parent);
    return result;
}
