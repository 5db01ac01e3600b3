/* changexattr.h: sets and removes xattrs (rules: change.h). */
#ifndef IMG_CHANGEXATTR_H
#define IMG_CHANGEXATTR_H

#include "upper/change.h"
#include "upper/upperdir.h"

/* setxattr(2) with flags XATTR_CREATE and XATTR_REPLACE; with value NULL removexattr(2).
 * An ACL changes the mode too, to what the object then has; with kill it also takes the set-gid bit
 * (FUSE_SETXATTR_ACL_KILL_SGID).
 * -EEXIST, -ENODATA, -EOPNOTSUPP (no name as xattr(7) has them), and the errors of the upper.
 * Declined: the node is not in the upper (then *copy_up is true); it has no name and no object; the
 * upper cannot store owners. */
int img_set_xattr(img_upper *upper, img_id id, const char *name, size_t len, const char *value,
                  size_t value_len, int flags, bool kill, bool *copy_up);

/* Whether the name begins with a namespace of xattr(7) ("Extended attribute namespaces") and goes
 * on behind it. For other names the answer is -EOPNOTSUPP. */
bool img_is_xattr_name(const char *name);

#endif
