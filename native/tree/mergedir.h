/* mergedir.h: adds a directory layer to a tree, as overlayfs stacks directories.
 *
 * A tar (merge.h) may have members in any order, several of one name, and members below symlinks. A
 * directory has none of these, so its entries are applied one after another, in their order.  But a
 * directory layer has marks that no tar has:
 *
 *  - A directory with a redirect merges with the directory of the layers below that the redirect
 *    names, and that directory loses its old name.  (A layer that overlayfs wrote has a whiteout
 *    there.)  If the redirect names no directory, the directory has only the names of this layer.
 *  - A metacopy is a file with the attributes of this layer and the contents of a file of the
 *    layers below.  This file has the same path, or the path of the redirect.  If there is no such
 *    file, reading the metacopy gives EIO.
 *
 * All these paths mean the layers below as they were before this layer.
 * Source: kernel Documentation/filesystems/overlayfs.rst, fs/overlayfs/namei.c.
 */
#ifndef IMG_MERGEDIR_H
#define IMG_MERGEDIR_H

#include "tree/tree.h"

/* W. index is from dirscan.h, fd is the directory that was scanned; both are borrowed and must
 * outlive the tree.  After an error the tree can only be freed.  E2BIG, ENOMEM, EINTR. */
int img_tree_add_directory(img_tree *tree, const img_index *index, int fd, img_error *err);

#endif
