/* changeattr.h: sets mode, owner, size and times (rules: change.h). */
#ifndef IMG_CHANGEATTR_H
#define IMG_CHANGEATTR_H

#include "upper/caller.h"
#include "upper/change.h"
#include "upper/upperdir.h"

enum {
    IMG_SET_MODE = 1,
    IMG_SET_UID = 2,
    IMG_SET_GID = 4,
    IMG_SET_SIZE = 8,
    IMG_SET_ATIME = 16,
    IMG_SET_MTIME = 32,
    IMG_SET_ATIME_NOW = 64,
    IMG_SET_MTIME_NOW = 128,
    IMG_SET_CTIME = 256,    /* of a regular file, in the tree only: no system call sets a ctime */
    IMG_KILL_SUIDGID = 512, /* FUSE_HANDLE_KILLPRIV_V2: the kernel asks to take set-id bits */
    IMG_SAME_OWNER = 1024   /* chown(2) to the present owner, if `caller` may do that */
};

typedef struct img_set {
    unsigned what;
    uint32_t mode, uid, gid; /* mode: the 07777 bits */
    img_caller caller;       /* of a chown, IMG_KILL_SUIDGID and IMG_SAME_OWNER; uid 0 may do all */
    uint64_t size;
    int64_t atime_s, mtime_s, ctime_s;
    uint32_t atime_ns, mtime_ns, ctime_ns;
} img_set;

/* chmod, chown, truncate, utimens of a node in the upper.
 * A chown or a truncate always takes security.capability.  A chown takes set-id bits, and so does a
 * truncate with IMG_KILL_SUIDGID.  Both are taken before the rest of the change, real or in marks
 * (harmless.h).
 * A change to the present values succeeds at once, also for a file of the layers: after unlink and
 * link the kernel sends the mtime that the file has.  A node without names that has no object is
 * changed in the tree only.
 * -EROFS, -EINVAL (a size, but no regular file).
 * Declined: the node is not in the upper; a size while its data are a layer's; mode if it has an
 * ACL; mode or owner if the upper cannot store owners. */
int img_setattr(img_upper *upper, img_id id, const img_set *set);

#endif
