/* fastname.h: requests that change names, attributes and xattrs. */
#ifndef IMG_FASTNAME_H
#define IMG_FASTNAME_H

#include "fast/fast.h"

fast_handler fast_create, fast_mknod, fast_mkdir, fast_symlink, fast_link, fast_tmpfile,
    fast_unlink, fast_rmdir, fast_rename, fast_rename2, fast_setattr, fast_setxattr,
    fast_removexattr;

#endif
