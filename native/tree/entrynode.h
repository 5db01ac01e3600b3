/* entrynode.h: from an entry of an index to a node of the tree, for merge.c and mergedir.c.
 *
 * The node has no name yet.  What it points to is the index's, which outlives the tree.
 */
#ifndef IMG_ENTRYNODE_H
#define IMG_ENTRYNODE_H

#include "tree/tree.h"

img_attributes img_entry_attributes(const img_entry *entry);
/* Bytes of its packed xattr records, which stand at pool + entry->xattrs. */
uint32_t img_entry_xattr_bytes(const img_index *index, const img_entry *entry);

/* W. A new node for the entry (no hardlink, no whiteout); 0 when memory is short. */
img_id img_entry_new_node(img_tree *tree, const img_index *index, const img_entry *entry,
                          uint16_t layer);

/* W. A directory takes over attributes and xattrs of that layer; xattrs are borrowed. */
void img_set_directory(img_tree *tree, img_node *node, const img_attributes *attributes,
                       uint16_t layer, const char *xattrs, uint32_t xattr_bytes);

#endif
