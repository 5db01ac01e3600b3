/* changeinner.h: steps that the changes of this room have in common; no other room includes it. */
#ifndef IMG_CHANGEINNER_H
#define IMG_CHANGEINNER_H

#include "upper/change.h"
#include "upper/upperdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define IMG_NAME_BYTES (IMG_NAME_MAX + 1)
#define IMG_STAGE_BYTES 28
#define IMG_ACL_DEFAULT "system.posix_acl_default"
#define IMG_CAPABILITY "security.capability"

/* A name in a directory, as the tree has it.  It does not change while `change` is held. */
typedef struct img_named {
    char name[IMG_NAME_BYTES];
    img_id parent;
    uint32_t dentry;
    img_id node;  /* 0: the name is free */
    bool lower;   /* the layers have the name; then with node 0 there is a whiteout */
    bool gone;    /* the directory was removed, and is still open */
    bool reached; /* the directory is in the upper */
} img_named;

/* R. Looks a name up and fills *out. 0, or -EROFS, -ENAMETOOLONG, -EINVAL, -ESTALE, -ENOTDIR. */
int img_find_named(const img_upper *upper, img_id parent, const char *name, size_t len,
                   img_named *out);

/* `change` held. A name in the work directory that is not in use; out has IMG_STAGE_BYTES. */
void img_stage_name(img_upper *upper, char *out);
/* The same, for an object that comes out of the upper: if a crash leaves it there, and it may be
 * another's, the next start keeps it (rootfs/staging.py). */
void img_out_name(img_upper *upper, char *out);

/* Moves the object at a name to `out` in the work directory.  flags: RENAME_WHITEOUT or 0.
 * -EIO: it was another object than `is`; it is put back, at its name or beside it
 * (IMG_PUT_BACK_MAX names are tried).  If others prevent this, it gets a name of
 * img_out_name in the work directory. */
int img_take_out(img_upper *upper, int dir, const char *name, img_identity is, const char *out,
                 unsigned flags);

#define IMG_PUT_BACK_MAX 64 /* names that users may have taken */

/* While a thread sets or restores a file's times it holds this lock.
 *
 * The kernel caches writes, so it keeps the mtime of a regular file itself.  The kernel sends
 * this mtime by SETATTR, but only if it differs from the mtime that the kernel was given.  So a
 * write to the object in the upper must leave the object's mtime as it was: after the write, the
 * mtime is set back. */
static inline pthread_mutex_t *img_times_lock(img_upper *upper, img_id id) {
    return &upper->times[id % (sizeof upper->times / sizeof upper->times[0])];
}

/* W. The node gets the object's mtime and ctime. */
void img_change_times(img_node *node, const struct stat *st);

/* R. Whether the node has the xattr. */
bool img_change_has_xattr(const img_node *node, const char *name);

static inline void lock_read(img_upper *upper) {
    (void)pthread_rwlock_rdlock(&upper->tree->lock);
}

static inline void lock_write(img_upper *upper) {
    (void)pthread_rwlock_wrlock(&upper->tree->lock);
}

static inline void unlock(img_upper *upper) {
    (void)pthread_rwlock_unlock(&upper->tree->lock);
}

/* Of a name in dir, or of dir itself (name ""). */
static inline int stat_of(int dir, const char *name, struct stat *st) {
    return fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static inline int rename_to(int from, const char *name, int to, const char *new_name,
                            unsigned flags) {
    return renameat2(from, name, to, new_name, flags) < 0 ? -errno : 0;
}

#endif
