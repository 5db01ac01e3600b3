/* mergedir.h: a directory layer onto a tree, as overlayfs stacks directories.
 *
 * merge.h has what a tar can hold: members in any order, given twice, beneath symlinks.  A
 * directory has none of that, so its entries go over what is below one after another; and it has
 * what no tar has:
 *
 *  - a directory whose redirect names another one of the layers below merges with that one, which
 *    leaves its old place (where overlayfs' own layers have a whiteout);
 *  - a metacopy is a file with attributes of this layer and the contents of the file that the
 * layers below have under its name, or its redirect.  Where those have none, reading it is EIO.
 *
 * All such names mean the layers below as they were before this layer.  A redirect that names
 * nothing leaves a directory with what this layer has in it.
 * Source: kernel Documentation/filesystems/overlayfs.rst, fs/overlayfs/namei.c.
 */
#ifndef IMG_MERGEDIR_H
#define IMG_MERGEDIR_H

#include "tree/tree.h"

/* W. index is of dirscan.h, fd the directory it was made from; both are borrowed and must outlive
 * the tree. After an error the tree is only fit to be freed. E2BIG, ENOMEM. */
int img_tree_add_directory(img_tree *tree, const img_index *index, int fd, img_error *err);

#endif
