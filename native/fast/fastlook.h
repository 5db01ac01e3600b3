/* fastlook.h: requests that only read: names, attributes, listings, links, xattrs, statfs. */
#ifndef IMG_FASTLOOK_H
#define IMG_FASTLOOK_H

#include "fast/fast.h"

fast_handler fast_lookup, fast_forget, fast_batch_forget, fast_getattr, fast_statx, fast_access,
    fast_statfs, fast_readlink, fast_readdir, fast_readdirplus, fast_getxattr, fast_listxattr;

/* R, unless the node is remembered already. Counts one lookup more of the node (img_tree_remember)
 * and fills the entry. -ESTALE */
int fast_entry(fast_request *req, img_id id, struct fuse_entry_out *entry);

#endif
