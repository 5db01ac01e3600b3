/* entrynode.h: makes a node of the tree from an entry of an index, for merge.c and mergedir.c.
 *
 * The node has no name yet.  It points into the index, which outlives the tree.
 */
#ifndef IMG_ENTRYNODE_H
#define IMG_ENTRYNODE_H

#include "tree/tree.h"

img_attributes img_entry_attributes(const img_entry *entry);
/* The number of bytes of the entry's xattr records, which begin at pool + entry->xattrs. */
uint32_t img_entry_xattr_bytes(const img_index *index, const img_entry *entry);

/* W. A new node for an entry that is no hardlink and no whiteout; 0: out of memory. */
img_id img_entry_new_node(img_tree *tree, const img_index *index, const img_entry *entry,
                          uint16_t layer);

/* W. Gives a directory the attributes and xattrs of a layer.  The xattrs are not copied. */
void img_set_directory(img_tree *tree, img_node *node, const img_attributes *attributes,
                       uint16_t layer, const char *xattrs, uint32_t xattr_bytes);

#endif
