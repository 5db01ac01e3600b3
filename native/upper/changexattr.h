/* changexattr.h: sets and removes xattrs (rules: change.h). */
#ifndef IMG_CHANGEXATTR_H
#define IMG_CHANGEXATTR_H

#include "upper/change.h"
#include "upper/upperdir.h"

/* setxattr(2) with flags XATTR_CREATE and XATTR_REPLACE; with value NULL removexattr(2).
 * An ACL changes the mode too, to what the object then has; with kill it also takes the set-gid bit
 * (FUSE_SETXATTR_ACL_KILL_SGID).
 * -EEXIST, -ENOSPC (img_tree_has_room), the errors of img_no_such_xattr, and those of the upper.
 * Declined: the node is not in the upper (then *copy_up is true); it has no name and no object; the
 * upper cannot store owners. */
int img_set_xattr(img_upper *upper, img_id id, const char *name, size_t len, const char *value,
                  size_t value_len, int flags, bool kill, bool *copy_up);

/* The answer to who asks for an xattr that is not there, as on ext4: -ENODATA, -EOPNOTSUPP for a
 * name in no namespace of xattr(7), -EINVAL for a namespace with nothing behind it. */
int img_no_such_xattr(const char *name);

#endif
