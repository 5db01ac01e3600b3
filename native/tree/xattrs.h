/* xattrs.h: the xattrs of a node: packed records, as tree.h describes them. */
#ifndef IMG_XATTRS_H
#define IMG_XATTRS_H

#include "tree/tree.h"

/* R. The value of an xattr; NULL when there is none. */
const char *img_node_xattr(const img_node *node, const char *name, size_t len, uint32_t *value_len);
/* R. By how many bytes setting that xattr lets the tree's own values grow (img_tree_has_room). */
uint64_t img_tree_xattr_growth(const img_node *node, const char *name, size_t len,
                               size_t value_len);
/* W. Sets (value non-NULL) or removes an xattr. -ENODATA, -ENOMEM, -ENOSPC. */
int img_tree_set_xattr(img_tree *tree, img_node *node, const char *name, size_t len,
                       const char *value, size_t value_len);
/* W. Replaces all xattrs by packed records, borrowed (from an index) or copied. */
int img_tree_replace_xattrs(img_tree *tree, img_node *node, const char *records, size_t bytes,
                            bool copy);

#endif
