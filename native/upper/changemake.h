/* changemake.h: makes objects in the upper, and their nodes (rules: change.h). */
#ifndef IMG_CHANGEMAKE_H
#define IMG_CHANGEMAKE_H

#include "upper/change.h"
#include "upper/upperdir.h"

typedef struct img_maker {
    uint32_t uid, gid; /* of the caller */
    uint32_t umask;    /* applied unless the directory has a default ACL (then: declined) */
} img_maker;

typedef struct img_new {
    uint32_t mode; /* with its type */
    uint64_t rdev;
    const char *target; /* of a symlink */
    size_t target_len;
} img_new;

/* Makes an object and its node. In a set-gid directory the object gets the directory's group, and a
 * directory also gets the set-gid bit.
 * -EEXIST, -ENOENT (the directory was removed), -EROFS, -ENAMETOOLONG (over 255), -ENOSPC
 * (img_tree_has_room).
 * Declined:
 *     - the directory is not in the upper, or it has a default ACL;
 *     - a directory under a name that the layers have;
 *     - an owner or mode that the upper cannot store;
 *     - a device that the upper cannot store, and 0:0, which would be a whiteout;
 *     - set-id bits and devices that are kept in marks (harmless.h). */
int img_make(img_upper *upper, img_id parent, const char *name, size_t len, const img_new *what,
             const img_maker *who, img_id *out);

/* Makes a regular file without a name, as open(2) with O_TMPFILE does. The file is an orphan until
 * img_link gives it a name. The node has no lookup yet: the caller counts one (img_tree_remember)
 * before a forget can arrive. A default ACL is inherited. Nothing is declined, because Python has
 * no handler for this: an owner that the upper cannot store is -EOPNOTSUPP. */
int img_make_nameless(img_upper *upper, img_id parent, uint32_t mode, const img_maker *who,
                      img_id *out);

#endif
